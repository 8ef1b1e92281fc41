"""The keeper's world without processes: a clock, deaths and the far ends of its channels.

The clock moves only when the test moves it, and the processes of this `System` are objects here.
The test plays the templates and the workers: it reads what the keeper sends them and answers, in
whatever order it wants to try.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, Literal, NoReturn, cast

from socketkeep._keeper.connections import _fdstore, _post
from socketkeep._keeper.loop import _notify, _reactor, _system
from socketkeep._keeper.tables import _connection_table, _names, _ownership, _records, _state
from socketkeep._worker import _accepting
from tests.harness.configuration import Model, configuration_in
from tests.harness.seam import (
    Row,
    board_in,
    connection_name,
    count_accepted,
    parts_of_name,
    status_word,
)
from tests.wire.sending import CHANNEL_CLOSED, channel_on, kind_of, message, send_with

BOOT: Final = 0xB007
OnCrash = Literal["close", "reset", "resume"]


class Clock:
    """Stands still unless moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SteppedReactor(_reactor.Reactor):
    """A reactor that can tell when there is nothing left to do at this moment."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.stopped = False
        self._active = False

    def register(
        self, fd: int, callback: _reactor.Callback, events: int = _reactor.READABLE
    ) -> None:
        def noted(ready: int) -> None:
            self._active = True
            callback(ready)

        super().register(fd, noted, events)

    def stop(self) -> None:
        self.stopped = True

    def failed(self, error: Exception) -> None:
        """A server would log it and go on: here it must not be overlooked."""
        raise error

    def settle(self) -> None:
        """Run until nothing is ready."""
        for _ in range(1000):
            self._active = False
            self.run_once(0.0)
            if not self._active:
                return
        raise AssertionError("the reactor spins")


def held_connection(
    sock: socket.socket,
    name: str,
    epoch: int,
    state: bytes | None = None,
    where: str = "moving",
    **more: Any,
) -> _connection_table.HeldConnection:
    """Return a connection that the keeper has and no worker, as its table does."""
    handoff = message("Detached", name, epoch, 0, "a peer", state, b"", 0, 0, 0, **more)
    return _connection_table.HeldConnection(handoff, sock, owned(where, epoch), since=0.0)


def owned(where: str, epoch: int, worker: int | None = None) -> _ownership.Ownership:
    """Return who has a connection; where: its state, as the page of states names it."""
    return _ownership.Ownership(_ownership.OwnershipState(where), epoch, worker)


def name_table() -> _names.NameTable:
    """Return a table of what connections are called, in which nothing stands yet."""
    return _names.NameTable()


def named(connection: str, epoch: int, owner: int | None) -> _names.NamedConnection:
    """Return a connection that can be called something; owner: the serial of its worker."""
    return _names.NamedConnection(connection, epoch, owner)


def make_post(reactor: _reactor.Reactor, unowned: Any) -> _post.Post:
    """Return the post of a server that asks senders to wait for who is on the move."""
    return _post.Post(reactor, unowned, lambda: "keep")


def adopted_worker(listeners: tuple[int, ...]) -> _records.AdoptedWorker:
    """Return what is known of a worker that a keeper before this one has left; it moves."""
    return _records.AdoptedWorker(moves=True, listeners=listeners)


def real_system() -> _system.System:
    """Return the operating system itself."""
    return _system.System()


def sealed(name: str, data: bytes) -> int:
    """Return a descriptor of memory that has these bytes for good."""
    return _state.sealed_memfd(name, data)


def listener_stored_as(address: str) -> str:
    """Return the name by which a listener is in a store."""
    return _fdstore.listener_name(address)


def stored_settings(passed: Collection[tuple[str, int]]) -> bytes | None:
    """Return the settings among what a store gives to a keeper."""
    return _fdstore.stored_settings(passed)


class ServiceManager(_notify.Notifier):
    """Notes what is given to its store and taken back, in the order in which it is told."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.sent: list[str] = []
        self.has_room = True

    def send(self, *words: str, descriptors: Collection[int] = (), again: bool = False) -> bool:
        if self.has_room:
            assert len(descriptors) == ("FDSTORE=1" in words)
            sign = "+" if descriptors else "-"
            self.sent.append(sign + words[-1].removeprefix("FDNAME=socketkeep."))
        return self.has_room

    def store(
        self,
        reactor: _reactor.Reactor,
        names: Collection[str] = (),
        passes_on: bool = False,
    ) -> _fdstore.FdStore:
        """Return the keeper's view of its store, in which these are."""
        return _fdstore.FdStore(reactor, self, 9, 100, names, passes_on=passes_on)


