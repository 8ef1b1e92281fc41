"""The edges: processes in which the TLS of listeners ends, as the keeper sees them.

Each is started and watched as a template is, over a channel.  After an upgrade of the keeper the
next version starts edges of its own; those that there were accept until these can, and then serve
what they have until that ends: its keys are nowhere else.  So do those of a keeper that has died:
the guard has had this end of the channel, and gives it to the next keeper.  What an edge passes on
is a connection like any that the keeper has accepted itself.  It has no user code, but all that it
reads is from the open internet: what it says is looked at, too.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

import msgspec

from socketkeep._base import _log
from socketkeep._base._passing import Unfit, close_without_waiting
from socketkeep._base._tls_facts import facts_in
from socketkeep._config._server_options import ServeConfig, listener_settings
from socketkeep._keeper.connections._fdstore import EDGE, FdStore
from socketkeep._keeper.connections._tls_files import CannotOpen, TlsFiles
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.loop._system import Exit, System
from socketkeep._keeper.tables._state import KeepOpen, SavedEdge, SavedEdges
from socketkeep._keeper.workers._screening import Nonsense
from socketkeep._keeper.workers._workers import Link, restored_link
from socketkeep._net._listener import Listener
from socketkeep._wire._channel import Channel, Packet, channel_pair
from socketkeep._wire._messages import (
    Admit,
    AskBytes,
    BytesPassed,
    CertificateTold,
    EdgeReady,
    EdgeReport,
    Pace,
    RenewCertificates,
    Retire,
    ServeTls,
    ShakeHands,
    StartFailed,
    StartTls,
    TicketSecrets,
)

_FIRST_DELAY: Final = 0.1  # seconds until one is started again, doubled each time
_LONGEST_DELAY: Final = 30.0
_LONG_ENOUGH: Final = 10.0  # a life of so long, and the next delay is the first one
_EXIT_TIME: Final = 2.0  # seconds that one has to exit, once its channel is closed
_LAST_TIME: Final = 1.0  # seconds for the last bytes to clients, at a stop that has no more time
#: Seconds that one has to answer at least; as long as a connection waits for a worker, if longer.
_ANSWER_TIME: Final = 1.0
_LONGEST_TEXT: Final = 4096
_SECRET_SIZE: Final = 32
#: Seconds for which keys of session tickets are for new ones; for as long they are still taken.
SECRET_TIME: Final = 12 * 3600.0
_MOST_OF_BOOT: Final = 20  # bits of the number of an edge
_NEVER: Final = float("inf")
#: Days before a certificate's expiry from which on it is warned of, and how often.
WARNED_BEFORE: Final = 14
_WARN_EVERY: Final = 24 * 3600.0
_LOOK: Final = 1.0  # seconds between two looks at files
_DAY: Final = 24 * 3600.0

#: Who is told what `BytesPassed` says; None: nobody knows.
Told: TypeAlias = Callable[[BytesPassed | None], None]


@dataclass(slots=True, eq=False)
class RunningEdge:
    """One edge process.

    seat: which of the edges that there are to be it is.  earlier: an earlier version of the keeper
    has started it, or an earlier keeper.  leaves_by: it accepts no more, as `SavedEdge` has it.
    serial: of all that there have been, its number.  stored_as: the name of its channel in the
    guard's store.  orphan: its keeper has died.  asked: who waits for `BytesPassed`, by question.
    """

    seat: int
    pid: int
    link: Link = field(init=False)
    started_at: float = 0.0
    ready: bool = False
    earlier: bool = False
    leaves_by: float | None = None
    serial: int = 0
    stored_as: str = ""
    orphan: bool = False
    asked: dict[int, Told] = field(default_factory=dict)
    accepting: bool = False
    error: str = ""
    report: EdgeReport = field(default_factory=EdgeReport)


class Edges:
    """Has as many running as there are to be; none where no listener has TLS.

    `changed` is called when one has ended.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        config: ServeConfig,
        listeners: Sequence[Listener],
        name: str,
        outlets: Mapping[int, socket.socket],
        changed: Callable[[], None],
        census: int = -1,
        known: Callable[[int], None] = lambda _pid: None,
        boot: int = 0,
    ) -> None:
        """outlets: what they pass connections on by, by the listeners' numbers.

        census: the memfd by which they hold the rates; -1: there are none to hold.

        known: called with the pid of each.  boot: the keeper's.
        """
        self._known = known
        self._reactor = reactor
        self._system = system
        self._config = config
        self._listeners = listeners
        self._name = name
        self._outlets = outlets
        self._changed = changed
        self._census = census
        settings = listener_settings(config, len(listeners))
        self.numbers: Final = frozenset(n for n, said in enumerate(settings) if said.tls)
        self._children = ChildWatch(reactor, system)
        self._running: dict[int, RunningEdge] = {}  # by pid
        self._delays: dict[int, float] = {}  # by seat: until the next one is started there
        self._accepting = False
        self._ending = False
        self._store: FdStore | None = None
        self._totals = EdgeReport()  # of those that have ended
        self._warned: dict[str, float] = {}  # by path of a certificate: when it was warned of
        self._throttle = _log.Throttle()
        # No edge of another keeper, whose connections this one may have, has one of these.
        self._serials = boot << _MOST_OF_BOOT
        self._question = 0
        self._secrets = [os.urandom(_SECRET_SIZE)]
        self._secrets_since = reactor.clock()
        paths = [path for said in settings if said.tls for path in said.tls.files]
        given = paths if system.account is not None else []
        self._files = TlsFiles(tuple(dict.fromkeys(given)))

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[RunningEdge]:
        return iter(tuple(self._running.values()))

    def open_files(self) -> bool:
        """Open the files that edges of another user cannot; whether all could be opened.

        Those that were opened before stay if not.
        """
        try:
            self._files.open()
        except CannotOpen as error:
            _log.error("certificates not renewed: those before stay", error=str(error))
            return False
        return True

    def use(self, config: ServeConfig) -> None:
        """Go by these options from now on, and edges that are started from now on."""
        self._config = config

    def use_store(self, store: FdStore | None) -> None:
        """Have this end of each channel stored there; None: nobody stores any more."""
        self._store = store
        for edge in self:
            self._put(edge)

    @property
    def stored(self) -> set[str]:
        """The names of what is stored of those that run."""
        return {edge.stored_as for edge in self if edge.stored_as}

    def adopt(self, stored: Mapping[str, socket.socket]) -> None:
        """Take over the edges of a keeper that has died, by its ends of their channels.

        They accept no more, and serve what they have.  The ends of those that have died are closed.
        """
        by = self._leaves_by()
        for name, ours in stored.items():
            serial, seat, pid, born = map(int, name.removeprefix(EDGE).split("."))
            if self._system.born(pid) != born:
                ours.close()
                continue
            edge = RunningEdge(
                *(seat, pid, self._reactor.clock()),
                earlier=True,
                leaves_by=by,
                serial=serial,
                stored_as=name,
                orphan=True,
            )
            edge.link = self._link(edge, ours)
            self._watch(edge)
            edge.link.send(Retire("move", by))
            self._kill_after(edge, by)
            _log.info("edge adopted", pid=pid)

    def start(self) -> None:
        """Start those that are wanting."""
        if self.numbers and not self._ending:
            if self._system.account is not None:
                self._files.begin_to_look()
                self._reactor.call_later(_LOOK, self._look)
            for seat in range(self._config.edges):
                self._start(seat)
            self._reactor.call_at(self._secrets_since + SECRET_TIME, self._renew_secrets)

    def _renew_secrets(self) -> None:
        """Have new keys for session tickets; those of the time before are still taken."""
        self._secrets = [os.urandom(_SECRET_SIZE), self._secrets[0]]
        self._secrets_since = self._reactor.clock()
        for edge in self:
            edge.link.send(TicketSecrets(self._secrets))
        self._reactor.call_at(self._secrets_since + SECRET_TIME, self._renew_secrets)

    def admit(self, accepting: bool) -> None:
        """Have connections accepted, or left in the listeners' queues."""
        self._accepting = accepting and not self._ending
        for edge in self:
            self._tell_accepting(edge)

    def renew(self) -> None:
        """Have the files of TLS read anew."""
        if self.open_files():
            for edge in self:
                self._files.tell(edge.link.send)
                edge.link.send(RenewCertificates())

    def shake_hands(self, packet: Packet, message: StartTls) -> None:
        """Have the edge with the fewest connections do what a worker has asked for.

        Where none is ready yet, one that is about to be does it then: what it serves it was told
        first.  The packet is closed by who has received it; without an edge the worker learns so by
        that.
        """
        staying = [edge for edge in self if edge.leaves_by is None]
        able = [edge for edge in staying if edge.ready] or staying
        if not able:
            self._throttle.warning("no edge is there to begin TLS", peer=message.peer)
            return
        edge = min(able, key=lambda each: each.report.open)
        connection, plain = packet.take(message.connection), packet.take(message.plain)
        passed = ShakeHands(
            message.listener, message.peer, message.unread, message.proxy, connection, plain
        )
        try:
            edge.link.send(passed, close_after=True)
        except OSError as error:  # no descriptor for much that is unread
            self._throttle.warning("cannot begin TLS", peer=message.peer, error=error.strerror)
            close_without_waiting(connection)
            close_without_waiting(plain)

    def ask_bytes(self, header: bytes, told: Told) -> None:
        """Ask how many bytes of a connection have passed, whose header this is.

        `told` is called with the edge's answer, None when it has ended, or the connection has, or
        no answer comes within `--orphan-timeout`: it hangs, or somebody has stopped it.
        """
        tls = facts_in(header)
        for edge in self:
            if tls is not None and tls.edge and edge.serial == tls.edge:
                # By the clock, so that none is one that an earlier version has asked.
                self._question = max(self._question + 1, time.monotonic_ns())
                edge.asked[self._question] = told
                edge.link.send(AskBytes(self._question, tls.number))
                patience = max(self._config.orphan_timeout, _ANSWER_TIME)
                self._reactor.call_later(patience, partial(self._unanswered, edge, self._question))
                return
        told(None)

    def _unanswered(self, edge: RunningEdge, question: int) -> None:
        told = edge.asked.pop(question, None)
        if told is not None:
            self._throttle.warning("an edge does not answer", pid=edge.pid)
            told(None)

    def retire(self, deadline: float) -> None:
        """The server ends, and no connection is left: what is on its way to clients goes out."""
        if not self._ending:
            self._ending = True
            until = max(deadline, self._reactor.clock() + _LAST_TIME)
            for edge in self:
                edge.link.send(Retire("finish", until))
                self._kill_after(edge, until)

    def kill_all(self) -> None:
        """End every edge, and its connections, at once."""
        self._ending = True
        self._children.kill_all()

    def totals(self) -> EdgeReport:
        """Return what all edges together have and have done."""
        reports = [self._totals, *(edge.report for edge in self)]
        return _sum(reports)

    def snapshot(self, keep: KeepOpen) -> SavedEdges:
        """Return what the next version of the keeper knows them by."""
        running = [
            SavedEdge(
                seat=edge.seat,
                pid=edge.pid,
                link=edge.link.snapshot(keep),
                started_at=edge.started_at,
                ready=edge.ready,
                report=edge.report,
                leaves_by=edge.leaves_by,
                serial=edge.serial,
                stored_as=edge.stored_as,
                orphan=edge.orphan,
            )
            for edge in self
        ]
        return SavedEdges(
            running=running,
            ended=self._totals,
            secrets=self._secrets,
            aged=self._secrets_since,
            serials=self._serials,
            files=self._files.snapshot(keep),
        )

    def restore(self, saved: SavedEdges) -> None:
        """Take over the edges of an earlier version."""
        self._totals = saved.ended
        self._serials = saved.serials
        if saved.secrets:
            self._secrets, self._secrets_since = saved.secrets, saved.aged
        self._files.restore(saved.files)
        if saved.files:
            self.open_files()
        for each in saved.running:
            edge = RunningEdge(
                each.seat,
                each.pid,
                each.started_at,
                each.ready,
                earlier=True,
                leaves_by=each.leaves_by,
                serial=each.serial,
                stored_as=each.stored_as,
                orphan=each.orphan,
                report=each.report,
            )
            edge.link = restored_link(
                self._reactor,
                each.link,
                partial(self._heard, edge),
                partial(self._hung_up, edge),
                partial(self._condemn, edge),
            )
            self._watch(edge)
            if edge.leaves_by is not None:
                self._kill_after(edge, edge.leaves_by)
        self.start()

    def _start(self, seat: int) -> None:
        if self._ending or any(edge.seat == seat and not edge.earlier for edge in self):
            return
        ours, theirs = channel_pair()
        try:
            with theirs:
                pid = self._system.spawn_edge(theirs.fileno())
        except OSError as error:
            ours.close()
            self._throttle.warning("cannot start an edge", error=error.strerror)
            self._again(seat)
            return
        self._serials += 1
        edge = RunningEdge(seat, pid, started_at=self._reactor.clock(), serial=self._serials)
        edge.link = self._link(edge, ours)
        born = self._system.born(pid)
        edge.stored_as = f"{EDGE}{edge.serial}.{seat}.{pid}.{born}" if born else ""
        self._watch(edge)
        self._put(edge)
        self._files.tell(edge.link.send)
        numbers = sorted(self._outlets)
        edge.link.send(
            ServeTls(
                config=msgspec.msgpack.encode(self._config),
                listeners=[listener.text for listener in self._listeners],
                numbers=numbers,
                sockets=[
                    *(self._listeners[number].fileno() for number in numbers),
                    *(self._outlets[number].fileno() for number in numbers),
                ],
                name=self._name,
                secrets=self._secrets,
                serial=edge.serial,
            )
        )
        if self._census >= 0:
            edge.link.send(Pace(self._census))

    def _look(self) -> None:
        """Have what has changed read anew, as edges do that may look at it themselves."""
        if not self._ending:
            self._reactor.call_later(_LOOK, self._look)
            if self._files.have_changed():
                self.renew()

    def _watch(self, edge: RunningEdge) -> None:
        self._running[edge.pid] = edge
        self._known(edge.pid)
        self._children.watch(edge.pid, partial(self._ended, edge), adopted=edge.orphan)

    def _link(self, edge: RunningEdge, ours: socket.socket) -> Link:
        return Link(
            self._reactor,
            Channel(ours, wary=True),
            partial(self._heard, edge),
            partial(self._hung_up, edge),
            partial(self._condemn, edge),
        )

    def _put(self, edge: RunningEdge) -> None:
        if self._store is not None and edge.stored_as and edge.link.open:
            self._store.add(edge.stored_as, edge.link.fileno())  # told where there is no room

    def _leaves_by(self) -> float:
        drain = self._config.edge_drain
        return self._reactor.clock() + drain if drain else _NEVER

    def _succeed(self, edge: RunningEdge) -> None:
        """Have those leave that an earlier version had in the seat of one that is ready."""
        by = self._leaves_by()
        for other in self:
            if other.seat == edge.seat and other.earlier and other.leaves_by is None:
                other.leaves_by = by
                other.link.send(Retire("move", by))
                self._kill_after(other, by)
                _log.info("edge leaves", pid=other.pid, connections=other.report.open)

    def _kill_after(self, edge: RunningEdge, until: float) -> None:
        if until != _NEVER:
            kill = partial(self._children.kill, edge.pid)
            self._reactor.call_at(until + _EXIT_TIME, kill)

    def _tell_accepting(self, edge: RunningEdge) -> None:
        if edge.ready and edge.accepting != self._accepting:
            edge.accepting = self._accepting
            edge.link.send(Admit(self._accepting))

    def _hung_up(self, edge: RunningEdge) -> None:
        """Its channel has closed; its death is told by the pidfd, if that is what it was."""
        self._reactor.call_later(_EXIT_TIME, partial(self._children.kill, edge.pid))

    def _condemn(self, edge: RunningEdge, why: str) -> None:
        """End an edge that said what cannot be."""
        self._throttle.error(
            "edge killed: what it said cannot be", kind="edge", why=why, pid=edge.pid
        )
        self._children.kill(edge.pid)

    def _heard(self, edge: RunningEdge, packet: Packet) -> None:
        try:
            self._received(edge, packet)
        except (Nonsense, Unfit) as error:
            self._condemn(edge, str(error))

    def _received(self, edge: RunningEdge, packet: Packet) -> None:
        match packet.message:
            case EdgeReady():
                edge.ready = True
                _log.info("edge ready", pid=edge.pid)
                self._tell_accepting(edge)
                self._succeed(edge)
            case StartFailed(error=error):
                edge.error = error[:_LONGEST_TEXT]
            case BytesPassed() as message:
                told = edge.asked.pop(message.question, None)
                if told is not None:
                    told(message if message.taken >= 0 else None)
            case EdgeReport() as report if edge.orphan:
                # Of listeners that may be others now.
                edge.report = msgspec.structs.replace(report, certificates=[])
            case EdgeReport() as report:
                edge.report = report
                self._warn_of_expiry(report)
            case None:
                pass  # it did not arrive
            case message:
                raise Nonsense(f"{type(message).__name__} from who never says it")

    def _ended(self, edge: RunningEdge, ended: Exit) -> None:
        edge.link.drain()
        del self._running[edge.pid]
        edge.link.close()
        if self._store is not None:
            self._store.remove(edge.stored_as)
        asked, edge.asked = edge.asked, {}
        for told in asked.values():
            told(None)
        self._totals = _sum([self._totals, _past(edge.report)])
        orderly = ended.status == 0 or (ended.status is None and not edge.report.open)
        if edge.leaves_by is not None and orderly:
            _log.info("edge has left", pid=edge.pid)
        elif not self._ending:
            lived = self._reactor.clock() - edge.started_at
            if lived >= _LONG_ENOUGH:
                self._delays.pop(edge.seat, None)
            fields = {"error": edge.error} if edge.error else {}
            _log.error(
                "edge ended, and its connections with it",
                pid=edge.pid,
                exit=ended,
                connections=edge.report.open,
                **fields,
            )
            self._again(edge.seat)
        self._changed()

    def _again(self, seat: int) -> None:
        delay = self._delays.get(seat, _FIRST_DELAY)
        self._delays[seat] = min(2 * delay, _LONGEST_DELAY)
        self._reactor.call_later(delay, partial(self._start, seat))

    def _warn_of_expiry(self, report: EdgeReport) -> None:
        now = time.time()
        for told in report.certificates:
            days = (told.expires - now) / _DAY
            due = self._warned.get(told.path, 0.0) + _WARN_EVERY <= now
            if days < WARNED_BEFORE and due:
                self._warned[told.path] = now
                if days < 0:
                    _log.error("certificate is not valid", path=told.path)
                else:
                    _log.warning("certificate expires soon", path=told.path, days=int(days))


def boot_of(name: str) -> int:
    """Return the boot of the keeper that has started the edge which is stored by this name."""
    return int(name.removeprefix(EDGE).partition(".")[0]) >> _MOST_OF_BOOT


def _past(report: EdgeReport) -> EdgeReport:
    """Return what is left of the report of an edge that has ended."""
    return msgspec.structs.replace(report, open=0, shaking=0, certificates=[])


def _sum(reports: Sequence[EdgeReport]) -> EdgeReport:
    handshakes: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    certificates: dict[tuple[int, str], CertificateTold] = {}
    for report in reports:
        handshakes.update(report.handshakes)
        failed.update(report.failed)
        certificates |= {(each.listener, each.path): each for each in report.certificates}
    return EdgeReport(
        open=sum(report.open for report in reports),
        shaking=sum(report.shaking for report in reports),
        handshakes=dict(handshakes),
        resumed=sum(report.resumed for report in reports),
        failed=dict(failed),
        certificates=list(certificates.values()),
    )
