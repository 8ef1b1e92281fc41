"""The import path: what is ours is found before the application's files, and TARGET the other way.

With files named like standard modules beside it (`token.py`, `types.py`) an application can do
without; a server that loaded them for its own would not start, or run them in its keeper.

Imports nothing that such a file could stand for: `os` and `sys` are there before any path is.
"""

import os
import sys

_STANDARD = os.path.dirname(os.__file__)
_ZIP = f"python{sys.version_info.major}{sys.version_info.minor}.zip"


def ours_first() -> None:
    """Move what stands before the standard library on the import path behind everything else.

    That is the directory that `python -m` adds, and PYTHONPATH.  Behind, and not away: the package
    itself may have been found there.
    """
    for number, each in enumerate(sys.path):
        if each == _STANDARD or os.path.basename(each) == _ZIP:
            sys.path[:] = sys.path[number:] + sys.path[:number]
            return


def application_first(directory: str) -> list[str]:
    """Put `directory` and then PYTHONPATH before everything else, as `python FILE` has them.

    Returns these.
    """
    named = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    first = [directory]
    for text in named.split(os.pathsep):
        entry = os.path.abspath(text) if text else ""
        if entry in sys.path and entry not in first:
            first.append(entry)
    sys.path[:] = first + [entry for entry in sys.path if entry not in first]
    return first


def standard_path() -> list[str]:
    """Return the entries of the import path that are the standard library's."""
    return [each for each in sys.path if is_standard(each) or os.path.basename(each) == _ZIP]


def is_standard(path: str) -> bool:
    """Tell whether a file or directory belongs to the standard library."""
    if not (path + os.sep).startswith(_STANDARD + os.sep):
        return False
    within = path[len(_STANDARD) :]
    return not within.startswith((f"{os.sep}site-packages", f"{os.sep}dist-packages"))