@dataclass(eq=False)
class Process:
    """A process that exists in the test alone."""

    pid: int
    name: str
    exit: _system.Exit | None = None
    reaped: bool = False
    is_child: bool = True
    signals: list[signal.Signals] = field(default_factory=list)
    bells: list[int] = field(default_factory=list)
    at_death: list[Callable[[], None]] = field(default_factory=list)

    def die(self, status: int = 0) -> None:
        """End; the keeper learns of it at the reactor's next round."""
        if self.exit is not None:
            return
        self.exit = _system.Exit(status)
        for call in self.at_death:
            call()
        for bell in self.bells:
            os.eventfd_write(bell, 1)

    def quiet(self) -> None:
        """Nobody watches it any more."""
        while self.bells:
            os.close(self.bells.pop())


class Executed(BaseException):
    """The keeper has been replaced by what goes on from `state`."""

    def __init__(self, state: _state.SavedServer) -> None:
        super().__init__()
        self.state = state


class Check:
    """The process that sees whether a new version can take over, played by the test."""

    def __init__(self, process: Process, state: _state.SavedServer, error_fd: int) -> None:
        self.process = process
        self.state = state
        self._error_fd = error_fd
        process.at_death.append(lambda: os.close(error_fd))

    def passes(self) -> None:
        self.process.die(0)

    def fails(self, text: str, status: int = 1) -> None:
        os.write(self._error_fd, text.encode())
        self.process.die(status)


