"""The loop of a worker of a sync model: accept, obey the keeper, give connections to the model."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from socketkeep._base import _log
from socketkeep._base._forking import disown
from socketkeep._base._passing import Unfit
from socketkeep._names._pushing import place
from socketkeep._stream import _record as record
from socketkeep._stream._closing import LINGER
from socketkeep._stream._connection import Connection
from socketkeep._stream._lease import DrainSignal, Handoff, Order, handling
from socketkeep._stream._lifecycle import Detached
from socketkeep._stream._record import Ended, Record
from socketkeep._stream._shell import Shell
from socketkeep._stream._waiting import earlier
from socketkeep._wire._channel import ChannelClosed
from socketkeep._wire._messages import Acknowledged, Deliver, Disconnect, NameTaken, Told
from socketkeep._wire._scoreboard import CROWDED, id_of
from socketkeep._worker._accepting import LEEWAY, Allowance, BadAccept, Gate, Standing
from socketkeep._worker._casting import have_cast
from socketkeep._worker._entry import Entry
from socketkeep._worker._environment import Environment
from socketkeep._worker._handing import Reserve, give_back, hand_over
from socketkeep._worker._keeper_link import IDLE, KeeperLink
from socketkeep._worker._lines import SyncPost
from socketkeep._worker._lingering import LingeringCloses
from socketkeep._worker._notices import NoticeDelivery, Notices
from socketkeep._worker._outcome import (
    note_end,
    note_exception,
    note_tls,
    refuse_coroutine,
    was_detached,
)
from socketkeep._worker._process import end_forked
from socketkeep._worker._ready import tell_ready
from socketkeep._worker._roster import TURN, Roster
from socketkeep._worker._runaways import Runaways
from socketkeep._worker._settlement import Settlement

#: So many connections are served before the loop looks at all else again, and so often one more is
#: looked for where none had been in the queue.
IN_A_ROW: Final = 8
_MOST_ROOM: Final = 2**31 - 1


class SyncModel(Protocol):
    """The model by which the connections of one worker are served."""

    @property
    def drain_signal(self) -> DrainSignal: ...

    def take_over(self) -> None:
        """Do by itself, where it can, what else the loop does; called when that is set up."""

    def serve(self, entry: Entry) -> None:
        """Serve a connection, or have it served; `SyncLoop.done` is told when it has ended."""

    def resume(self) -> None:
        """Go on with what had to wait because the system had no room for it."""

    def retire(self, order: Order) -> None:
        """Let the handlers know of `order`."""

    def force(self) -> None:
        """End what has not ended by the deadline."""

    def cut(self, words: Record) -> None:
        """End a connection whose handler may not come to hear of its order."""

    @property
    def busy(self) -> bool:
        """Return whether something is to end before the worker, though no connection is open."""

    @property
    def patience(self) -> float | None:
        """Return how many seconds the loop may wait before it calls `resume`; None: as it likes."""

    def rejoin(self) -> bool:
        """Find another keeper, in a process of its own that cannot wait for one; True: it has."""

    def give_up(self, conn: Shell) -> None:
        """Go on without the handler that has called this, by a verb of `conn`; does not return."""


class SyncLoop:
    """One worker's: it runs until the worker has been retired and its last connection has ended."""

    def __init__(self, environment: Environment, build: Callable[[SyncLoop], SyncModel]) -> None:
        self.environment = environment
        self.gate = Gate(environment.doors, environment.listeners)
        self._pacer = environment.pacer
        self.reserve = Reserve()
        self.open = 0
        self._accepts = 0
        self._queueing = False  # connections, as far as the last look has shown
        self.callbacks: dict[int, Callable[[], None]] = {}
        config = environment.config
        self.lingering = LingeringCloses(self.watch, self.unwatch)
        self._allowance = Allowance(environment.scoreboard, config.max_connections)
        self.link = KeeperLink(environment, self._allowance, self)
        self._attached: deque[Entry] = deque()
        # In the other models a worker accepts what it serves at once, or forks for each.
        self._standing: Standing | None = None
        if environment.model == "thread":
            self._standing = Standing(environment.siblings, environment.slot)
        self._shown: int | None = None
        self._in_a_row = 0  # connections that were accepted, and none has ended meanwhile
        self.post = SyncPost(environment, self.has_keeper)
        self.notices = Notices()
        self._model = build(self)
        wake_fd = -1 if environment.model == "prefork" else self._model.drain_signal.wake_fd
        self.notice_delivery = NoticeDelivery(self.notices, environment.scoreboard, wake_fd)
        self.roster = Roster(environment, self._model.drain_signal)
        self.settlement = Settlement(environment)
        self.roster.refusals = Runaways(environment, self._model.give_up)
        self.roster.registrar = self.post
        self._model.take_over()

    @property
    def order(self) -> Order | None:
        """Return how the worker is to end."""
        return self.link.order

    def have_cast(self) -> None:
        """Have the connections that come to be served in this process be made in C, if they can."""
        have_cast(self.gate.open_doors(), self.roster, _make, owned=True)

    def is_awaited(self) -> bool:
        """Return whether what waits in a listener's queue may come when a seat becomes free."""
        return self.is_full and self.gate.queued()

    @property
    def is_full(self) -> bool:
        """Return whether a seat that became free would be for a new connection."""
        return self.link.order is None and self._allowance.wants_room(self.open)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call when `fd` is readable."""
        self.callbacks[fd] = call
        self.gate.watch(fd)

    def unwatch(self, fd: int) -> None:
        del self.callbacks[fd]
        self.gate.unwatch(fd)

    def run(self) -> None:
        """Serve until retired and empty.  Raises ChannelClosed when the keeper is gone already."""
        self.link.start()
        place.office = self.post
        tell_ready(self.environment)
        link = self.link
        while link.order is None or self._goes_on():
            if self._attached:
                self._model.serve(self._attached.popleft())
                continue  # in `prefork` it may have been served to its end, and this worker retired
            if not self.gate.paused:
                self._model.resume()
            self._open_gate()
            self.notice_delivery.check(retired=link.order is not None)
            patience = earlier(self._model.patience, self.notice_delivery.patience)
            hurry = link.order is not None or bool(self.lingering) or patience is not None
            doors = []
            for fd in self.gate.wait(self._patience(patience) if hurry else None):
                call = self.callbacks.get(fd)
                if call is not None:
                    call()
                else:
                    doors.append(fd)
            # After the keeper was heard: a seat may be for one that waits there.
            if not self._attached:
                for fd in doors:
                    self._accept(fd)
                if doors:
                    self._give_way()
            if hurry:
                self._end_in_time()
        place.office = None
        self.link.close()
        self.gate.close()

    def _goes_on(self) -> bool:
        """Return whether a worker that has its order is to go on."""
        busy = self.open or self._attached or self.lingering or self.link.more
        return self.link.holds_listeners() or bool(busy) or self._model.busy

    def _end_in_time(self) -> None:
        self.lingering.expire()
        if self._timeout() == 0.0:
            self.link.more = False
            self.lingering.close()
            if self.open or self._model.busy:
                self._model.force()

    @property
    def has_waiting(self) -> bool:
        """Return whether `let_go_of_waiting` has anything to do."""
        return bool(self._attached) or self.link.alone

    def let_go_of_waiting(self) -> None:
        """Close, in a forked child, what is its parent's: connections that wait to be served."""
        for entry in self._attached:
            entry.sock.close()
        self.link.forget()

    def rejoin(self) -> bool:
        """Find another keeper, for a handler whose own is gone; False: not here, or not yet."""
        return self._model.rejoin()

    def has_keeper(self) -> bool:
        """Return whether there is a keeper to speak to, for a handler; look for another."""
        if self.environment.model == "fork":  # only the parent's link is told of its end
            return not self.environment.channel.closed or self.rejoin()
        return not self.link.alone

    def wind_up(self) -> None:
        """Serve nothing more, and wait for the peers that linger: a model ends this process."""
        self.link.retire(Order("move", time.monotonic()))
        for entry in self._attached:
            lease = entry.lease
            handoff = Handoff(
                entry.sock,
                lease.state,
                lease.unread,
                redelivered=lease.redelivered,
                deadline=lease.deadline,
            )
            entry.record[record.ENDED] = Ended.DETACHED
            _hand_over(self, entry, handoff)
            self.settlement.settle(entry)
        self._attached.clear()
        while self.lingering:
            for fd in self.gate.wait(self.lingering.patience(None)):
                self.callbacks[fd]()
            self.lingering.expire()

    def done(self, entry: Entry) -> None:
        """A connection has ended: count it and free its seat."""
        self.open -= 1
        self._in_a_row = 0
        self.settlement.settle(entry)
        if self.lingering.added:
            self.lingering.begin()

    @property
    def room(self) -> int:
        """For how many more connections there is a seat now."""
        return min(max(0, self._allowance.room(self.open)), _MOST_ROOM) if self.order is None else 0

    def _open_gate(self) -> None:
        """Accept as long as there is a seat."""
        able = self.link.order is None and self._allowance.permits(self.open)
        if self._standing is not None:
            serving = self.open if able else None
            if serving != self._shown:
                self._shown = serving
                self._standing.show(serving)
        self.gate.open(able)

    def _give_way(self) -> None:
        """Have the kernel wake others first, where this worker is ahead of one.

        It wakes the one that has watched a listener for longest: this one begins anew.  Not where
        connections end as fast as they come: to be level is worth less there than it costs.
        """
        if self._in_a_row >= LEEWAY and self._standing and self._standing.is_ahead(self.open):
            self.gate.open(False)

    def _accept(self, fd: int) -> None:
        """Accept a connection, and the next where the model has served it to its end already.

        Not where nobody waits: to look in vain costs more than to be told.
        """
        self._accepts += 1
        several = self._queueing or self._accepts % IN_A_ROW == 0
        board = self.environment.scoreboard
        pacer = self._pacer
        for number in range(IN_A_ROW if several else 1):
            if self.link.order is not None or not self._allowance.permits(self.open):
                return
            if number and board.crowded:
                return  # others wait for the seat, and the keeper has said so
            if pacer is not None and self.gate.rate_wait(fd, pacer):
                return
            try:
                accepted = self.gate.accept(fd)
            except BadAccept as error:
                self.roster.note_unserved(error)
                return
            self._queueing = several and accepted is not None
            if accepted is None:
                return
            if isinstance(accepted, Entry):
                entry = accepted
            else:
                sock, peer, listener = accepted
                if pacer is not None:
                    pacer.accepted(listener)
                entered = self.roster.accepted(sock, listener, peer)
                if entered is None:
                    sock.close()
                    continue
                entry = entered
                if entry.header_by:
                    self._have_awaited(entry)
                    return
            self.open += 1
            self._in_a_row += 1
            self._model.serve(entry)
            if self.open:
                return

    def _have_awaited(self, entry: Entry) -> None:
        """Have the keeper wait for the PROXY header of a connection that it has not sent yet.

        Here it would take a seat, or, in `prefork`, wait for whoever is served meanwhile.
        """
        entry.record[record.ENDED] = Ended.DETACHED
        handoff = Handoff(entry.sock, None, b"", parked=True, deadline=entry.lease.deadline)
        detached = self.roster.detached(entry, handoff)
        try:
            taken = hand_over(
                self.environment.channel, self.reserve, detached, handoff, time.monotonic()
            )
        except ChannelClosed:
            taken = False
        if not taken:
            self.roster.refuse_waiting(entry)
        self.settlement.settle(entry)

    # For the link to the keeper.

    def hears_more(self, heard: int) -> bool:
        return not self._attached  # to be served first; what else there is the loop hears of again

    def attached(self, entry: Entry) -> None:
        self.open += 1
        self._attached.append(entry)

    def close_listeners(self) -> None:
        self.gate.close_listeners()

    def retire(self, order: Order) -> None:
        if order.apart:  # as it goes by a connection's turn
            order = replace(order, apart=order.apart / TURN.get(self.environment.model, 1.0))
            self.link.order = order
        self.notices.explain(order)
        self.environment.scoreboard.retire(order)
        self._model.retire(order)

    def answered(self, message: Acknowledged | None) -> None:
        """Nothing to do: who gives a connection away here waits at a pipe, and sees its end."""

    def obey_post(self, message: Deliver | NameTaken | Told) -> None:
        """Nothing to do: what is pushed to sync handlers comes by lines of their own."""

    def disconnect(self, message: Disconnect) -> None:
        for _, words in self.environment.scoreboard.taken():
            if id_of(words) == message.id and words[record.EPOCH] == message.epoch:
                deadline = time.monotonic() if message.force else float("inf")
                self.notice_delivery.notify(words, Order("end", deadline, "disconnect"))
                if message.force:
                    self._model.cut(words)
                return

    def give_up_idle(self, count: int) -> None:
        if self.environment.model != "thread":
            return  # in the others each connection has a process of its own
        now = time.monotonic()
        latest = int((now - IDLE) * 1e9)
        order = Order("move", now + self.environment.config.graceful_timeout, "reload")
        for _, words in self.environment.scoreboard.taken():
            if count <= 0:
                return
            rests = words[record.WAITING] and words[record.STATUS] == record.CLEAN
            if rests and words[record.ACTIVE_AT] <= latest and not words[record.ENDED]:
                if not self.notice_delivery.notify(words, order):
                    return
                count -= 1

    def met_keeper(self) -> None:
        """Nothing to do: handlers find it by themselves."""

    def look(self) -> None:
        """Nothing to do: the loop looks each time round."""

    def look_at(self, when: float) -> None:
        """Nothing to do: the loop waits no longer than that."""

    def _patience(self, patience: float | None) -> float | None:
        """Return how long the loop may wait for something to happen."""
        timeout = earlier(patience, self.lingering.patience(self._timeout()))
        if self.link.held_until in (0.0, float("inf")):
            return timeout
        held = max(0.0, self.link.held_until - time.monotonic())
        return held if timeout is None else min(timeout, held)

    def _timeout(self) -> float | None:
        if self.order is None or self.order.deadline == float("inf"):
            return None
        return max(0.0, self.environment.cut_off(self.order) - time.monotonic())


