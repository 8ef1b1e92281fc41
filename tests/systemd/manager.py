"""A stand-in for the service manager: it hears what a server tells it, and keeps what it stores."""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid
_MOST_DESCRIPTORS: Final = 253
_END: Final = b"END=1"


@dataclass(frozen=True, slots=True)
class Notice:
    """One datagram: its words, and the process that the kernel says has sent it."""

    words: dict[str, str]
    pid: int
    descriptors: int = 0


class Manager:
    """A notification socket as sd_notify(3) describes the manager's, as a context manager.

    abstract: whether it has a name of Linux's own instead of a path.  `store` is what it was told
    to keep, by name.
    """

    def __init__(self, directory: Path, *, abstract: bool = False) -> None:
        self.notices: list[Notice] = []
        self.store: dict[str, int] = {}
        path = str(directory / "notify.sock")
        self.address = f"@{path}" if abstract else path
        self._name = f"\0{path}" if abstract else path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self._name)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="manager", daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(_END, self._name)
        self._reader.join(10.0)
        self._sock.close()
        for fd in self.store.values():
            os.close(fd)

    def mark(self) -> int:
        """Return where the notices now are, for the `since` of the others."""
        return len(self.notices)

    def find(self, since: int = 0, **words: str) -> list[Notice]:
        """Return the notices with these words, from the index `since` on."""
        return [one for one in self.notices[since:] if words.items() <= one.words.items()]

    def wait(self, *, since: int = 0, count: int = 1, within: float = 20.0, **words: str) -> Notice:
        """Wait for the `count`-th notice with these words and return it.  Raises TimeoutError."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.find(since, **words)) >= count, within)
        found = self.find(since, **words)
        if len(found) < count:
            heard = [notice.words for notice in self.notices]
            raise TimeoutError(f"no {words} within {within} s; heard {heard}")
        return found[count - 1]

    def wait_stored(self, reached: Callable[[Collection[str]], bool], what: str) -> None:
        """Wait until the names of what is stored are as wanted.  Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: reached(self.store.keys()), 20.0):
                raise TimeoutError(f"{what}; stored: {sorted(self.store)}")

    def _keep(self, words: dict[str, str], descriptors: list[int]) -> None:
        name = words.get("FDNAME", "")
        if "FDSTORE" in words:
            (fd,) = descriptors
            assert words["FDPOLL"] == "0"
            assert 0 < len(name) <= 255
            assert name.isascii()
            assert name.isprintable()
            assert ":" not in name
            assert name not in self.store, "as the real one, it would keep what it has"
            self.store[name] = fd
        elif "FDSTOREREMOVE" in words:
            os.close(self.store.pop(name))

    def _read(self) -> None:
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
        while True:
            data, ancillary, _, _ = self._sock.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
            if data == _END:
                return
            pid, descriptors = 0, array.array("i")
            for _, kind, content in ancillary:
                if kind == socket.SCM_CREDENTIALS:
                    pid = _CREDENTIALS.unpack(content)[0]
                elif kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content)
            words = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            with self._changed:
                self.notices.append(Notice(words, pid, len(descriptors)))
                self._keep(words, list(descriptors))
                self._changed.notify_all()