class FakeSystem(_system.System):
    """Processes without an operating system."""

    def __init__(self) -> None:
        self.subreaper = False
        self.processes: dict[int, Process] = {}
        self.templates: list[Template] = []
        self.resident: dict[int, int] = {}
        self.no_process = False  # spawning fails
        self.no_pidfd = 0  # so many times opening one fails
        self.checks: list[Check] = []
        self.no_execution = False  # executing a program fails
        self.mask: list[int] = []
        self.have_the_port: set[int] = set()  # besides those that are known to
        self.others_have: set[int] = set()  # inodes
        self.sees_all = True
        self._of_pidfd: dict[int, Process] = {}

    def serve_as(self, user: str, uid: int) -> None:
        """Have what is started to serve be of this user."""
        self.account = cast("Any", SimpleNamespace(name=user, uid=uid, gid=uid, groups=(uid,)))

    def add(self, name: str) -> Process:
        process = Process(1001 + len(self.processes), name)
        self.processes[process.pid] = process
        return process

    def become_subreaper(self) -> None:
        self.subreaper = True

    def born(self, pid: int) -> int:
        return pid if pid in self.processes and self.processes[pid].exit is None else 0

    def spawn_template(self, channel_fd: int, place_fd: int = -1) -> int:
        if self.no_process:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        process = self.add("template")
        sock = socket.socket(fileno=os.dup(channel_fd))
        self.templates.append(Template(self, process, channel_on(sock)))
        return process.pid

    @property
    def check(self) -> Check | None:
        """The check that is under way."""
        running = [check for check in self.checks if check.process.exit is None]
        return running[0] if running else None

    def spawn_check(self, state_fd: int, error_fd: int) -> int:
        if self.no_process:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        process = self.add("check")
        self.checks.append(Check(process, _state.read_state(state_fd), os.dup(error_fd)))
        return process.pid

    def become(self, state_fd: int, descriptors: Iterable[int]) -> NoReturn:
        if self.no_execution:
            raise OSError(12, "Cannot allocate memory")
        assert signal.SIGTERM in self.mask
        state = _state.read_state(state_fd)
        assert state.descriptors == list(descriptors)
        raise Executed(state)

    def block_signals(self, signals: Iterable[signal.Signals]) -> list[int]:
        before, self.mask = self.mask, [*self.mask, *signals]
        return before

    def set_signal_mask(self, blocked: Iterable[int]) -> None:
        self.mask = list(blocked)

    def open_pidfd(self, pid: int) -> int:
        process = self.processes[pid]
        if process.reaped:
            raise ProcessLookupError
        if self.no_pidfd:
            self.no_pidfd -= 1
            raise OSError(24, "Too many open files")
        bell = os.eventfd(0, os.EFD_CLOEXEC)
        process.bells.append(os.dup(bell))
        if process.exit is not None:
            os.eventfd_write(bell, 1)
        self._of_pidfd[bell] = process
        return bell

    def kill(self, pidfd: int, number: signal.Signals) -> None:
        process = self._of_pidfd[pidfd]
        process.signals.append(number)
        if number == signal.SIGKILL:
            process.die(-number)

    def reap(self, pidfd: int) -> _system.Exit | None:
        process = self._of_pidfd[pidfd]
        assert not process.reaped, f"{process.name} was reaped twice"
        process.reaped = process.exit is not None
        if process.reaped:
            process.quiet()
        return process.exit

    def children(self) -> set[int]:
        return {p.pid for p in self.processes.values() if p.is_child and not p.reaped}

    def has_mapped(self, pid: int, memfd: int, *, child: bool) -> bool:
        """Whether it is a worker, or a process that one has forked."""
        process = self.processes.get(pid)
        return process is not None and process.name not in ("template", "check", "stranger")

    def is_forked_by(self, pid: int, template: int) -> bool:
        process = self.processes.get(pid)
        return process is not None and process.name.startswith("worker")

    def end_descendants(self) -> int:
        living = [p for p in self.processes.values() if p.exit is None]
        for process in living:
            process.die(-9)
        return len(living)

    def ended_child(self) -> int | None:
        ended = [p for p in self.processes.values() if p.is_child and p.exit and not p.reaped]
        return ended[0].pid if ended else None

    def reap_child(self, pid: int) -> _system.Exit | None:
        process = self.processes[pid]
        assert not process.reaped, f"{process.name} was reaped twice"
        process.reaped = process.exit is not None
        return process.exit

    def is_child(self, pid: int) -> bool:
        return pid in self.children()

    def holding(self, pids: Iterable[int], inodes: Collection[int]) -> set[int]:
        assert inodes
        return self.have_the_port & set(pids)

    def held_by_others(self, inodes: Collection[int]) -> tuple[set[int], bool]:
        return self.others_have & set(inodes), self.sees_all

    def resident_bytes(self, pid: int) -> int:
        return self.resident.get(pid, 0)

    def unreaped(self) -> list[str]:
        """Return the names of the processes that the keeper has left behind."""
        return [p.name for p in self.processes.values() if not p.reaped]

    def close(self) -> None:
        for process in self.processes.values():
            process.quiet()
        for template in self.templates:
            template.close()


class Far:
    """The far end of one of the keeper's channels."""

    def __init__(self, process: Process, channel: Any) -> None:
        self.process = process
        self.channel = channel
        self.closed = False
        process.at_death.append(self.close)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, sent: Any, descriptors: tuple[int, ...] = ()) -> None:
        send_with(self.channel, sent, descriptors)

    def packets(self) -> Iterator[Any]:
        """Yield what has arrived; ends where the keeper closed the channel, and notes that."""
        with suppress(CHANNEL_CLOSED):
            while (packet := self.channel.receive()) is not None:
                yield packet
            return
        self.closed_by_keeper = True

    closed_by_keeper = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.channel.close()

    def hang_up(self) -> None:
        """Close the channel, as a process does a moment before its death can be seen."""
        Far.close(self)

    def die(self, status: int = 0) -> None:
        self.process.die(status)


