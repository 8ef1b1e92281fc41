"""The `async` model: one event loop a worker serves all its connections."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    suppress,
)
from typing import Any, Final
from weakref import ref

from socketkeep._base import _log
from socketkeep._base._forking import disown_all, leave, own_all
from socketkeep._base._mistakes import LoadError
from socketkeep._base._passing import Unfit
from socketkeep._base._tracebacks import users_traceback
from socketkeep._net._accept_errors import Exhausted
from socketkeep._stream import _record as record
from socketkeep._stream._aio import AsyncConnection
from socketkeep._stream._closing import LINGER
from socketkeep._stream._lease import Handoff, Order, handling
from socketkeep._stream._shell import Shell
from socketkeep._wire._messages import (
    Acknowledged,
    Deliver,
    Disconnect,
    NameTaken,
    StartFailed,
    Told,
)
from socketkeep._worker._accepting import (
    LEEWAY,
    MOMENT,
    PAUSE,
    Allowance,
    BadAccept,
    Door,
    Standing,
)
from socketkeep._worker._casting import have_cast
from socketkeep._worker._departures import Departures, MoveWindow
from socketkeep._worker._entry import Entry
from socketkeep._worker._environment import Environment
from socketkeep._worker._handle_backup import HandleBackups
from socketkeep._worker._handler_runner import make_runner
from socketkeep._worker._hooked import awaited
from socketkeep._worker._keeper_link import IDLE, KeeperLink
from socketkeep._worker._outcome import note_end, note_exception, note_tls, was_detached
from socketkeep._worker._post import AsyncPost
from socketkeep._worker._process import end_forked, mend_process
from socketkeep._worker._reactor import make_reactor
from socketkeep._worker._ready import tell_ready_async
from socketkeep._worker._roster import Roster
from socketkeep._worker._runaways import ENOUGH, Runaways
from socketkeep._worker._settlement import Settlement
from socketkeep._worker._target import check_replaced

#: How many connections one readiness of a listener may bring, before the handlers of those get
#: their turn: one that computes keeps no more waiting.  With fewer the other workers wake in vain
#: more often: to take one at a time costs a fifth of the rate of short connections.
_ACCEPTS_AT_ONCE: Final = LEEWAY
#: How many packets are read at a time: connections may come faster than they are begun with.
_PACKETS_AT_ONCE: Final = 8
_DISCONNECTED: Final = "the server was told to disconnect it"
_TOO_LATE: Final = "the server's time for it to finish is over"


def run_async(environment: Environment) -> None:
    """Serve until the worker has been retired and its last connection has ended."""
    runner = asyncio.Runner(loop_factory=_loop_factory(environment.config.loop))
    runner.run(_serve(environment))
    # Not when it raised: to close it cancels every handler, which would end connections that can go
    # on in another worker.  What ends the loop itself is a crash of the worker.
    runner.close()


async def _serve(environment: Environment) -> None:
    async with AsyncExitStack() as stack:
        step = "on_start"
        try:
            pid = os.getpid()
            if environment.handler.on_start is not None:
                await awaited(environment.handler.on_start(environment.info))
            step = "the lifespan"
            await _enter_lifespan(environment, stack)
            if os.getpid() != pid:
                leave(0)  # it has forked, and this is its child: no second worker
            check_replaced()
            mend_process()
        except LoadError as error:
            environment.channel.send_now(StartFailed(error.text))
            return
        except Exception as error:
            text = f"{step} failed:\n{users_traceback(error)}"
            environment.channel.send_now(StartFailed(text))
            return
        worker = AsyncWorker(environment)
        await worker.run()
        try:
            await stack.aclose()
        except Exception as error:
            _log.error("lifespan failed at its end", traceback=users_traceback(error))
        if worker.given_up:
            leave(0)  # to close the loop takes their end, which does not come


async def _enter_lifespan(environment: Environment, stack: AsyncExitStack) -> None:
    if environment.handler.lifespan is None:
        return
    manager = environment.handler.lifespan()
    if isinstance(manager, AbstractAsyncContextManager):
        await stack.enter_async_context(manager)
    else:
        assert isinstance(manager, AbstractContextManager)
        stack.enter_context(manager)


def _loop_factory(wanted: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if wanted == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class AsyncWorker:
    """One worker's loop-side state.

    Its listeners are plain readers of the loop, without EPOLLEXCLUSIVE: neither asyncio nor uvloop
    can register with it, and an epoll nested in theirs does not count as a waiter, so that all
    workers wake all the same.
    """

    def __init__(self, environment: Environment) -> None:
        self._pid = os.getpid()  # here: a number of its own for each connection takes memory
        self._environment = environment
        self._channel = environment.channel
        self.roster = Roster(environment, drain_signal=None)
        self._settlement = Settlement(environment)
        # A receive that waits is woken by its connection's end, and is then refused for the first
        # time.
        self.roster.refusals = Runaways(environment, self._give_up, spared=1)
        self._post = self.roster.registrar = AsyncPost(
            *(self._channel, self._channel_lost, self.roster.mint),
            environment.handler.on_push,
        )
        self.given_up: list[asyncio.Task[None]] = []  # handlers that are never resumed
        self._loop = asyncio.get_running_loop()
        self._reactor = make_reactor()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        config = environment.config
        self._access_log = environment.access_log
        self._connect_log = environment.connect_log
        self._allowance = Allowance(environment.scoreboard, config.max_connections)
        self._doors = [(one, Door(one, index)) for index, one in enumerate(environment.doors)]
        self._tends = False  # connections that C makes
        self._turn = 0  # the number of the listener that is the first to be accepted from
        self._pacer = environment.pacer
        self._accepting = False
        self._held: set[Door] = set()  # for the sake of the rate
        self._resume: asyncio.TimerHandle | None = None
        self._standing = Standing(environment.siblings, environment.slot)
        self._holding_back: asyncio.TimerHandle | None = None
        have_cast(self._doors, self.roster, self._make, owned=False)
        self._queues = select.poll()
        for listener, _ in self._doors:
            self._queues.register(listener, select.POLLIN)
        self._link = KeeperLink(environment, self._allowance, self)
        self._throttle = _log.Throttle()
        self._serving: dict[Entry, AsyncConnection] = {}
        self._crew = self._serving.values()
        self._call = environment.handler.call
        self._runner = make_runner(handling, self._call, self._ended)
        self._completion = make_runner(handling, self._call_after_reply, self._ended)
        self._name = environment.handler.name  # of all tasks: to number them takes memory of each
        self._offers = HandleBackups(self._serving.__contains__)
        self.roster.offered = self._offer
        self._departures = Departures(
            self._channel, self.roster, self._settle, self._serve_on, self._channel_lost
        )
        self._move_window = MoveWindow(self._departures)

    async def run(self) -> None:
        """Serve until retired and empty.  Raises ChannelClosed when the keeper is gone already."""
        self._link.start()
        self._post.open()
        own_all(self._crew)
        self._end_forks()
        ready = None
        if self._environment.handler.on_ready is not None:
            ready = self._loop.create_task(tell_ready_async(self._environment), name="on_ready")
        await self._finished
        if ready is not None:
            ready.cancel()
        self._post.close()
        disown_all(self._crew)
        self._reactor.close()
        self._link.close()

    def _end_forks(self) -> None:
        """Have a process that a handler forks end where it would come back to the loop.

        The loop's epoll and the channel are this process's: that one would take what is meant for
        this one.
        """
        pid, seen = os.getpid(), ref(self)

        def in_child() -> None:
            worker = seen()
            if worker is not None and not worker._finished.done() and os.getppid() == pid:
                board = worker._environment.scoreboard
                worker._loop.call_soon(end_forked, worker._name, board, None)

        os.register_at_fork(after_in_child=in_child)

    @property
    def _open(self) -> int:
        departures = self._departures
        return len(self._serving) + len(departures.held) + len(departures.closing)

    # For the link to the keeper.

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        self._loop.add_reader(fd, call)

    def unwatch(self, fd: int) -> None:
        self._loop.remove_reader(fd)

    def hears_more(self, heard: int) -> bool:
        return heard < _PACKETS_AT_ONCE

    def attached(self, entry: Entry) -> None:
        self._start(entry)
        if self._accepting:
            self._standing.show(self._open)
        if self._link.order is not None and entry in self._serving:
            self._serving[entry].ask(self._link.order)

    def close_listeners(self) -> None:
        for listener in (*self._environment.listeners, *self._environment.doors):
            listener.close()

    def answered(self, message: Acknowledged | None) -> None:
        if message is None:
            self._post.keeper_gone()
            self._departures.give_up()
        else:
            self._departures.acknowledged(message)
            self._move_window.go_on()

    def obey_post(self, message: Deliver | NameTaken | Told) -> None:
        self._post.obey(message)

    def disconnect(self, message: Disconnect) -> None:
        for entry, conn in tuple(self._serving.items()):
            if (entry.lease.id, entry.lease.epoch) != (message.id, message.epoch):
                continue
            if not message.force:
                conn.ask(Order("end", float("inf"), "disconnect"))
                return
            conn.ask(Order("end", time.monotonic(), "disconnect"))
            with suppress(OSError):  # the peer has gone
                entry.sock.shutdown(socket.SHUT_RDWR)
            if not conn.is_waiting and entry.task is not None:
                entry.why = _DISCONNECTED
                self._cancel(entry.task, _DISCONNECTED)
            return

    def give_up_idle(self, count: int) -> None:
        now = time.monotonic()
        latest = int((now - IDLE) * 1e9)
        departures = self._departures
        departures.deadline = max(
            departures.deadline, now + self._environment.config.graceful_timeout
        )
        for entry, conn in tuple(self._serving.items()):
            if count <= 0:
                return
            if entry.record[record.ACTIVE_AT] <= latest and conn.leave_if_idle():
                count -= 1

    def met_keeper(self) -> None:
        self._post.announce()

    def look_at(self, when: float) -> None:
        self._loop.call_at(when, self.look)

    def look(self) -> None:
        self._open_gate()
        waits = self._link.holds_listeners() or self._link.more
        over = self._link.order is not None and not self._open and not waits
        if over and not self._finished.done():
            self._finished.set_result(None)

    def _channel_lost(self) -> None:
        if self._link.alone:
            self._departures.give_up()
        else:
            self._link.read()  # first what the keeper said before its end

    # Accepting.

    def _open_gate(self) -> None:
        """Listen to the listeners as long as there is a seat, and nothing is left to others."""
        able = (
            self._link.order is None
            and self._resume is None
            and self._allowance.permits(self._open)
        )
        self._standing.show(self._open if able else None)
        wanted = able and self._holding_back is None
        if wanted == self._accepting:
            return
        self._accepting = wanted
        # The loop tells of those that are readable in this order: the one first whose turn it is.
        later = [each for each in self._doors if each[1].index < self._turn]
        for listener, door in (*self._doors[len(later) :], *later):
            if wanted and door not in self._held:
                self._loop.add_reader(listener.fileno(), self._accept, door)
            else:
                self._loop.remove_reader(listener.fileno())

    def _accept(self, door: Door) -> None:
        serving = self._open
        if self._standing.leaves(serving):
            self._holding_back = self._loop.call_later(MOMENT, self._look_again)
            self._open_gate()
            return
        room = self._allowance.room(serving)
        pacer = self._pacer
        for _ in range(min(room, _ACCEPTS_AT_ONCE)):
            if pacer is not None and (wait := pacer.wait(door.index)):
                self._hold_one(door, wait)
                return
            try:
                accepted = door.accept()
            except Exhausted as error:
                self._pause(str(error))
                return
            except BadAccept as error:
                self.roster.note_unserved(error)
                continue
            if accepted is None:
                break
            if pacer is not None:
                pacer.accepted(door.index)
            self._turn = door.index + 1
            if isinstance(accepted, Entry):
                self._start(accepted)
                continue
            sock, peer = accepted
            entry = self.roster.accepted(sock, door.index, peer)
            if entry is None:
                sock.close()
                continue
            if entry.header_by:
                self._have_awaited(entry)
                continue
            self._start(entry)
        if room <= _ACCEPTS_AT_ONCE:
            self._open_gate()
        else:
            self._standing.show(self._open)

    def _look_again(self) -> None:
        """Look whether what has been left to others is still there."""
        assert self._holding_back is not None
        self._holding_back.cancel()
        self._holding_back = None
        if self._link.order is None and not self._queues.poll(0):
            self._standing.nobody_waits()
        self._open_gate()

    def _have_awaited(self, entry: Entry) -> None:
        """Have the keeper wait for the PROXY header of a connection that it has not sent yet."""
        entry.record[record.ENDED] = record.DETACHED  # as its handler's end would have done
        deadline = entry.lease.deadline
        handoff = Handoff(entry.sock, None, b"", parked=True, deadline=deadline)
        self._departures.offer(entry, handoff)

    def _pause(self, error: str) -> None:
        self._throttle.warning("out of file descriptors", process="worker", error=error)
        self._hold(PAUSE)

    def _hold_one(self, door: Door, seconds: float) -> None:
        """Accept nothing from one listener for so long."""
        listener = self._environment.doors[door.index]

        def resume() -> None:
            self._held.discard(door)
            if self._accepting:
                self._loop.add_reader(listener.fileno(), self._accept, door)

        self._held.add(door)
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(seconds, resume)

    def _hold(self, seconds: float) -> None:
        """Accept nothing for so long: connections wait in the kernel's queue."""

        def resume() -> None:
            self._resume = None
            self._open_gate()

        self._resume = self._loop.call_later(seconds, resume)
        self._open_gate()

    # Serving.

    def _start(self, entry: Entry) -> None:
        try:
            self._begin(entry)
        except Exception as error:  # of this connection alone
            self.roster.cannot_serve(entry, error)
            self._settle(entry)

    def _make(self, entry: Entry) -> None:
        """Make the connection of a pattern."""
        entry.hooks.reactor = self._reactor
        entry.conn = conn = AsyncConnection(entry.sock, lease=entry.lease, hooks=entry.hooks)
        self._tends = conn.end_tending()

    def _begin(self, entry: Entry) -> None:
        conn, entry.conn = entry.conn, None
        if conn is None:
            entry.hooks.reactor = self._reactor
            conn = AsyncConnection(entry.sock, lease=entry.lease, hooks=entry.hooks)
            if not entry.peer:
                self.roster.introduce(entry, conn.peer)
        else:
            assert isinstance(conn, AsyncConnection)
            if self._tends:
                conn.begin_tending()
        if self._connect_log:
            self.roster.log_begin(entry)
        runner = self._completion if entry.lease.reply else self._runner
        entry.task = self._loop.create_task(runner.serve(entry, conn), name=self._name)
        self._serving[entry] = conn
        if entry.offer is not None:
            self._offers.add(entry, entry.offer)
        if conn.registration is not None:
            self._post.attached(conn)

    def _offer(self, entry: Entry) -> None:
        if entry.offer is not None:
            self._offers.add(entry, entry.offer)

    async def _call_after_reply(self, conn: AsyncConnection) -> None:
        """Call the handler where a worker has died in the middle of a reply."""
        await conn.complete_reply()
        await self._call(conn)

    def _ended(
        self, entry: Entry, conn: AsyncConnection, error: BaseException | None
    ) -> Coroutine[Any, Any, None] | None:
        """End the connection after its handler; return what is still to be awaited.

        error: what it has raised; it is the one that is handled.
        """
        if os.getpid() != self._pid:
            end_forked(self._name, self._environment.scoreboard, error)
        if self._serving.get(entry) is not conn:
            return None  # it was gone on with, without the handler
        try:
            if error is not None:
                self._note(entry, conn, error)
            if not self._ends_at_once(entry, conn):
                return self._finish_safely(entry, conn)
            self._settle(entry)
        except Exception as failure:
            self._fail(entry, conn, failure)
        return None

    def _note(self, entry: Entry, conn: AsyncConnection, error: BaseException) -> None:
        cancelled = isinstance(error, asyncio.CancelledError)
        if isinstance(error, Unfit):
            raise error  # it cannot be served
        if cancelled and entry.why == _DISCONNECTED:
            return
        if cancelled and self._link.order is not None:
            entry.why = _TOO_LATE
        else:
            note_exception(error, conn, entry)

    def _fail(self, entry: Entry, conn: AsyncConnection, error: Exception) -> None:
        """End what cannot be served: this connection alone."""
        if self._serving.get(entry) is conn:
            self.roster.cannot_serve(entry, error)
            self._settle(entry)

    async def _finish_safely(self, entry: Entry, conn: AsyncConnection) -> None:
        try:
            await self._finish(entry, conn)
        except Exception as error:
            self._fail(entry, conn, error)

    def _ends_at_once(self, entry: Entry, conn: AsyncConnection) -> bool:
        """End the connection as most do, if it may be: nothing is to be told, or waited for."""
        if self._access_log or conn.core.client_hello:
            return False
        try:
            return conn.end_at_once()
        except OSError as error:  # the handler has closed the descriptor under it
            note_exception(error, conn, entry)
            return True

    async def _finish(self, entry: Entry, conn: AsyncConnection, linger: float = LINGER) -> None:
        """End the connection or hand it over, when its handler has ended or was given up."""
        if conn.core.client_hello:
            note_tls(conn, entry)
        if self._access_log:
            note_end(conn, entry)
        if conn.overdue:
            self.roster.note_overdue(conn)
        if was_detached(conn):
            self._hand_over(entry, conn)
            return
        try:
            await conn.close(linger=linger)
        except OSError as error:  # the handler has closed the descriptor under it
            note_exception(error, conn, entry)
        finally:
            if self._access_log:
                self._settlement.log_end(entry)
            self._settle(entry)

    def _give_up(self, conn: Shell, linger: float = LINGER) -> None:
        """Go on without a connection's handler: it is never resumed."""
        entries = (entry for entry, served in self._serving.items() if served is conn)
        entry = next(entries, None)
        if entry is None or entry.task is None or conn.hooks.abandoned:
            return
        assert isinstance(conn, AsyncConnection)
        conn.hooks.abandoned = True
        entry.why = "the handler did not end"
        self.given_up.append(entry.task)
        entry.task = self._loop.create_task(self._finish(entry, conn, linger), name=self._name)
        if len(self.given_up) % ENOUGH == 0:
            self._link.ask_to_be_replaced("handlers that did not end")

    def _settle(self, entry: Entry) -> None:
        self._serving.pop(entry, None)
        if entry.hooks.registered:
            self._post.left(entry.lease.id)
        self._settlement.settle(entry)
        if self._accepting:
            self._standing.show(self._open)
            return
        if self._holding_back is not None and not self._standing.is_ahead(self._open):
            self._look_again()
        self.look()

    # Retiring.

    def retire(self, order: Order) -> None:
        self._departures.deadline = order.deadline
        self._open_gate()
        self._move_window.begin(order, self._serving.values())
        if order.deadline != float("inf"):
            now = time.monotonic()
            late = self._environment.lingers_until(order)
            cut_off = self._environment.cut_off(order)
            self._loop.call_later(max(0.0, late - now), self._cancel_late, order)
            self._loop.call_later(max(0.0, cut_off - now), self._cut_off, order)

    def _cancel_late(self, order: Order) -> None:
        """Have handlers that are busy with other things, and closings that take long, end now."""
        if self._link.order is not order:
            return
        self._link.more = False
        for entry in tuple(self._serving):
            assert entry.task is not None
            self._cancel(entry.task, _TOO_LATE)
        self.look()

    def _cancel(self, task: asyncio.Task[None], why: str) -> None:
        """Cancel a task, in the next turn: before its first step it would end no connection."""
        self._loop.call_soon(task.cancel, why)

    def _cut_off(self, order: Order) -> None:
        """End the connections of handlers that do not end, in order if it can be, and exit."""
        if self._link.order is not order or self._finished.done():
            return
        for entry in self._serving:
            with suppress(OSError):
                entry.sock.shutdown(socket.SHUT_WR)
        _log.warning("handlers did not end in time", open=len(self._serving))
        os._exit(1)

    def _hand_over(self, entry: Entry, conn: AsyncConnection) -> None:
        self._serving.pop(entry)
        handoff = conn.hand_over()
        if entry.hooks.registered:
            self._post.left(entry.lease.id)
        if not handoff.parked:
            self._settlement.log_end(entry)
        self._departures.offer(entry, handoff)

    def _serve_on(self, entry: Entry, handoff: Handoff) -> None:
        """Serve a connection that left and that nobody takes: it must not end for that."""
        if entry.header_by:
            self.roster.refuse_waiting(entry)
            self._settle(entry)
            return
        self.roster.again(entry, handoff)
        self._start(entry)
        if entry in self._serving and entry.hooks.registered:
            self._post.changed(self._serving[entry])  # what waits for it at the keeper may come
        if self._link.order is not None and self._link.order.how != "move":
            self._serving[entry].ask(self._link.order)