def _make(entry: Entry) -> None:
    entry.conn = conn = Connection(entry.sock, lease=entry.lease, hooks=entry.hooks)
    disown(conn)  # a pattern is nothing to let go of


def run_handler(loop: SyncLoop, entry: Entry, lingering: LingeringCloses | None = None) -> None:
    """Call the handler on a connection, in this thread, and end or hand over the connection.

    lingering: where the peer's end is waited for, if not here; `SyncLoop.done` is to follow.
    Whatever raises here ends this connection and nothing else.
    """
    try:
        ended = False
        while not ended:
            entry.hooks.backup = entry.offer
            conn, entry.conn = entry.conn, None
            if conn is None:
                conn = Connection(entry.sock, lease=entry.lease, hooks=entry.hooks)
            assert isinstance(conn, Connection)
            if not entry.peer:
                loop.roster.introduce(entry, conn.peer)
            if loop.environment.connect_log:
                loop.roster.log_begin(entry)
            loop.post.attached(conn)
            _call_handler(loop, entry, conn)
            ended = finish(loop, entry, conn, lingering)
    except Exception as error:
        loop.roster.cannot_serve(entry, error)
        loop.settlement.log_end(entry)


def end_handler(
    loop: SyncLoop,
    entry: Entry,
    conn: Connection,
    pid: int,
    returned: object,
    error: BaseException | None,
) -> None:
    """As the rest of `run_handler`, where somebody else has called the handler in process `pid`."""
    try:
        _note_end(loop, entry, conn, pid, returned, error)
        if finish(loop, entry, conn):
            return
    except Exception as failure:
        loop.roster.cannot_serve(entry, failure)
        loop.settlement.log_end(entry)
    else:
        run_handler(loop, entry)


