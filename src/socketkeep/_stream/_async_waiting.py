"""How an async connection watches its descriptor, and hears the server's orders and limits.

Where the loop finds the descriptor readable, the task that waits is resumed at once; where none
waits the reader is taken out.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Final, cast

from socketkeep._base._errors import Closed
from socketkeep._stream._assignment import Assignment, Order, Reader
from socketkeep._stream._async_sender import AsyncSender
from socketkeep._stream._async_waiter import DONE, Turn, Waiter
from socketkeep._stream._exchange import ARRIVED, LOOK_AGAIN
from socketkeep._stream._lifecycle import Detached
from socketkeep._stream._record import ACTIVE_AT
from socketkeep._stream._waiting import earlier

_OUT_OF_TIME: Final = "ended: the server's time for it to finish is over"


class AsyncWaiting(AsyncSender):
    """The base of `AsyncExchange`: the reader, the waiter, and what ends its waits."""

    __slots__ = (
        "_deadline_timer",
        "_expired",
        "_order",
        "_quick",
        "_receiving",
        "_tend_timer",
        "_turn",
        "_unwaited",
        "_waiter",
        "_watching",
    )

    def __init__(self, sock: socket.socket, *, assignment: Assignment | None = None) -> None:
        super().__init__(sock, assignment=assignment)
        self._receiving = False
        self._waiter = Waiter(self._loop)
        self._turn = Turn((self._waiter,))
        self._watching = False  # the reader is registered
        self._quick = False  # it is, and no receive has to look at more than what comes
        self._order: Order | None = None
        self._unwaited = 0  # receives in a row that found their bytes there
        self._expired = False  # the order's deadline has passed
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._tend_timer: asyncio.TimerHandle | None = None
        first = earlier(self._assignment.idle_timeout, self._assignment.park_after)
        if first is not None:
            self._tend_timer = self._loop.call_later(first, self._tend)

    def _reset_after_fork(self) -> None:
        # The loop's epoll is the parent's: what were taken out here would be missing there.
        self._reactor = None
        self._loop = cast("asyncio.AbstractEventLoop", _ChildsLoop(self))
        self._receiving = self._watching = self._quick = False
        self._waiter = Waiter(self._loop)
        self._turn = Turn((self._waiter,))
        self._deadline_timer = self._tend_timer = None
        self._unshown = False
        self._came_in = self._went_out = 0
        self._out = None

    def _watch(self) -> None:
        self._add_reader(self._input_fd, self)
        self._quick = self._order is None and self._peeking is None

    def _add_reader(self, fd: int, reader: Reader) -> None:
        if self._reactor is None:
            self._loop.add_reader(fd, reader._on_readable)
        else:
            self._reactor.add_reader(fd, reader)
        self._watching = True

    def _unwatch(self) -> None:
        if self._watching:
            (self._reactor or self._loop).remove_reader(self._input_fd)
            self._watching = self._quick = False

    def _on_readable(self) -> None:
        waiter = self._waiter
        if waiter.pending:
            waiter.pending = False  # as `waiter.end`, without the call
            waiter.came = ARRIVED
            waiter.context.run(waiter.resume, DONE)
        else:
            self._unwatch()

    def _tls_ended(self) -> None:
        super()._tls_ended()
        self._unwatch()  # so that the next receive looks for the end before it waits

    def ask(self, order: Order) -> None:
        """Give the server's order: the receive that waits, or the next one, obeys it.

        For the server; to be called in the loop's thread.  A later order replaces an earlier one.
        """
        if self._life.over:
            return
        self._order = order
        self._quick = False
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_timer = self._call_at(order.deadline, self._expire)
        self._let_go()

    def _let_go(self) -> None:
        """Detach a connection whose receive waits, if it may be; wake one that may be closed."""
        order = self._order
        if order is None or not self._waiter.pending:
            return
        if order.how == "move" and self._movable() and not self._out:
            # At once, not when the task gets its turn: until then nothing may be sent or received.
            self._depart()
            self._wake()
        elif order.how == "close" and self._closable():
            self._wake()

    def _queue_emptied(self) -> None:
        self._let_go()

    def _obey(self, operation: str) -> None:
        """Do as the server's order says, at a receive that is not waiting yet."""
        order = self._order
        if order is not None and order.how == "move" and self._movable() and not self._out:
            self._depart()
            raise Detached("the connection was detached from this worker")
        if self._expired:
            raise self._end(_OUT_OF_TIME, operation)

    def _depart(self, *, parked: bool = False) -> None:
        self._unwatch()
        self._leave(parked=parked)
        self._cancel_timers()

    def _expire(self) -> None:
        self._expired = True
        self._wake()
        self._stop_senders(Closed(_OUT_OF_TIME))

    def _wake(self) -> None:
        self._waiter.end_soon(LOOK_AGAIN)

    def _tend(self) -> None:
        """End what has been idle for too long, park what may be, and see when to look again.

        One timer, moved on when it fires: a timer for each wait would cost more than the wait.
        """
        now = time.monotonic()
        self._show()
        waiting = self._waiter.pending or bool(self._out)
        since = max(self._record[ACTIVE_AT] / 1e9, self._waiting_since) if waiting else now
        idle, park_after = self._assignment.idle_timeout, self._assignment.park_after
        if idle is not None and now >= since + idle:
            error = self._end(f"ended: idle for {idle:g} s", "")
            self._wake()
            self._stop_senders(error)
            return
        at = None if idle is None else since + idle
        if park_after is not None:
            if now >= since + park_after:
                since = now
                if self._waiter.pending and self._parkable():
                    self._depart(parked=True)
                    self._wake()
                    return
            at = earlier(at, since + park_after)
        if at is not None:
            self._tend_timer = self._call_at(at, self._tend)

    def _parkable(self) -> bool:
        """Whether a receive may end in parking: a safe point, and nothing else is to happen."""
        return self._order is None and self._movable() and not self._out

    def _cancel_timers(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if self._tend_timer is not None:
            self._tend_timer.cancel()
            self._tend_timer = None
        if self._unshown:
            self._show()
        if not self._waiter.pending:
            self._waiter.forget()


class _ChildsLoop:
    """In place of the parent's loop in a forked child: the loop that first uses the connection."""

    __slots__ = ("_conn",)

    def __init__(self, conn: AsyncWaiting) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> object:
        conn = self._conn
        conn._loop = conn._waiter._loop = loop = asyncio.get_running_loop()
        return getattr(loop, name)
