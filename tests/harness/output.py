"""The output of a program, read as it comes: a test waits for a word of it."""

from __future__ import annotations

import threading
from typing import IO


class Output:
    """Reads a pipe to its end, in a thread."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._text = ""
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that has come so far."""
        return self._text

    def wait_for(self, word: str, timeout: float = 30.0) -> None:
        """Wait until this has come; raises AssertionError, with all that has, where it does not."""
        with self._changed:
            self._changed.wait_for(lambda: word in self._text or self._ended, timeout)
        assert word in self._text, f"no {word!r} in:\n{self._text}"

    def close(self) -> None:
        """Wait for the end, which is when no process has the pipe any more."""
        self._reader.join(10.0)
        self._pipe.close()

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self._text += line.decode(errors="replace")
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
