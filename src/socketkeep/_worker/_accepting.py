"""Accepting from shared listeners: as many as are allowed, with a pause when the system is full.

The keeper tells each worker how many it may accept (`Allowance`).  All workers of a generation wait
at the same queue, and whichever runs could empty it: who serves fewer comes first (`Siblings`).
"""

from __future__ import annotations

import _socket
import contextlib
import mmap
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from socketkeep import _native
from socketkeep._base import _log
from socketkeep._base._address import format_address
from socketkeep._base._originals import Socket
from socketkeep._net._accept_errors import Exhausted, pass_over_given_up
from socketkeep._wire._messages import Seats
from socketkeep._wire._scoreboard import ACCEPTS_NO_MORE, DETACHED, REFUSED, Scoreboard
from socketkeep._worker._entry import Entry

if TYPE_CHECKING:
    from socketkeep._wire._doorkeeper import Doorkeeper

#: How long nothing is accepted once a descriptor, memory or a process was wanting, in seconds.
PAUSE: Final = 0.1

#: How long one look into the listeners' queues holds good, in seconds.
_GLANCE: Final = 0.001

#: How long a connection is left to others before this worker looks again, in seconds: the shortest
#: time that the loops can wait.
MOMENT: Final = 0.001
#: For how many moments: a process that is idle runs within them, also on a machine that is busy.
PATIENCE: Final = 10
#: By how many connections, and by which part of what the other serves, a worker may be ahead.  To
#: be level to the last one would have short connections change processes, which costs more than to
#: serve them.
LEEWAY: Final = 4

#: One for each of the most workers that a server can have.
_PLACES: Final = 1023
_WORD: Final = 8
_IN_USE: Final = 0  # the word that tells how many places have ever been taken; after it come they
_COUNT: Final = 2**32 - 1  # of a place: connections and one, 0: accepts none; above it: changes
_MASK: Final = 2**64 - 1


def defer_to_edges() -> None:
    """Have an edge on the same processor pass on all that has come before this process goes on.

    Otherwise the system may switch to this process and back for each message.  A policy that was
    chosen for the server stays, and any does where the system forbids this one.
    """
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class BadAccept(Exception):
    """One connection was taken and could not be made use of; the listener is as it was."""


class Door:
    """One listener, to be accepted from."""

    __slots__ = ("_accept", "_make", "index")

    def __init__(self, listener: socket.socket, index: int) -> None:
        self.index = index
        self._accept: Callable[[], Any]
        # What `socket.accept` asks the listener each time is asked once.
        kind = int(socket.SOCK_STREAM) | socket.SOCK_NONBLOCK  # so it is made, and need not be set
        self._make = partial(Socket, int(listener.family), kind, listener.proto)
        if _native.core is not None and type(listener) is Socket:
            self._accept = partial(_native.core.accept, listener.fileno())
        else:
            self._accept = partial(_accept_in_python, listener)

    def accept_by(self, accept: Callable[[], Entry | tuple[int, Any] | None]) -> None:
        """Have connections be accepted by what makes their entries, as far as it can."""
        self._accept = accept

    def accept(self) -> Entry | tuple[socket.socket, str] | None:
        """Return the next connection and its peer's address, "" where accept(2) does not tell it.

        Its entry, where it has been entered already.

        None when another process took it, and for errors of the connection itself, which accept(2)
        on Linux passes on: the peer has given up.  Raises Exhausted; BadAccept for whatever else
        concerns this one connection, which is closed; OSError when the listener is none.
        """
        try:
            accepted = self._accept()
        except OSError as error:
            pass_over_given_up(error)
            return None
        except Exception as error:
            raise BadAccept from error
        if accepted is None or type(accepted) is Entry:
            return accepted
        fd, peer = accepted
        try:
            sock = self.make(fd)
        except Exception as error:
            raise BadAccept from error
        if type(peer) is str:
            return sock, peer
        try:
            return sock, format_address(peer) if peer else ""
        except Exception as error:
            sock.close()
            raise BadAccept from error

    def make(self, fd: int) -> socket.socket:
        """Return the socket of an accepted connection, which is closed when that fails."""
        try:
            return self._make(fd)
        except Exception:
            os.close(fd)
            raise


