"""One epoll for all that an edge relays, and the edge's reactor as one descriptor.

Not the other way round: the system would then tell two epolls of all bytes that come.

Its twin in C (`_native/relay_loop.c`) moves the bytes of a whole round without a frame of Python's
in between.  It is edge-triggered, as a flow needs it: an event that is dropped does not come again,
so that what a call raises ends nothing but that call.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from socketkeep import _native
from socketkeep._edge._flow import Flow

_EVENTS: Final = (
    select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET  # HUP and ERR come anyway
)
#: Of the worker's side: how it has ended is not for who moves bytes.
_GONE: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
#: How many are served before the edge's other descriptors get their turn.
_AT_ONCE: Final = 256


class RelayLoop:
    """Calls back when a descriptor is ready, or moves what can be moved where it is a flow's.

    moved: called with a flow's owner, and whether there is more to be moved, when there is or when
    the flow is over.  failed: called with what a call has raised.
    """

    def __init__(
        self, moved: Callable[[Any, bool], None], failed: Callable[[Exception], object]
    ) -> None:
        self._moved = moved
        self._failed = failed
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._flows: dict[int, tuple[Flow, Any]] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()
        self._callbacks.clear()
        self._flows.clear()

    def watch(self, fd: int, callback: Callable[[int], None], room: bool = True, /) -> None:
        """Call back with the events of a descriptor.  Raises OSError.

        room: that it has some is one; the twin hears of none of a flow's plain end while it has.
        """
        self._epoll.register(fd, _EVENTS)
        self._callbacks[fd] = callback

    def watch_reactor(self, fd: int) -> None:
        """Wait no longer when something is ready in another epoll.  Raises OSError."""
        self._epoll.register(fd, select.EPOLLIN)

    def carry(self, flow: Flow, owner: object) -> None:
        """Move what a flow's sides are ready for, which both are watched.

        The callback of its plain end is still called when nobody has the other end any more, or
        that says no more.
        """
        for sock in (flow.sock, flow.plain):
            self._flows[sock.fileno()] = flow, owner

    def forget(self, fd: int) -> None:
        """Watch a descriptor no more.  To be called before it is closed."""
        self._flows.pop(fd, None)
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def run(self, timeout: float | None = 0.0) -> None:
        """Wait up to `timeout` seconds (None: without bound), and serve what is ready."""
        for fd, events in self._epoll.poll(timeout, _AT_ONCE):
            callback = self._callbacks.get(fd)
            if callback is None:
                continue  # one of those before has ended it
            try:
                found = self._flows.get(fd)
                if found is None or (events & _GONE and fd == found[0].plain.fileno()):
                    callback(events)
                else:
                    self._move(*found, fd, events)
            except Exception as error:
                self._failed(error)

    def _move(self, flow: Flow, owner: object, fd: int, events: int) -> None:
        if fd == flow.sock.fileno():
            flow.note_client(events)
        else:
            flow.note_plain(events)
        more = flow.go_on()
        if more or flow.over:
            self._moved(owner, more)


if TYPE_CHECKING:
    make_relay_loop = RelayLoop
else:
    make_relay_loop = _native.compiled_or(RelayLoop, "RelayLoop")
