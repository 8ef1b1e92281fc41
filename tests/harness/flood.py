"""A peer that sends without pause, whether or not it is answered."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Final, Self

from tests.harness.peers import connect

_AT_ONCE: Final = 500


class Flood:
    """One connection with a thread that sends numbered lines and one that checks the replies."""

    def __init__(self, address: str) -> None:
        self._sock = connect(address, timeout=30.0)
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._version = ""
        self._sent = 0
        self._answered = 0
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._hear)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if error is not None:
            self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._sock.close()

    def wait_version(self, version: str, timeout: float = 20.0) -> None:
        """Wait for a reply from code of `version`; raises TimeoutError."""
        with self._changed:
            reached = self._changed.wait_for(
                lambda: self._version == version or self._failure is not None, timeout
            )
        if self._failure is not None:
            raise self._failure
        if not reached:
            raise TimeoutError(f"no reply of {version} within {timeout} s, but of {self._version}")

    def finish(self) -> tuple[int, int]:
        """Stop sending, wait for the replies; return how many requests and how many replies."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return self._sent, self._answered

    def _send(self) -> None:
        try:
            while not self._stop.is_set():
                numbers = range(self._sent + 1, self._sent + _AT_ONCE + 1)
                self._sock.sendall(b"".join(b"%d\n" % number for number in numbers))
                self._sent += _AT_ONCE
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)

    def _hear(self) -> None:
        try:
            with self._sock.makefile("rb") as lines:
                for line in lines:
                    count, number, version = line.split()
                    self._answered += 1
                    if not int(count) == int(number) == self._answered:
                        raise AssertionError(f"reply {self._answered} is {line!r}")
                    if version.decode() != self._version:
                        with self._changed:
                            self._version = version.decode()
                            self._changed.notify_all()
        except (OSError, AssertionError) as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._stop.set()
        with self._changed:
            self._failure = error
            self._changed.notify_all()