def finish(
    loop: SyncLoop, entry: Entry, conn: Connection, lingering: LingeringCloses | None = None
) -> bool:
    """End the connection or hand it over, when its handler has ended or was given up.

    Returns False when nobody takes it: it is to be served here, from the top.
    """
    core = conn.core
    logs = loop.environment.access_log
    if core.life.peer_ended and not (core.life.over or core.client_hello or logs):
        close(conn, entry)  # as most do: nothing is to be told, and nobody waited for
        return True
    if core.client_hello:
        note_tls(conn, entry)
    if logs:
        note_end(conn, entry)
    if conn.overdue:
        loop.roster.note_overdue(conn)
    if not was_detached(conn):
        close(conn, entry, lingering, _linger(loop, entry))
        loop.post.left(entry, conn)
    else:
        handoff = conn.hand_over()
        taken = _hand_over(loop, entry, handoff)
        loop.post.left(entry, conn)
        if not taken:
            loop.roster.again(entry, handoff)
            return False
        if handoff.parked:
            return True  # that is no end, and comes too often to be told
    if logs:
        loop.settlement.log_end(entry)
    return True


def go_on_without(loop: SyncLoop, entry: Entry, conn: Shell) -> bool:
    """As `finish`, deep in a verb that a runaway handler has called and that does not return."""
    assert isinstance(conn, Connection)
    conn._reset_after_fork()  # it may stand in a send, with the lock that the end takes
    entry.why = "the handler did not end"
    return finish(loop, entry, conn)