def _accept_in_python(listener: socket.socket) -> tuple[int, Any] | None:
    """Return a descriptor, non-blocking, and its peer's address as accept(2) tells it.

    A path is bytes, as the compiled twin has it: text stands for an address that can be shown.
    """
    try:
        fd, address = listener._accept()  # type: ignore[attr-defined]
    except BlockingIOError:
        return None
    os.set_blocking(fd, False)
    return fd, os.fsencode(address) if isinstance(address, str) else address


class Gate:
    """The listeners of a sync worker in an epoll of their own, beside other descriptors.

    EPOLLEXCLUSIVE wakes one of the workers that wait, not all (epoll_ctl(2)); one that is serving
    does not wait, and takes no wake-up from the others.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], besides: Sequence[socket.socket] = ()
    ) -> None:
        """besides: those that are held, too, and from which others accept."""
        self._held = list(dict.fromkeys((*listeners, *besides)))
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._doors = {
            listener.fileno(): Door(listener, index) for index, listener in enumerate(listeners)
        }
        self._makers = {door.index: door.make for door in self._doors.values()}
        self._epoll = select.epoll()
        #: As that of `select.epoll`; a model that accepts by itself puts its own in its place.
        self.poll: Callable[[float | None], list[tuple[int, int]]] = self._epoll.poll
        self._queues: select.epoll | None = None
        self._queued = False
        self._looked_at = 0.0
        self._open = False
        self._watched: set[int] = set()  # of the listeners
        self._rested: dict[int, float] = {}  # those of them that are left alone, until when
        self._turn = 0  # the number of the listener that is the first to be accepted from
        self._paused_until = 0.0
        self._throttle = _log.Throttle()

    def fileno(self) -> int:
        """Return the descriptor of the epoll."""
        return self._epoll.fileno()

    @property
    def has_listeners(self) -> bool:
        """Return whether there are listeners still."""
        return bool(self._listeners)

    @property
    def has_queues(self) -> bool:
        """Return whether there is another epoll to let go of."""
        return self._queues is not None

    def doors(self) -> list[int]:
        """Return the listeners' descriptors by their numbers."""
        return list(self._doors)

    def watch(self, fd: int) -> None:
        """Report `fd` from `wait` when it is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        self._epoll.unregister(fd)

    @property
    def paused(self) -> bool:
        return self._paused_until > 0.0 and time.monotonic() < self._paused_until

    def open(self, wanted: bool) -> None:
        """Accept, or leave connections in the kernel's queue."""
        if self.paused:
            wanted = False
        if wanted == self._open and not self._rested:
            return
        self._open = wanted
        now = time.monotonic()
        self._rested = {fd: until for fd, until in self._rested.items() if until > now}
        for fd in self._listeners:
            watched = wanted and fd not in self._rested
            if watched and fd not in self._watched:
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
                self._watched.add(fd)
            elif not watched and fd in self._watched:
                self._epoll.unregister(fd)
                self._watched.discard(fd)

    def wait(self, timeout: float | None) -> list[int]:
        """Return what is readable; nothing after `timeout` seconds, or when a pause is over.

        Of the listeners the one first whose turn it is: epoll tells them in the same order each
        time, and where seats become free one by one the first would get them all.
        """
        if self._paused_until or self._rested:
            now = time.monotonic()
            for until in (self._paused_until, *self._rested.values()):
                if until > now:
                    timeout = until - now if timeout is None else min(timeout, until - now)
        ready = [fd for fd, _ in self.poll(timeout)]
        if len(ready) > 1 and len(self._doors) > 1:
            ready.sort(key=self._distance)
        return ready

    def rate_wait(self, fd: int, pacer: Doorkeeper) -> float:
        """Return for how long a listener accepts nothing, for the sake of the rate, and heed it."""
        door = self._doors.get(fd)
        wait = 0.0 if door is None else pacer.wait(door.index)
        if wait:
            self._rested[fd] = time.monotonic() + wait
        return wait

    def _distance(self, fd: int) -> int:
        """Return how far a listener is from its turn."""
        door = self._doors.get(fd)
        return -1 if door is None else (door.index - self._turn) % len(self._doors)

    def queued(self) -> bool:
        """Return whether connections wait in the queue of a listener, a moment ago at the latest.

        May be called from several threads.
        """
        now = time.monotonic()
        if now - self._looked_at > _GLANCE:
            queues = self._queues
            if queues is None:
                self._queues = queues = select.epoll()
                for listener in tuple(self._listeners):
                    queues.register(listener, select.EPOLLIN)
            try:
                self._queued = bool(queues.poll(0, 1))
            except ValueError:  # closed meanwhile by the loop, which accepts no more
                self._queued = False
            self._looked_at = now
        return self._queued

    def accept(self, fd: int) -> Entry | tuple[socket.socket, str, int] | None:
        """Return a connection, its peer and its listener's number; None: there is none, or no room.

        The peer's address is "" where it is not known yet.  Where the connection has been entered
        already it is the entry alone.  Raises BadAccept.
        """
        door = self._doors.get(fd)
        if door is None:
            return None
        try:
            accepted = door.accept()
        except Exhausted as error:
            self.pause("out of file descriptors", str(error))
            return None
        if accepted is None:
            return None
        self._turn = door.index + 1
        return accepted if isinstance(accepted, Entry) else (*accepted, door.index)

    def open_doors(self) -> list[tuple[socket.socket, Door]]:
        """Return the listeners, and how each is accepted from."""
        return [(self._listeners[fd], door) for fd, door in self._doors.items()]

    def adopt(self, fd: int, listener: int) -> socket.socket:
        """Return the socket of a connection that C has accepted from the listener of that number.

        Raises what makes one; the descriptor is closed then.
        """
        return self._makers[listener](fd)

    def pause(self, event: str, error: str) -> None:
        """Accept nothing for a moment, and say so at a bounded rate."""
        self._throttle.warning(event, process="worker", error=error)
        self._paused_until = time.monotonic() + PAUSE

    def close_listeners(self) -> None:
        """Let go of the listeners; they go on in the keeper and in other workers."""
        self.open(False)
        self._close_queues()
        for listener in self._held:
            listener.close()
        self._listeners.clear()
        self._doors.clear()

    def close(self) -> None:
        self.close_listeners()
        self._epoll.close()

    def closes(self) -> list[Callable[[], int | None]]:
        """Return what lets go in a forked child, as `forget` does, in as few steps as there are.

        Those of the listeners return the descriptor, which is the caller's to close.
        """
        detach: Any = _socket.socket.detach
        return [self._epoll.close, *(detach.__get__(each) for each in self._held)]

    def forget(self) -> None:
        """Let go in a forked child.

        The child's epoll is the parent's: what it took out would be missing there.
        """
        self._epoll.close()
        self._close_queues()
        for listener in self._held:
            if listener.fileno() >= 0:  # a guarded one has been closed by the fork
                listener.close()

    def _close_queues(self) -> None:
        if self._queues is not None:
            self._queues.close()
            self._queues = None