class Template(Far):
    """A generation's template, played by the test."""

    def __init__(self, system: FakeSystem, process: Process, channel: Any) -> None:
        super().__init__(process, channel)
        self.system = system
        self.workers: list[FarWorker] = []
        self.unforked: list[tuple[Any, list[int]]] = []
        self.model: Model = "async"
        self.load: Any = None
        self.model_told = False
        self.tells = "template"  # who says that a worker was forked
        self.hangs = False  # in the user's code: it reads nothing
        self.process.at_death.append(self._drop)

    def read(self) -> None:
        for packet in self.packets():
            match kind_of(packet.message):
                case "Load":
                    load = packet.message
                    assert len(packet.descriptors) == len(load.listeners)
                    packet.close()
                    self.load = load
                case "ForkWorker":
                    self.unforked.append((packet.message, packet.descriptors))
                case _:
                    raise AssertionError(f"a template was sent {packet.message}")
        if self.closed_by_keeper and self.process.exit is None and not self.hangs:
            self.die(0)

    def loaded(
        self,
        model: Model = "async",
        *,
        resumable: bool = True,
        on_crash: OnCrash = "close",
        redeliver: bool = False,
    ) -> None:
        self.read()
        assert self.load is not None
        configuration_in(self.load.config)
        self.model = model
        self.model_told = True
        self.send(message("Loaded", model, resumable, [], on_crash, redeliver))

    def load_failed(self, error: str, exit_code: int = 4) -> None:
        self.send(message("LoadFailed", error, exit_code))
        self.die(0)

    def fork(self) -> list[FarWorker]:
        """Fork what has been asked for."""
        self.read()
        forked = []
        while self.unforked:
            wanted, (channel_fd, memfd, wake, *census) = self.unforked.pop(0)
            for fd in census:
                os.close(fd)
            worker = FarWorker(
                self.system.add(f"worker {wanted.serial} in slot {wanted.slot}"),
                channel_on(socket.socket(fileno=channel_fd)),
                serial=wanted.serial,
                slot=wanted.slot,
                board=board_in(memfd),
                wake=wake,
            )
            os.close(memfd)
            if self.tells in ("worker", "both"):
                self.send(message("Began", wanted.serial, worker.pid))
            if self.tells != "worker":
                self.send(message("Forked", wanted.serial, worker.pid))
            forked.append(worker)
        self.workers += forked
        return forked

    def fork_failed(self, error: str = "Resource temporarily unavailable") -> None:
        """Have no process for what has been asked for."""
        self.read()
        for wanted, fds in self.unforked:
            self.send(message("ForkFailed", wanted.serial, error))
            for fd in fds:
                os.close(fd)
        self.unforked.clear()

    def _drop(self) -> None:
        for _, fds in self.unforked:
            for fd in fds:
                os.close(fd)
        self.unforked.clear()

    def close(self) -> None:
        super().close()
        if not hasattr(self, "workers"):
            return
        if self.process.exit is None:
            self._drop()
            for worker in self.workers:
                worker.close()


