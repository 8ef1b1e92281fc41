"""Exit codes, and the exception that carries one."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
WORKERS_CANNOT_START: Final = 3
CODE_CANNOT_LOAD: Final = 4
INTERRUPTED: Final = 130  # as a shell reports a death by SIGINT


class Failure(Exception):
    """A command cannot go on: the message for the user, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
