"""Files of the application that are named like modules of the standard library, or like ours.

`token.py` beside the handler must not be what `tokenize` gets, nor `uvloop.py` what the server
gets.  The application's own imports find its own files first, as they do under `python FILE`; but
for what was loaded before it, for a name has one module in a process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Final

from socketkeep._base._importing import is_standard, standard_path

_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_IMPORTERS: Final = ("<frozen importlib", f"{os.sep}importlib{os.sep}__init__.py")


class Names:
    """Finds modules by who asks: stands first in `sys.meta_path`.

    application: directories of the import path that are the application's.
    target: the module that is loaded for it now, whoever asks; "" for none.
    """

    def __init__(self, application: Sequence[str]) -> None:
        self._application = frozenset(application)
        both = {*application, *map(os.path.realpath, application)}
        self._roots = tuple(root.rstrip(os.sep) + os.sep for root in both)
        self.target = ""

    def install(self) -> None:
        """Be asked before others, in place of an earlier one."""
        sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, Names)]
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module that is meant; None leaves it to the import path as it is."""
        if path is not None or name == self.target:
            return None
        asker = _asker(sys._getframe(1))
        if asker.startswith(_OURS):
            rest = [each for each in sys.path if each not in self._application]
            return PathFinder.find_spec(name, rest)
        if name in sys.stdlib_module_names and not self._is_application(asker):
            return PathFinder.find_spec(name, standard_path())
        return None

    def passed_over(self) -> list[str]:
        """Return the application's files that no import finds: another module has the name."""
        found = []
        for directory in self._application:
            try:
                entries = os.listdir(directory)
            except OSError:
                continue
            for entry in entries:
                name, suffix = os.path.splitext(entry)
                module = sys.modules.get(name)
                if suffix == ".py" and name in sys.stdlib_module_names and module is not None:
                    file = getattr(module, "__file__", None) or ""
                    if not file.startswith(self._roots) or is_standard(file):
                        found.append(os.path.join(directory, entry))
        return sorted(found)

    def _is_application(self, file: str) -> bool:
        return file.startswith(self._roots) and not (
            is_standard(file) or f"{os.sep}site-packages{os.sep}" in file
        )


def _asker(frame: FrameType | None) -> str:
    """Return the file whose code has the import statement."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_IMPORTERS[0]) and not file.endswith(_IMPORTERS[1]):
            return file
        frame = frame.f_back
    return ""