class FarWorker(Far):
    """A worker, played by the test."""

    def __init__(
        self,
        process: Process,
        channel: Any,
        *,
        serial: int,
        slot: int,
        board: Any,
        wake: int,
    ) -> None:
        super().__init__(process, channel)
        self.serial = serial
        self.slot = slot
        self.board = board
        self.wake = wake
        self.said_ready = False
        self.accept_below = 0
        self.allowance = _accepting.Allowance(board, max_connections=1)  # whichever it is
        self.allotments = 0
        self.listens = True
        self.crowded = 0  # how often it was told
        self.pings = 0
        self.to_end: list[Any] = []  # connections that it was told to end
        self.order: Any = None
        self.acknowledged: list[Any] = []
        self.arrived: list[tuple[Any, list[int]]] = []
        self.truncated: list[Any] = []
        self.connections: dict[str, Served] = {}
        self._numbers = 0
        self.process.at_death.append(self._drop)

    def read(self) -> None:
        for packet in self.packets():
            told = packet.message
            match kind_of(told):
                case "Seats":
                    self.accept_below = told.accept_below
                    self.allowance.told(told)
                    self.allotments += 1
                case "CloseListeners":
                    self.listens = False
                case "Retire":
                    self.order = told
                    self.allowance.accept_no_more()
                case "Acknowledged":
                    self.acknowledged.append(told)
                case "Attach":
                    self.arrived.append((told, packet.descriptors))
                case "Crowded":
                    self.crowded += 1
                case "Disconnect":
                    self.to_end.append(told)
                case "GiveUp":
                    pass  # those that are idle: it has none
                case "Ping":
                    self.pings += 1
                case None:
                    self.truncated.append(packet)
                    packet.close()
                case _:
                    raise AssertionError(f"a worker was sent {told}")

    def told(self) -> str:
        """Return how it was told to retire; "" when it was not."""
        return self.order.how if self.order else ""

    def record(self, row: int) -> Row:
        """Return a row of its scoreboard."""
        return Row(self.board.record(row))

    def ready(self) -> None:
        """Say that it can serve; it ends when nobody is there to hear it."""
        self.said_ready = True
        try:
            self.send(message("Ready", self.pid))
        except CHANNEL_CLOSED:
            self.die(0)

    def start_failed(self, error: str) -> None:
        self.send(message("StartFailed", error))
        self.die(0)

    def accept(self, sock: socket.socket, peer: str = "a peer") -> Served:
        """Serve a new connection, as a worker does without a word to the keeper."""
        self._numbers += 1
        row = self.board.claim()
        assert row is not None
        record = self.record(row)
        record.name(BOOT, self.serial, self._numbers)
        record.epoch, record.pid = 1, self.pid
        self.board.set_peer(row, peer)
        count_accepted(self.board)
        name = connection_name(BOOT, self.serial, self._numbers)
        served = Served(self, name, 1, row, sock)
        served.peer = peer
        self.connections[name] = served
        return served

    def attach(self) -> Served:
        """Take the connection that arrived first."""
        attach, (fd,) = self.arrived.pop(0)
        row = self.board.claim()
        assert row is not None
        record = self.record(row)
        record.name(*parts_of_name(attach.id))
        record.epoch, record.pid = attach.epoch, self.pid
        if self.board.keeps_states:
            self.board.shelf(row).put(attach.state, attach.reply)
        if attach.redelivered:
            record.status = "again"
        if attach.kept:
            record.keep = "kept"
        served = Served(self, attach.id, attach.epoch, row, socket.socket(fileno=fd))
        served.attach = attach
        self.connections[attach.id] = served
        if not attach.taken:
            self.send(message("Attached", attach.id, attach.epoch, row))
        return served

    def refuse(self, reason: str = "no seat") -> None:
        """Refuse the connection that arrived first."""
        attach, fds = self.arrived.pop(0)
        for fd in fds:
            os.close(fd)
        self.allowance.refuse()
        self.send(message("Refused", attach.id, attach.epoch, reason))

    def say_ended(self, name: str, epoch: int) -> None:
        """Tell the keeper that a connection has ended which was given to it so."""
        self.send(message("Ended", [(name, epoch)]))

    def say_attached(self, name: str, epoch: int, row: int = -1) -> None:
        """Tell the keeper that it has taken a connection, whether or not it was given it."""
        self.send(message("Attached", name, epoch, row))

    def say_refused(self, name: str, epoch: int, reason: str) -> None:
        """Tell the keeper that it has not taken a connection, whether or not it was given it."""
        self.send(message("Refused", name, epoch, reason))

    def _drop(self) -> None:
        for served in self.connections.values():
            served.sock.close()
        for _, fds in self.arrived:
            for fd in fds:
                os.close(fd)
        self.arrived.clear()
        os.close(self.wake)

    def close(self) -> None:
        was_closed = self.closed
        super().close()
        if not was_closed and self.process.exit is None:
            self._drop()


