"""`guard_forks`: forked children let go of the program's plain sockets too.

A plain socket does not ask to be watched, so its class is made to tell of each that is made:
`socket.socket.__init__` is replaced, which accept, socketpair, dup, ssl and asyncio all come by.
Those that were there before are looked up once among the objects of the garbage collector.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterable
from functools import wraps
from typing import Any, Final, Self
from weakref import WeakSet

from socketkeep._base._forking import guard, is_guarded, unguard

#: What was in place when the first guard began; not always the standard's own.
_replaced: Final[list[Any]] = [socket.socket.__init__]
_active: Final[list[Guard]] = []


class Guard:
    """A guard that `guard_forks` began; a ``with`` block, or `stop`, ends it."""

    def __init__(self, exempt: Iterable[socket.socket]) -> None:
        self._exempt: WeakSet[socket.socket] = WeakSet(exempt)
        self._watched: WeakSet[socket.socket] = WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def exempt(self, sock: socket.socket) -> None:
        """Leave `sock` to the children of forks from here on."""
        self._exempt.add(sock)
        if sock in self._watched:
            self._watched.discard(sock)
            _unguard_unless_watched(sock)

    def stop(self) -> None:
        """Guard no more: children inherit again, unless another guard is active.

        May be called again.
        """
        if self not in _active:
            return
        _active.remove(self)
        if not _active and socket.socket.__init__ is _telling_init:
            _set_init(_replaced[0])
        watched, self._watched = self._watched, WeakSet()
        for sock in watched:
            _unguard_unless_watched(sock)

    def _start(self) -> None:
        if not _active:
            _replaced[0] = socket.socket.__init__
            _set_init(_telling_init)
        _active.append(self)
        # Only what is a socket to the collector: isinstance would ask proxies for their class.
        for found in gc.get_objects():
            if issubclass(type(found), socket.socket) and found.fileno() >= 0:
                self._watch(found)

    def _watch(self, sock: socket.socket) -> None:
        if sock in self._exempt or is_guarded(sock):
            return  # guarded by itself or by an earlier guard, whose it stays
        self._watched.add(sock)
        guard(sock)


def guard_forks(*, exempt: Iterable[socket.socket] = ()) -> Guard:
    """Have forked children let go of plain `socket.socket` objects, as of the library's own.

    Of those that are open now and those that are made later, ssl's included.  In the child the
    object is closed (EBADF); the parent, and the peer, notice nothing.  It is for a ``with`` block
    or, where the result is not used so, for good.

    It costs a microsecond a socket, and once a walk over the collector's objects.  Not promised:
    sockets that are no `socket.socket` object (uvloop's, those of C libraries such as database
    drivers, bare descriptors) are not seen, nor those frozen by gc.freeze() before; and a
    `subprocess` with preexec_fn cannot be passed a guarded socket, for its fork is one like others.
    Programs executed otherwise get a socket by ``pass_fds`` as ever.

    Args:
        exempt: Sockets that the children keep.  `Guard.exempt` adds one later, and
            `socketkeep.fork` gives one to one child.
    """
    made = Guard(exempt)
    made._start()
    return made


def _unguard_unless_watched(sock: socket.socket) -> None:
    for other in _active:
        if sock not in other._exempt and sock.fileno() >= 0:
            other._watched.add(sock)
            return
    unguard(sock)


def _set_init(init: object) -> None:
    # By `type`, for a type checker takes a method for a constant.
    type.__setattr__(socket.socket, "__init__", init)


@wraps(socket.socket.__init__)
def _telling_init(self: socket.socket, *args: Any, **kwargs: Any) -> None:
    _replaced[0](self, *args, **kwargs)
    for active in _active:
        active._watch(self)
