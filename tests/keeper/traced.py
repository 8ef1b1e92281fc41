"""`python -m tests.keeper.traced FILE ARGUMENT...`: `socketkeep`, its packets in a trace."""

from __future__ import annotations

import sys
from pathlib import Path

from socketkeep._cli import main
from tests.keeper.traces import traced

if __name__ == "__main__":
    with (
        Path(sys.argv.pop(1)).open("a", buffering=1) as file,
        traced(lambda line: file.write(line + "\n")),
    ):
        sys.exit(main())
