"""`python -m tests.keeper.traced FILE ARGUMENT...`: `socketkeep`, its packets in a trace."""

from __future__ import annotations

import sys
from pathlib import Path
from runpy import run_module

from tests.keeper.traces import traced

if __name__ == "__main__":
    with (
        Path(sys.argv.pop(1)).open("a", buffering=1) as file,
        traced(lambda line: file.write(line + "\n")),
    ):
        run_module("socketkeep", run_name="__main__")
