"""A control server that answers what a test tells it to."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def done(result: Any = None, exit_code: int = 0, error: str | None = None) -> bytes:
    """Return the line that ends a command."""
    answer = {"event": "done", "exit": exit_code, "result": result, "error": error}
    return json.dumps(answer).encode() + b"\n"


def progress(text: str) -> bytes:
    """Return a line of progress."""
    return json.dumps({"event": "progress", "text": text}).encode() + b"\n"


class FakeServer:
    """Listens at `path` in a thread, records requests, and answers each with `pieces`.

    Each piece is sent by itself; then the connection is closed, or, with `hangs`, kept open
    until the server is left.
    """

    def __init__(self, path: Path, pieces: Iterable[bytes] = (), *, hangs: bool = False) -> None:
        self.path = path
        self.pieces = list(pieces)
        self.requests: list[Any] = []
        self._hangs = hangs
        self._left = threading.Event()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, name=f"fake {self.path.name}")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    continue  # only looked whether somebody listens
                self.requests.append(json.loads(line))
                for piece in self.pieces:
                    connection.sendall(piece)
                if self._hangs:
                    self._left.wait()