class Allowance:
    """The keeper's last word on accepting, and what has changed in this worker since.

    With --max-connections a connection that is parked goes on counting, so that its seat is not
    for a new one: from its leaving on, and not only when the keeper's next word arrives.
    """

    def __init__(self, scoreboard: Scoreboard, max_connections: int) -> None:
        self._scoreboard = scoreboard
        self._limited = bool(max_connections)
        self._seats = Seats(0)

    def told(self, seats: Seats) -> None:
        """Take the keeper's word."""
        self._seats = seats
        if seats.serial:
            self._scoreboard.hear(seats.serial)

    def refuse(self) -> None:
        """Note, before the keeper is told, that one which it has sent is refused.

        It comes again: the seat that was for it is not for a new one.
        """
        self._scoreboard.add(REFUSED)

    def accept_no_more(self) -> None:
        """Show that nothing is accepted from here on."""
        self._scoreboard.hear(ACCEPTS_NO_MORE)

    def permits(self, serving: int) -> bool:
        """Return whether one more may be accepted beside those that are served."""
        if self._limited:
            return serving < self._limit()
        return serving < self._seats.accept_below

    def room(self, serving: int) -> int:
        """Return how many more may be accepted beside those that are served, 0 or less: none."""
        return self._limit() - serving

    def wants_room(self, serving: int) -> bool:
        """Return whether a seat that became free would be for a new connection."""
        return not self._seats.full and serving >= self._limit() > 0

    def _limit(self) -> int:
        limit = self._seats.accept_below
        if self._limited:
            left = self._scoreboard[DETACHED] + self._scoreboard[REFUSED]
            limit -= left - self._seats.departures
        return limit