def _call_handler(loop: SyncLoop, entry: Entry, conn: Connection) -> None:
    pid = os.getpid()
    returned, error = None, None
    token = handling.set(conn)
    try:
        if entry.lease.reply:
            conn.complete_reply()
        returned = loop.environment.handler.call(conn)
    except BaseException as raised:
        error = raised
    try:
        if error is not None or returned is not None or os.getpid() != pid:
            _note_end(loop, entry, conn, pid, returned, error)
    finally:
        del error  # which leads to this frame, and so back to itself
        handling.reset(token)


def _note_end(
    loop: SyncLoop,
    entry: Entry,
    conn: Connection,
    pid: int,
    returned: object,
    error: BaseException | None,
) -> None:
    """Heed how a handler that was called in process `pid` has ended."""
    handler = loop.environment.handler
    if os.getpid() != pid:
        end_forked(handler.name, loop.environment.scoreboard, error)
    try:
        if type(error) is Detached:
            return  # as most do where connections are parked
        if error is not None:
            raise error
        if returned is not None:
            refuse_coroutine(returned, handler.name)
    except Unfit:
        raise  # it cannot be served
    except BaseException as failure:
        note_exception(failure, conn, entry)
    finally:
        del error  # as where it was caught: its traceback leads here


def _linger(loop: SyncLoop, entry: Entry) -> float:
    """Return for how many seconds the peer's end may be waited for where nothing else is done."""
    hooks = entry.hooks
    if hooks.orders is not None and not hooks.orders.given:
        return LINGER
    order = hooks.drain_signal.order if hooks.drain_signal is not None else None
    return LINGER if order is None else loop.environment.linger(order)


