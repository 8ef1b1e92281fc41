"""``python -m socketkeep._admin._successor``: this version takes over from the one that runs.

The keeper of another version executes this with the descriptor of its state; before that, in a
child and with ``--check``, to see that it can be done.  The name and the arguments must stay.
"""

from __future__ import annotations

from socketkeep._base._importing import ours_first

if __name__ == "__main__":
    ours_first()

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path

import socketkeep
from socketkeep._admin._server import ServeFailure, resume
from socketkeep._base._printable import printable_lines
from socketkeep._keeper.tables._state import StateError, read_state


def main(arguments: Sequence[str]) -> int:
    """Run as the module; return the exit code."""
    *flags, number = arguments
    fd = int(number)
    try:
        if flags == ["--check"]:
            read_state(fd)
            _load_all()
            return 0
        state = read_state(fd)
        os.close(fd)
        resume(state)
    except StateError as error:
        sys.stderr.write(f"{printable_lines(str(error))}\n")
        return 1
    except ServeFailure as failure:
        sys.stderr.write(f"socketkeep: error: {printable_lines(failure.text)}\n")
        return failure.exit_code
    return 0


def _load_all() -> None:
    """Raise what a module of this version would raise that the server imports late, or not here."""
    for path in sorted(Path(socketkeep.__file__).parent.rglob("*.py")):
        SourceFileLoader(path.stem, str(path)).get_code(path.stem)  # from the cache, where it is
    for part in ("_edge", "_keeper", "_wire", "_worker"):
        package = importlib.import_module(f"socketkeep.{part}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
