"""Record the surface of the package that is imported, under its version.

`python -m tests.surface` writes the record; with --check it writes nothing, and exits with 1 when
the record is not what it would write, as the release workflow asks.
"""

from __future__ import annotations

import sys

from tests.surface.collected import collect, version
from tests.surface.recorded import path_of, text


def main(arguments: list[str]) -> int:
    """Write or check the record; return the exit code."""
    path, now = path_of(version()), text(collect())
    if arguments != ["--check"]:
        path.write_text(now)
        return 0
    if path.is_file() and path.read_text() == now:
        return 0
    print(f"{path} is not the surface of this code: make surface, and look at what has changed")
    return 1


sys.exit(main(sys.argv[1:]))