def close(
    conn: Connection,
    entry: Entry | None = None,
    lingering: LingeringCloses | None = None,
    linger: float = LINGER,
) -> None:
    """Close a connection in an orderly way when its handler has ended.

    Whatever mode the handler has set: it may be one that does not wait for the peer's end.
    """
    try:
        if lingering is None or not lingering.has_room:
            conn.end(linger)
        elif (sock := conn.end(linger, aside=True)) is not None:
            lingering.add(sock)
    except OSError as error:  # the handler has closed the descriptor under it
        if entry is not None:
            note_exception(error, conn, entry)


def _hand_over(loop: SyncLoop, entry: Entry, handoff: Handoff) -> bool:
    """Give the connection away, or end it; False when nobody takes it, and it is to be served on.

    That is so when the keeper is gone: a connection must not end for that.
    """
    channel = loop.environment.channel
    # What only moves can be served on here, should the keeper die before it has read the message.
    if handoff.parked and entry.returns_to:
        whole = loop.roster.parcel(entry, handoff) or loop.roster.detached(entry, handoff)
        if give_back(channel, whole, handoff, entry.returns_to):
            return True
    drain_signal = entry.hooks.drain_signal
    order = (drain_signal.order or drain_signal.asked(entry.record)) if drain_signal else None
    deadline = order.deadline if order else time.monotonic()
    detached = loop.roster.detached(entry, handoff)
    found = False
    while True:
        try:
            if hand_over(channel, loop.reserve, detached, handoff, deadline):
                return True
            gone = channel.closed
        except ChannelClosed:
            gone = True  # the channel may lead to another one by now
        if entry.record[record.ENDED] == record.TAKEN:
            # Its answer has gone with it, but another worker may be serving the connection.
            handoff.sock.close()
            return True
        if not gone:
            if handoff.parked:
                return False
            _log.warning(
                "connection closed: the keeper did not take it", id=detached.id, peer=entry.peer
            )
            entry.record[record.ENDED] = Ended.CLOSED
            # A connection of its own, so that the close is the orderly one.
            Connection(handoff.sock).close()
            return True
        if found or not loop.rejoin():
            return False
        found = True


class LoopDrainSignal:
    """The drain signal of connections in the loop's own process: they know what the loop knows."""

    def __init__(self, loop: SyncLoop) -> None:
        self._loop = loop
        self._words = loop.environment.scoreboard.words

    @property
    def order(self) -> Order | None:
        return self._loop.link.order

    def asked(self, record: Record) -> Order | None:
        return self._loop.notices.asked(record)

    @property
    def crowded(self) -> bool:
        return self._words[CROWDED] != 0

    @property
    def full(self) -> bool:
        return self._loop.is_full

    def is_awaited(self) -> bool:
        return self._loop.is_awaited()
