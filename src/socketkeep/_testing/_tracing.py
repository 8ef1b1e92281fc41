"""Tracing where sockets are opened: `socket.socket` tells of each that is made and forgotten.

By `__init__` come accept, socketpair, dup, create_connection, ssl, asyncio and this library; by
`__del__` goes a socket that nobody has closed.  An audit hook would see as much of the first, but
when there is no descriptor yet, and cannot be taken out again.
"""

from __future__ import annotations

import _socket
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

#: Frames of these are how the test was run, and how the socket module makes sockets.
_RUNNERS: Final = ("_pytest", "pluggy")
_OWN: Final = (__name__, "socket", "socketkeep._base._guarding", "socketkeep._net._socket")
_MOST_FRAMES: Final = 12


class SourceLine(NamedTuple):
    """A line of a traceback."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Opening:
    """The place where a socket was opened, innermost frame first, and the test (None: no test)."""

    owner: str | None
    frames: tuple[SourceLine, ...]


class SocketDescriptor(NamedTuple):
    """A descriptor of this process, and the inode of the socket that it was."""

    fd: int
    inode: int


class Tracer:
    """The sockets that Python has made since `install`.

    owner: for whom those are that are made now; None for nobody.  strangers: the threads whose
    sockets are nobody's, by their idents.
    """

    def __init__(self) -> None:
        self.owner: str | None = None
        self.strangers: frozenset[int] = frozenset()
        self.origins: dict[SocketDescriptor, Opening] = {}
        #: Those that were open when nobody had them any more: Python has closed them.
        self.forgotten: list[tuple[Opening, str]] = []
        self._replaced: list[Any] = []

    def install(self) -> None:
        """Begin to trace, until `remove`."""
        before = socket.socket.__init__
        tracer = self

        def traced_init(self: socket.socket, *args: Any, **kwargs: Any) -> None:
            before(self, *args, **kwargs)
            tracer._made(self)

        def traced_del(self: socket.socket) -> None:
            tracer._lost(self)
            _socket.socket.__del__(self)  # type: ignore[attr-defined]

        self._replaced = [before]
        # By `type`, for a type checker takes a method for a constant.
        type.__setattr__(socket.socket, "__init__", traced_init)
        type.__setattr__(socket.socket, "__del__", traced_del)

    def remove(self) -> None:
        """Trace no more."""
        type.__setattr__(socket.socket, "__init__", self._replaced.pop())
        type.__delattr__(socket.socket, "__del__")

    @contextmanager
    def for_nobody(self) -> Iterator[None]:
        """Sockets that are made meanwhile are no test's."""
        before, self.owner = self.owner, None
        try:
            yield
        finally:
            self.owner = before

    def keep_only(self, handles: set[SocketDescriptor]) -> None:
        """Forget where the others were opened."""
        self.origins = {handle: self.origins[handle] for handle in handles & self.origins.keys()}
        self.forgotten.clear()

    def _made(self, sock: socket.socket) -> None:
        handle = _handle(sock)
        if handle is not None:
            owner = None if threading.get_ident() in self.strangers else self.owner
            self.origins[handle] = Opening(owner, _frames())

    def _lost(self, sock: socket.socket) -> None:
        handle = _handle(sock)
        origin = None if handle is None else self.origins.get(handle)
        if handle is not None and origin is not None:
            self.forgotten.append((origin, describe(handle.fd)))


def open_handles() -> set[SocketDescriptor]:
    """Return the sockets that this process has open now, Python's and others."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor that the listing itself used
        if link.startswith("socket:["):
            found.add(SocketDescriptor(int(name), int(link[8:-1])))
    return found


def describe(fd: int) -> str:
    """Return the kind and the addresses of the socket that is the descriptor `fd`."""
    from socketkeep._base._address import format_address

    try:
        # Not the class that is traced.
        sock = _socket.socket(fileno=os.dup(fd))
    except OSError:
        return f"descriptor {fd}"
    try:
        family = socket.AddressFamily(sock.family).name.removeprefix("AF_")
        kind = socket.SocketKind(sock.type).name.removeprefix("SOCK_")
        text = f"descriptor {fd}, {family} {kind} {format_address(sock.getsockname())}"
        try:
            return f"{text} with {format_address(sock.getpeername())}"
        except OSError:
            return text
    except (OSError, ValueError):
        return f"descriptor {fd}"
    finally:
        sock.close()


def _handle(sock: socket.socket) -> SocketDescriptor | None:
    fd = sock.fileno()
    if fd < 0:
        return None
    try:
        return SocketDescriptor(fd, os.fstat(fd).st_ino)
    except OSError:
        return None  # it was closed by its number


def _frames() -> tuple[SourceLine, ...]:
    found: list[SourceLine] = []
    frame = sys._getframe(2)
    while len(found) < _MOST_FRAMES:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in _RUNNERS:
            break
        if found or module not in _OWN:
            code = frame.f_code
            found.append(SourceLine(code.co_filename, frame.f_lineno, code.co_name))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return tuple(found)
