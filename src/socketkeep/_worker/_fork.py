"""The `fork` model: a process a connection.

The notes' loop: accept, fork; the child closes the listener, the parent closes the accepted socket.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from socketkeep._base import _log
from socketkeep._base._forking import drop, leave, let_go_of
from socketkeep._base._originals import Socket, socket_pair
from socketkeep._native import core
from socketkeep._net._children import Child, Children, is_unknown, leave_after, status_text
from socketkeep._stream import _record as record
from socketkeep._stream._connection import Connection
from socketkeep._stream._lease import Hooks, Lease, Order, handling
from socketkeep._stream._modes import Timeout
from socketkeep._stream._record import Record
from socketkeep._stream._shell import Shell
from socketkeep._wire import _rendezvous as rendezvous
from socketkeep._worker._crew import IDLE, Crew, Hand
from socketkeep._worker._entry import Entry
from socketkeep._worker._mould import DIFFERING, Mould, make_mould
from socketkeep._worker._notices import BRIEFLY
from socketkeep._worker._roster import Roster
from socketkeep._worker._sync import SyncLoop, end_handler, go_on_without, run_handler

if TYPE_CHECKING:
    from collections.abc import Callable

    from socketkeep._native._core import ForkServer

#: The interpreter rewrites bytecode that runs for the first times (PEP 659).  Where that is done in
#: the worker, its children have no need to copy those pages.
_REHEARSALS: Final = 40

#: Seconds from when a child that waits is missing to when it is forked.
_PAUSE: Final = 0.002
#: The same, where one has died by itself: the next may, too.
_SLOWLY: Final = 1.0

_MODE: Final = Timeout(30)


class ForkModel:
    """Forks a child for each connection and learns of its end by its pidfd."""

    def __init__(self, loop: SyncLoop) -> None:
        self._loop = loop
        self.drain_signal = _ScoreboardDrainSignal(loop)
        self._pid = os.getpid()
        self._children: Children[Hand] = Children()
        config = loop.environment.config
        self._crew = Crew(config.spare, config.child_requests)
        self._short_since = 0.0  # of children that wait
        self._unforked: deque[Entry] = deque()
        self._nobodys = Socket()  # of entries whose connection is a child's
        self._nobodys.close()
        self._served: Entry | None = None  # in a child
        self._server: ForkServer | None = None  # in C, where connections come by it
        self._moulds: list[Mould | None] = []  # by the listeners' numbers
        self._trials: list[Mould] = []  # for what a child that waits does beforehand
        self._spare = 0  # children that C has wait
        self._logs = loop.environment.access_log or loop.environment.connect_log
        self._take_snapshot: Callable[[], None] | None = None
        if config.fork_snapshot:
            from socketkeep._worker._fork_snapshot import take_snapshot

            self._take_snapshot = take_snapshot
        self._rehearse(_REHEARSALS)

    def take_over(self) -> None:
        """Have C accept, fork and reap, where nothing is asked before a connection is served."""
        environment = self._loop.environment
        gate, board, roster = self._loop.gate, environment.scoreboard, self._loop.roster
        doors = [-1 if roster.asks(n) else fd for n, fd in enumerate(gate.doors())]
        if core is None or max(doors) < 0 or self._crew.requests > 1:
            return
        if self._crew.spare and min(doors) < 0:
            return
        self._crew.spare, self._spare = 0, self._crew.spare
        closes = gate.closes()
        self._server = core.ForkServer(
            epoll=gate.fileno(),
            board=board.words,
            doors=doors,
            boot=environment.boot,
            serial=environment.serial,
            claim=board.places.reserve,
            serve=self._become_child,
            ended=self._ended,
            unforked=self._have_forked_later,
            exhausted=self._pause,
            known=let_go_of(),
            closes=closes,
            moulds=self._moulds,
            serve_made=self._become_server,
            handler=(handling, environment.handler.call, self._has_returned),
            differing=DIFFERING,
            waiting=(self._trials, _echo, self._prepare_to_wait, self._has_died_waiting),
            # Of what the worker touches later, forks do copy the tables.
            settled=self._take_snapshot,
        )
        self._take_snapshot = None
        gate.poll = self._poll
        self._make_moulds()
        closes += [trial.entry.sock.detach for trial in self._trials]

    def _make_moulds(self) -> None:
        """Have connections made before they are there, where all that come differ as C knows."""
        roster = self._loop.roster
        listeners = self._loop.environment.doors
        self._moulds += [None] * len(listeners)
        alike = [
            number
            for number in range(len(listeners))
            if roster.makes_alike(number) and not roster.asks(number)
        ]
        board = self._loop.environment.scoreboard
        row = board.places.reserve() if alike else None
        if row is None:
            return
        self._rehearse(_REHEARSALS, row)
        for number in alike:
            with suppress(OSError):
                self._moulds[number] = make_mould(
                    roster, listeners[number], number, row, board.record(row)
                )
        if self._spare:
            with suppress(OSError):
                trial = make_mould(roster, listeners[alike[0]], alike[0], row, board.record(row))
                self._trials.append(trial)

    def _poll(self, timeout: float | None) -> list[tuple[int, int]]:
        loop, server = self._loop, self._server
        assert server is not None
        if not loop.gate.has_listeners:
            server.shut()
        before = server.running
        try:
            spare = self._spare if loop.order is None and not loop.gate.paused else 0
            return server.poll(timeout, loop.room, self._is_alone(), spare)
        finally:
            loop.open += server.running - before

    @property
    def busy(self) -> bool:
        """Return whether there are children that serve nothing any more, or nothing yet."""
        return bool(self._children) or (self._server is not None and self._server.idle > 0)

    @property
    def patience(self) -> float | None:
        if self._short_since == 0.0:
            return None
        return max(0.0, self._short_since + _PAUSE - time.monotonic())

    def serve(self, entry: Entry) -> None:
        if entry.lease.attached == "accepted" and not self._unforked:
            child = self._crew.give(entry)
            if child is not None:
                entry.record[record.PID] = child.pid
                drop(entry.sock)
                return
        # In the order they came, and none is dropped while the system has no process for it.
        self._unforked.append(entry)
        self.resume()

    def retire(self, order: Order) -> None:
        for child in self._crew.dismiss():
            self._dismiss(child)
        if self._server is not None:
            self._server.dismiss()
        os.eventfd_write(self._loop.environment.wake, 1)

    def rejoin(self) -> bool:
        """In a child: its channel was copied from the parent, which alone has the new one."""
        environment = self._loop.environment
        if not environment.rendezvous:
            return False
        sock = rendezvous.connect(environment.rendezvous, rendezvous.KEEPER)
        if sock is None:
            return False
        environment.channel.renew(sock)
        return True

    def give_up(self, conn: Shell) -> NoReturn:
        """In a child: end it."""
        status = 1
        try:
            served = self._served or self._made()
            served.conn = None
            if not go_on_without(self._loop, served, conn):
                run_handler(self._loop, served)
            self._has_left(served)
            status = 0
        except BaseException:
            _log.error("connection's process failed", traceback=traceback.format_exc())
        finally:
            leave(status)

    def cut(self, words: Record) -> None:
        """End the child: its row is freed where it is reaped, so that the pid is still its own."""
        pid = words[record.PID]
        if pid != self._pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def force(self) -> None:
        self._children.kill()
        if self._server is not None:
            self._server.kill()

    def resume(self) -> None:
        if self._take_snapshot is not None:
            take_snapshot, self._take_snapshot = self._take_snapshot, None
            take_snapshot()
        while self._unforked:
            entry = self._unforked[0]
            if not self._fork(entry):
                return
            self._unforked.popleft()
        self._refill()

    def _refill(self) -> None:
        """Have as many children wait as should, once there is a moment for it.

        Not at once: whoever has just been given a connection is to come first.
        """
        if self._crew.missing <= 0 or self._loop.order is not None:
            self._short_since = 0.0
            return
        now = time.monotonic()
        if self._short_since == 0.0:
            self._short_since = now
        if now - self._short_since >= _PAUSE:
            while self._crew.missing > 0:
                if not self._fork(None):
                    self._short_since = now + _SLOWLY
                    return
            self._short_since = 0.0

    def _fork(self, entry: Entry | None) -> bool:
        """Fork a child, for a connection or to wait for one; return whether there was room."""
        hand = None
        try:
            hand = self._crew.hand(entry)
            self._children.fork(
                hand,
                None if entry is None else entry.sock,
                partial(self._serve_in_child, hand),
                started=self._watch,
            )
        except OSError as error:
            if hand is not None:
                hand.close()
            if entry is not None:
                self._loop.gate.pause("cannot fork", error.strerror or str(error))
            return False
        return True

    def _watch(self, child: Child[Hand]) -> None:
        hand = child.work
        if hand.entry is not None:
            # The child writes it too, but later: the keeper finds by it whom a dead worker leaves.
            hand.entry.record[record.PID] = child.pid
        else:
            self._crew.wait(child)
        self._loop.watch(child.pidfd, partial(self._reap, child))
        if hand.ours is not None:
            self._loop.watch(hand.ours.fileno(), partial(self._hear, child))

    def _hear(self, child: Child[Hand]) -> None:
        """A child that serves several connections has served one."""
        hand = child.work
        entry = hand.entry
        if not hand.is_done() or entry is None:
            return
        hand.entry = None
        self._loop.done(entry)
        if hand.left > 0 and self._loop.order is None:
            self._crew.wait(child)
        else:
            self._dismiss(child)

    def _dismiss(self, child: Child[Hand]) -> None:
        """Have a child that waits leave."""
        if child.work.ours is not None:
            self._loop.unwatch(child.work.ours.fileno())
        child.work.close()

    def _rehearse(self, times: int, row: int | None = None) -> None:
        """Serve connections as a child does, to its end, with a handler that does what most do.

        row: of the scoreboard, for connections that are made before.
        """
        loop = copy(self._loop)
        of_ours = self._loop.environment
        handler = replace(of_ours.handler, call=_echo)
        loop.environment = replace(of_ours, handler=handler, access_log=False, connect_log=False)
        loop.roster = Roster(loop.environment, self.drain_signal)
        model = copy(self)
        model._loop = loop
        # As a row of the scoreboard is: bytecode is rewritten for the types that it meets.
        words = memoryview(bytearray(8 * record.WORDS)).cast("Q")
        for _ in range(times):
            ours, theirs = socket_pair()
            with theirs:
                theirs.send(b"\n")
                theirs.shutdown(socket.SHUT_WR)
                if row is not None:
                    assert self._server is not None
                    words = loop.environment.scoreboard.record(row)
                    made = make_mould(loop.roster, ours, 0, row, words)
                    entry = self._server.cast(made, row, ours.detach())
                    words = entry.record
                else:
                    lease = Lease(resumable=handler.resumable, peer="nobody")
                    hooks = Hooks(record=words, drain_signal=self.drain_signal)
                    entry = Entry(0, words, ours, lease, hooks, 0)
                words[record.ENDED] = record.NOT_YET
                model._serve(entry)
            with suppress(Exception):  # whatever the code has put in their place
                sys.stdout.flush()
                sys.stderr.flush()

    def _reap(self, child: Child[Hand]) -> None:
        ended = self._children.reap(child)
        if ended is None:
            return
        hand = child.work
        self._loop.unwatch(child.pidfd)
        os.close(child.pidfd)
        if self._crew.gone(child) and ended.si_status != 0:
            _warn_of_death(ended)
            self._short_since = time.monotonic() + _SLOWLY
        entry, untaken = hand.entry, hand.untaken()
        self._dismiss(child)
        if entry is None:
            return
        if untaken >= 0:
            # It has died, or left, before it saw the connection: nobody has read anything of it.
            entry.sock = self._loop.gate.adopt(untaken, entry.listener)
            entry.record[record.PID] = self._pid
            self._unforked.append(entry)
            self.resume()
            return
        self._take_in(entry, child.pid, ended)
        self._loop.done(entry)

    def _ended(self, row: int, pid: int, code: int, status: int) -> None:
        """A child of C's has ended, and there is more to it than to free its row."""
        entry = self._loop.roster.entered(row, self._nobodys, *self._told(row))
        ended = os.waitid_result((pid, 0, int(signal.SIGCHLD), status, code))
        self._take_in(entry, pid, ended)
        self._loop.settlement.settle(entry)

    def _has_died_waiting(self, pid: int, code: int, status: int) -> None:
        """A child that C has forked to wait has ended, and nobody has asked it to."""
        _warn_of_death(os.waitid_result((pid, 0, int(signal.SIGCHLD), status, code)))

    def _told(self, row: int) -> tuple[int, str]:
        board = self._loop.environment.scoreboard
        return record.listener_in(board.record(row)), board.peer(row)

    def _have_forked_later(self, row: int, fd: int, listener: int, peer: str, code: int) -> None:
        """The system has no process for a connection that C has accepted."""
        sock = self._loop.gate.adopt(fd, listener)
        self._unforked.append(self._loop.roster.entered(row, sock, listener, peer))
        self._loop.open += 1
        self._loop.gate.pause("cannot fork", os.strerror(code))

    def _pause(self, code: int) -> None:
        self._loop.gate.pause("out of file descriptors", os.strerror(code))

    def _take_in(self, entry: Entry, pid: int, ended: os.waitid_result) -> None:
        """See what a child's end says of its connection."""
        end = entry.record[record.ENDED]
        if is_unknown(ended):
            died = end in (record.NOT_YET, record.DETACHED)
        else:
            died = ended.si_status != 0
        if end == record.NOT_YET or (died and end == record.DETACHED):
            self._loop.settlement.orphan(entry)
        if died:
            _log.warning(
                "process of a connection died",
                id=entry.lease.id,
                peer=self._loop.environment.scoreboard.peer(entry.row),
                pid=pid,
                status=status_text(ended),
            )

    def _serve_in_child(self, hand: Hand) -> None:
        entry = hand.entry
        if entry is not None:
            self._stand_in(entry.record)
        self._let_go(entry)
        if self._server is not None:
            self._server.forget()
            self._close_moulds()
        for child in self._children:
            child.work.close()
        if hand.ours is not None:
            hand.ours.close()
        if entry is None:
            self._rehearse(1)  # so that what it will touch is its own already
        else:
            self._serve(entry)
        for turn in range(hand.left):
            if entry is not None or turn:
                hand.say_done()
            given = hand.take(None if entry is None and not turn else IDLE)
            if given is None:
                return
            self._stand_in(self._loop.environment.scoreboard.record(given.row))
            sock = self._loop.gate.adopt(given.fd, given.listener)
            served = self._loop.roster.entered(given.row, sock, given.listener, given.peer)
            if given.proxy:
                served.lease = served.lease._replace(proxy=given.proxy)
            self._serve(served)

    def _stand_in(self, words: Record) -> None:
        """In a child, show in a connection's row that this process serves it."""
        words[record.PID] = os.getpid()
        if os.getppid() != self._pid:
            # The worker died in the middle of the fork.  The keeper, which has reaped it, may have
            # read the row before this process stood in it, and given the connection to another.
            # Had the worker been alive here, the keeper would find this process in the row.
            os._exit(0)

    def _prepare_to_wait(self) -> None:
        """In a child that is to wait, where C cannot: let go, and touch what serving will touch."""
        self._children.forget()
        self._children = Children()
        self._let_go()
        for trial in self._trials:
            trial.entry.sock.close()
        self._rehearse(1)

    def _become_child(self, row: int, fd: int, listener: int, peer: str) -> NoReturn:
        """Serve a connection in a child that C has forked, and end."""
        leave_after(self._serve_accepted, row, fd, listener, peer)

    def _serve_accepted(self, row: int, fd: int, listener: int, peer: str) -> None:
        sock = self._loop.gate.adopt(fd, listener)
        self._close_moulds()
        self._serve_made(self._loop.roster.entered(row, sock, listener, peer))

    def _become_server(self, entry: Entry) -> NoReturn:
        """The same, where entry and connection have been made."""
        leave_after(self._serve_made, entry)

    def _serve_made(self, entry: Entry) -> None:
        self._children.forget()
        if len(self._moulds) > 1:
            self._close_moulds(entry)
        if not self._is_bare():
            self._let_go()
        self._serve(entry)

    def _has_returned(
        self, entry: Entry, pid: int, returned: object, error: BaseException | None
    ) -> NoReturn:
        """Go on where C has called the handler, unless the connection has ended as most do.

        pid: of the process in which the handler was called; it may have forked.
        """
        leave_after(self._end, entry, pid, returned, error)

    def _end(self, entry: Entry, pid: int, returned: object, error: BaseException | None) -> None:
        self._served = entry
        conn, entry.conn = entry.conn, None
        handling.set(None)
        assert isinstance(conn, Connection)
        end_handler(self._loop, entry, conn, pid, returned, error)
        self._has_left(entry)

    def _made(self) -> Entry:
        """In a child whose handler C has called: return its entry."""
        (mould,) = self._moulds
        assert mould is not None
        return mould.entry

    def _close_moulds(self, but: Entry | None = None) -> None:
        for mould in (*self._moulds, *self._trials):
            if mould is not None and mould.entry is not but:
                mould.entry.sock.close()

    def _is_alone(self) -> bool:
        """Return whether C may call the handler.

        A child need not know of any other, nor tell anything.
        """
        return len(self._moulds) == 1 and not self._children and not self._logs and self._is_bare()

    def _is_bare(self) -> bool:
        """Return whether nothing is to be let go of but what C has closed."""
        return not (self._unforked or self._loop.has_waiting or self._loop.gate.has_queues)

    def _let_go(self, kept: Entry | None = None) -> None:
        """Close what is not the child's: listeners, and connections that wait for a process."""
        self._loop.gate.forget()
        self._loop.let_go_of_waiting()
        for other in self._unforked:
            if other is not kept:
                other.sock.close()

    def _serve(self, entry: Entry) -> None:
        self._served = entry
        try:
            run_handler(self._loop, entry)
        except BaseException:
            _log.error("connection's process failed", traceback=traceback.format_exc())
            sys.exit(1)
        self._has_left(entry)

    def _has_left(self, entry: Entry) -> None:
        """In a child, note that the keeper has the connection, if it was detached.

        The child's status alone would not say so to a parent whose children the user's code reaps.
        """
        if entry.record[record.ENDED] == record.DETACHED:
            entry.record[record.ENDED] = record.TAKEN


def _warn_of_death(ended: os.waitid_result) -> None:
    _log.warning("waiting process died", pid=ended.si_pid, status=status_text(ended))


def _echo(conn: Connection) -> None:
    conn.mode = _MODE
    while data := conn.recv(65536):
        conn.send(data)
        conn.commit()


class _ScoreboardDrainSignal:
    """The order as the parent, or the keeper for a parent that died, wrote it to the scoreboard."""

    def __init__(self, loop: SyncLoop) -> None:
        self._scoreboard = loop.environment.scoreboard
        self._notices = loop.notices
        self.wake_fd = loop.environment.wake

    @property
    def order(self) -> Order | None:
        order = self._scoreboard.order
        return None if order is None else self._notices.explained(order)

    def asked(self, record: Record) -> Order | None:
        return self._notices.asked(record)

    @property
    def crowded(self) -> bool:
        return False  # there is no seat to wait for: each connection has a process of its own

    @property
    def full(self) -> bool:
        return False

    def is_awaited(self) -> bool:
        return False

    def woken(self) -> None:
        """Nothing to read: the event stays readable, so that every child sees it."""
        if self.order is None:  # another connection is meant
            time.sleep(BRIEFLY)