@dataclass(eq=False)
class Served:
    """One connection in a worker."""

    worker: FarWorker
    id: str
    epoch: int
    row: int
    sock: socket.socket
    attach: Any = None
    peer: str = "a peer"

    @property
    def record(self) -> Row:
        """Its row."""
        return self.worker.record(self.row)

    def is_kept(self) -> bool:
        """Return whether the keeper has said that it has a handle of it."""
        return self.record.keep == "kept"

    def handoff(
        self,
        state: bytes | None = None,
        unread: bytes = b"",
        *,
        parked: bool = False,
        active_at: float = 0.0,
    ) -> Any:
        return message(
            "Detached",
            *(self.id, self.epoch, 0, self.peer, state, unread, 1, 2, 3, parked),
            int(active_at * 1e9),
            row=self.row,
        )

    def detach(self, state: bytes | None = None, unread: bytes = b"", pipe: int = -1) -> None:
        """Offer it to the keeper; `pipe` is the write end for the answer, where it has one."""
        descriptors = (self.sock.fileno(), *((pipe,) if pipe >= 0 else ()))
        self.worker.send(self.handoff(state, unread), descriptors)

    def park(self, state: bytes | None = None, active_at: float = 0.0) -> None:
        """Have the keeper watch it; `active_at` is when bytes last passed."""
        handoff = self.handoff(state, parked=True, active_at=active_at)
        self.worker.send(handoff, (self.sock.fileno(),))

    def hand_over(
        self, model: Model, state: bytes | None = None, *, parked: bool = False
    ) -> Callable[[], bool]:
        """Detach or park it as a worker of that model does; return how to see the answer.

        A sync worker's thread or child waits for the keeper's word on a pipe, and needs no word for
        a connection that it had from the keeper, which keeps a handle, and that waits again.
        """
        handoff = self.handoff(state, parked=parked)
        if model == "async":
            told = len(self.worker.acknowledged)
            self.worker.send(handoff, (self.sock.fileno(),))
            return lambda: [each.taken for each in self.worker.acknowledged[told:]] == [True]
        if parked and self.attach is not None and self.attach.returnable:
            self.worker.send(handoff)
            return lambda: True
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.worker.send(handoff, (self.sock.fileno(), write))
        os.close(write)

        def answered() -> bool:
            try:
                return len(os.read(read, 2)) == 1
            finally:
                os.close(read)

        return answered

    def keep(self) -> None:
        """Entrust the keeper with a handle."""
        self.record.keep = "offered"
        self.worker.send(self.keeping(self.sock.fileno()))

    def keeping(self, handle: int) -> Any:
        """Return the message that entrusts the keeper with this handle of it."""
        return message("Keep", self.id, self.epoch, self.row, 0, "a peer", handle)

    def commit(self, state: bytes | None) -> None:
        """Put the state where the keeper finds it, and be clean."""
        self.worker.board.shelf(self.row).put(state)
        self.record.status = "clean"

    def become(self, status: str) -> None:
        """Be in the middle of a message."""
        again = self.record.status.endswith("again")
        self.record.status = f"{status} again".removeprefix("clean ") if again else status

    def say_ended(self) -> None:
        """Tell the keeper, which has a handle too, that it has ended."""
        self.worker.say_ended(self.id, self.epoch)

    def say_orphaned(self, state: bytes | None = None, reply: bytes = b"") -> None:
        """Tell the keeper that the process which was forked for it has died."""
        status = status_word(self.record.status)
        self.worker.send(message("Orphaned", self.id, self.epoch, status, state, 2, 3, reply))
        self.record.ended = "detached"

    def settle(self, ended: str = "detached") -> None:
        """It has ended here: free its row and this handle."""
        self.record.ended = ended
        self.worker.board.release(self.row)
        del self.worker.connections[self.id]
        self.sock.close()
        if self.worker.board.crowded:
            self.worker.send(message("Free"))