class Siblings:
    """The counts of what each worker of a generation serves, in memory that the template makes.

    Its workers inherit it, and one that is ahead of another leaves the queue to that one for some
    moments.  The other may be computing, stopped or dead: then it shows nothing new meanwhile, and
    is waited for no more until it does.  The memory is a hint.  The keeper has no part in it, and a
    word that is wrong costs a bounded wait.
    """

    def __init__(self) -> None:
        self.words: Final = memoryview(mmap.mmap(-1, (1 + _PLACES) * _WORD)).cast("Q")

    def seat(self, slot: int) -> None:
        """Make ready the place of the worker that is forked next; called by the template alone."""
        place = 1 + slot % _PLACES
        self.words[_IN_USE] = max(self.words[_IN_USE], place)
        self.words[place] = 0


class Standing:
    """One worker's place among its siblings."""

    def __init__(self, siblings: Siblings, slot: int) -> None:
        self._words = siblings.words
        self._place = 1 + slot % _PLACES
        self._changes = 0
        self._accepts = False  # as shown last
        self._moments = 0  # for which what is queued has been left to others
        self._seen: list[int] = []  # the words of all when the first of them began
        self._left_out: list[int] = []  # the words of those that did not come, as they were then

    def show(self, serving: int | None) -> None:
        """Show how many connections are served; None: no more are accepted for now."""
        if serving is not None:
            self._changes += _COUNT + 1
            self._words[self._place] = (self._changes + serving + 1) & _MASK
        elif self._accepts:
            self._words[self._place] = 0  # once: from now on another may have the slot
        self._accepts = serving is not None

    def is_ahead(self, serving: int) -> bool:
        """Return whether one with that many is ahead of one that accepts, beyond the leeway."""
        return self._is_ahead(serving, self._others())

    def leaves(self, serving: int) -> bool:
        """Return whether a connection that is queued is left to others for a moment."""
        others = self._others() if self._words[_IN_USE] > 1 else []
        if not others or not self._is_ahead(serving, others):
            self._moments = 0
            return False
        if self._moments == 0:
            self._seen = others
        if self._moments == PATIENCE:
            self._moments = 0
            self._left_out = self._seen
            return False
        self._moments += 1
        return True

    def nobody_waits(self) -> None:
        """Note that the queue is empty: what comes next is waited with anew."""
        self._moments = 0

    def _others(self) -> list[int]:
        words = self._words
        others: list[int] = words[1 : 1 + min(words[_IN_USE], _PLACES)].tolist()
        if self._place <= len(others):
            others[self._place - 1] = 0
        return others

    def _is_ahead(self, serving: int, others: list[int]) -> bool:
        if self._left_out:
            # Those that have come since, by a slot that is new, were not left out.
            left_out = self._left_out + [0] * (len(others) - len(self._left_out))
            others = [each for each, then in zip(others, left_out, strict=True) if each != then]
        least = min([each & _COUNT for each in others if each], default=0)
        return least > 0 and serving >= least - 1 + max(LEEWAY, least // LEEWAY)
