"""An edge and the keeper's record of it, both in this process, over a channel between them."""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from socketkeep import Closed, Listener, SystemFailure, TlsFailure
from socketkeep._base import _log
from socketkeep._edge import _process
from socketkeep._keeper.connections._edges import Edges, boot_of
from socketkeep._stream._edge_handshake import EdgeHandshake
from socketkeep._wire._census import NO_LANE, Census, create_memfd
from socketkeep.proxy import InetAddress, ProxyHeader, read_header
from tests.edge.support import (
    AUTHORITY,
    HANDSHAKE_TIME,
    HOST,
    begin,
    client_context,
    facts_in,
    issue,
)
from tests.harness.configuration import configured
from tests.keeper.fakes import Clock, FakeSystem, SteppedReactor
from tests.wire.sending import channel_on, message, packet_of, send_with

_PR_SET_DUMPABLE = 4  # prctl(2)


class Passed(NamedTuple):
    """The words of an edge about a connection that it has passed on."""

    header: ProxyHeader
    raw: bytes


class EdgeSystem(FakeSystem):
    """Starts edges as objects of this process."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.edges: list[tuple[SteppedReactor, _process.Edge, Any]] = []

    def spawn_edge(self, channel_fd: int) -> int:
        if self.no_process:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        process = self.add("edge")
        reactor = SteppedReactor(self.clock)
        channel = channel_on(socket.socket(fileno=os.dup(channel_fd)))
        self.edges.append((reactor, _process.Edge(reactor, channel), channel))
        process.at_death.append(lambda: self._end(channel))
        return process.pid

    def _end(self, channel: Any) -> None:
        if channel.fileno() >= 0:
            channel._sock.shutdown(socket.SHUT_RDWR)


class World:
    """The keeper's part, one listener, and what has been passed on."""

    def __init__(self, directory: Path) -> None:
        self.files = issue(directory)
        self.clock = Clock()
        self.reactor = SteppedReactor(self.clock)
        self.system = EdgeSystem(self.clock)
        self.listener = Listener.bind("127.0.0.1:0")
        self.listener.sock.setblocking(False)
        self.config = configured(target="a:b", bind=[f"127.0.0.1:0,{self.files.text}"])
        self.inlet, self.outlet = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.inlet.setblocking(False)
        self.outlet.setblocking(False)
        self.accepts = True  # as workers that have room
        self.welcomed: list[tuple[Passed, socket.socket]] = []
        self.changes = 0
        self.edges = self.make()

    def make(self) -> Edges:
        return Edges(
            *(self.reactor, self.system, self.config, [self.listener], "name"),
            {0: self.outlet},
            self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def _welcome(self) -> None:
        try:
            _, fds, _, _ = socket.recv_fds(self.inlet, 100, 1)
        except BlockingIOError:
            return
        if not fds:
            return
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(10)
        found = read_header(sock.recv(8192, socket.MSG_PEEK))
        assert found is not None
        self.welcomed.append((Passed(found[0], sock.recv(found[1])), sock))

    @property
    def edge(self) -> _process.Edge:
        return self.system.edges[-1][1]

    def step(self) -> None:
        self.reactor.run_once(0.0)
        for reactor, _, _ in self.system.edges:
            if not reactor.stopped:
                reactor.run_once(0.0)
        if self.accepts:
            self._welcome()

    def until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < deadline, what
            self.step()

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for _ in range(20):
            self.step()

    def start(self) -> None:
        self.edges.start()
        self.edges.admit(True)
        self.until(lambda: self.edge.accepting, "it accepts")

    def close(self) -> None:
        self.edges.kill_all()
        for _, edge, channel in self.system.edges:
            edge._clients.cut_all()
            for listening, door in edge._doors():
                door.close()
                assert listening.outlet is not None
                listening.outlet.close()
            if channel.fileno() >= 0:
                channel.close()
        for edge_of_keeper in self.edges:
            edge_of_keeper.link.close()
        for _, sock in self.welcomed:
            sock.close()
        for each in (self.listener, self.inlet, self.outlet):
            each.close()
        self.system.close()
        for reactor, _, _ in self.system.edges:
            reactor.close()
        self.reactor.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    def nothing(*_arguments: object) -> None:
        """Title and log are this process's own."""

    monkeypatch.setattr(_process, "set_title", nothing)
    monkeypatch.setattr(_log, "configure", nothing)
    made = World(tmp_path)
    yield made
    made.close()
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def shake(world: World) -> socket.socket:
    """Have a client shake hands, in a thread; return it."""
    made: list[socket.socket] = []
    thread = threading.Thread(target=lambda: made.append(begin(world.listener.text)))
    thread.start()
    world.until(lambda: bool(made), "a handshake")
    thread.join(10)
    return made[0]


def shake_both(world: World) -> list[socket.socket]:
    """Have two clients shake hands that were both accepted before."""
    made: list[socket.socket] = []

    def shake_with(sock: socket.socket) -> None:
        made.append(client_context().wrap_socket(sock, server_hostname=HOST))

    address = world.listener.sock.getsockname()
    socks = [socket.create_connection(address, timeout=20) for _ in range(2)]
    world.until(lambda: world.edge._clients.shaking == 2, "accepted")
    threads = [threading.Thread(target=shake_with, args=[sock]) for sock in socks]
    for thread in threads:
        thread.start()
    world.until(lambda: len(made) == 2, "two handshakes")
    for thread in threads:
        thread.join(10)
    return made


def test_a_connection_is_passed_on(world: World) -> None:
    """With its facts, once; what it says reaches the plain end, and the other way."""
    world.start()
    with shake(world) as client:
        world.until(lambda: bool(world.welcomed), "passed on")
        ((passed, plain),) = world.welcomed
        host, port = client.getsockname()
        assert passed.header.source == InetAddress(host, port)
        told = facts_in(passed.raw)
        assert told is not None
        assert (told.server_hostname, told.version()) == (HOST, "TLSv1.3")
        assert (told.getpeercert(), told.getpeercert(True)) == (None, None)
        client.sendall(b"ping")
        world.pass_time(1.0)
        assert plain.recv(10) == b"ping"
        plain.sendall(b"pong")
        world.pass_time(1.0)
        assert client.recv(10) == b"pong"
        totals = world.edges.totals()
        assert (totals.open, totals.handshakes, totals.resumed) == (1, {"TLSv1.3": 1}, 0)
        assert [each.names for each in totals.certificates] == [[HOST]]
    plain.close()
    world.until(lambda: not world.edge._clients, "ended")


def test_the_bytes_that_have_passed_are_told(world: World) -> None:
    """Of a connection, by the facts that go with it; None once it has ended, or its edge."""
    world.start()
    answers: list[Any] = []
    with shake(world) as client:
        world.until(lambda: bool(world.welcomed), "passed on")
        ((passed, plain),) = world.welcomed
        client.sendall(b"ping")
        plain.sendall(b"to be taken")
        world.pass_time(1.0)
        plain.sendall(b"waits")  # until the edge looks at what is ready
        world.edges.ask_bytes(passed.raw, answers.append)
        world.edge._hear(select.EPOLLIN)
        world.until(lambda: bool(answers), "told")
        answer = answers.pop()
        assert answer is not None
        assert (answer.taken, answer.waiting, answer.given) == (11, 5, 4)
        send_with(world.system.edges[0][2], answer)  # as if to an earlier version of the keeper
        world.pass_time(1.0)
        world.edges.ask_bytes(passed.raw, answers.append)
        world.until(lambda: bool(answers), "told")
        answer = answers.pop()
        assert answer is not None
        assert (answer.taken, answer.waiting, answer.given) == (16, 0, 4)
    plain.close()
    world.until(lambda: not world.edge._clients, "ended")
    world.edges.ask_bytes(passed.raw, answers.append)
    world.until(lambda: bool(answers), "told")
    assert answers.pop() is None
    (edge,) = world.edges
    world.edges.ask_bytes(passed.raw, answers.append)
    world.system.processes[edge.pid].die(1)
    world.until(lambda: bool(answers), "told")
    world.edges.ask_bytes(passed.raw, answers.append)
    assert answers == [None, None]


def test_an_edge_that_hangs_is_not_waited_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """After the orphan timeout nothing is known, and what it answers then is nobody's."""
    world.start()
    answers: list[Any] = []
    with shake(world):
        world.until(lambda: bool(world.welcomed), "passed on")
        ((passed, plain),) = world.welcomed
        world.edges.ask_bytes(passed.raw, answers.append)
        world.clock.now += world.config.orphan_timeout - 0.1
        world.reactor.run_once(0.0)
        assert not answers
        world.clock.now += 0.2
        world.reactor.run_once(0.0)
        assert answers == [None]
        assert "an edge does not answer" in caplog.text
        world.pass_time(0.0)
        assert answers == [None]
        world.edges.ask_bytes(passed.raw, answers.append)
        world.until(lambda: len(answers) == 2, "it has gone on")
        assert answers[1] is not None
    plain.close()
    world.until(lambda: not world.edge._clients, "ended")


def test_who_no_worker_has_room_for_waits(world: World) -> None:
    """With its inlet full an edge accepts no more; each goes on once there is room, or ends."""
    outlet = world.outlet
    outlet.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # the least there is
    with suppress(BlockingIOError):
        while True:
            outlet.send(b"without a descriptor")
    world.accepts = False
    world.start()
    second, third = shake_both(world)
    world.until(lambda: world.edge._clients.waiting == 2, "two wait")
    assert not world.edge.accepting
    second.sendall(b"said while it waits")
    world.pass_time(1.0)
    assert world.edge._clients.waiting == 2
    third.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    third.close()
    world.until(lambda: len(world.edge._clients) == 1, "one has given up")
    world.accepts = True
    for _ in range(100):
        world.pass_time(0.1)
    assert [sock.recv(100) for _, sock in world.welcomed] == [b"said while it waits"]
    assert (world.edge.accepting, len(world.edge._clients)) == (True, 1)
    second.close()


def test_a_server_that_ends_takes_none_that_shakes_hands(world: World) -> None:
    """It has closed the inlet."""
    world.start()
    world.inlet.close()
    world.accepts = False
    with shake(world) as client:
        world.until(lambda: not world.edge._clients, "ended")
        client.settimeout(10)
        with pytest.raises(OSError, match=r"reset|EOF"):
            client.recv(1)


def test_handshakes_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, and in number: one more sends the one away that has taken longest."""
    world.start()
    monkeypatch.setattr(world.edge._clients, "_most_shaking", 2)
    socks = [socket.create_connection(world.listener.sock.getsockname()) for _ in range(3)]
    world.until(lambda: world.edge._clients.shaking == 2, "two")
    assert socks[0].recv(1) == b""
    socks[1].sendall(b"\x16\x03\x01\x02\x00\x01")
    world.pass_time(HANDSHAKE_TIME)
    world.pass_time(1.0)
    assert [sock.recv(1) for sock in socks[1:]] == [b"", b""]
    failed = world.edge._clients.tally.failed
    for text in (b"GET / HTTP/1.0\r\n\r\n", b"PLAIN " * 20, b""):
        before = failed.total()
        with socket.create_connection(world.listener.sock.getsockname()) as sock:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            world.until(lambda: failed.total() > before, "refused")  # noqa: B023
    world.pass_time(1.0)
    world.pass_time(1.0)
    assert world.edges.totals().failed == {"no_room": 1, "late": 2, "no_tls": 2, "cut": 1}
    for sock in socks:
        sock.close()


def test_certificates_are_renewed_once_they_stay(world: World) -> None:
    """What changes is read when it has been the same for two looks, and when that is asked for."""
    world.start()
    (listening,) = world.edge._listening.values()
    before = listening.tls.certificates
    world.files.put(AUTHORITY.issue_cert("new.example"))
    world.pass_time(1.0)
    assert listening.tls.certificates is before
    world.pass_time(1.0)
    assert listening.tls.certificates[0].names == ("new.example",)
    world.files.certificate.write_text("none")
    world.edges.renew()
    world.pass_time(0.1)
    assert listening.tls.certificates[0].names == ("new.example",)


def test_new_keys_of_tickets(world: World) -> None:
    """All edges have the same; twice a day there are new ones, also after an upgrade."""
    world.start()
    (listening,) = world.edge._listening.values()
    secrets = listening.tls._secrets
    assert world.edges.snapshot(lambda fd: fd).secrets == secrets
    world.pass_time(12 * 3600.0)
    assert [len(each) for each in listening.tls._secrets] == [32, 32]
    assert listening.tls._secrets[1] == secrets[0]
    saved = world.edges.snapshot(lambda fd: fd)
    saved.secrets = [b"x" * 32]
    saved.running = []
    later = world.make()
    world.pass_time(3600.0)
    later.restore(saved)
    world.until(lambda: any(each.ready for each in later), "ready")
    (listening,) = world.edge._listening.values()
    assert listening.tls._secrets == [b"x" * 32]
    world.pass_time(11 * 3600.0)
    assert listening.tls._secrets[1] == b"x" * 32
    for edge in later:
        edge.link.close()


def test_the_keeper_admits_and_pauses(world: World) -> None:
    world.start()
    world.edges.admit(False)
    world.until(lambda: not world.edge.accepting, "closed")
    with socket.create_connection(world.listener.sock.getsockname()):
        world.pass_time(1.0)
        assert not world.edge._clients
        world.edges.admit(True)
        world.until(lambda: len(world.edge._clients) == 1, "accepted")


def test_one_that_dies_or_says_nonsense_is_followed_by_another(world: World) -> None:
    """A moment later, and ever later when it dies again; its counts stay."""
    world.start()
    with shake(world):
        world.pass_time(1.0)
        world.pass_time(1.0)
        send_with(world.system.edges[0][2], message("Ready", 1))
        world.until(lambda: not world.edges, "killed")
        assert world.changes == 1
        world.system.no_process = True
        world.pass_time(0.11)
        world.system.no_process = False
        world.pass_time(0.15)
        assert not world.edges
        world.pass_time(0.1)
        assert len(world.edges) == 1
        world.until(lambda: world.edge.accepting, "it accepts")
        totals = world.edges.totals()
        assert (totals.open, totals.handshakes) == (0, {"TLSv1.3": 1})


def test_a_bad_beginning_is_tried_again(world: World) -> None:
    """It says what is wrong with the files, and so does the keeper's log."""
    good = world.files.certificate.read_bytes()
    world.files.certificate.write_text("none")
    world.edges.start()
    world.until(lambda: any(edge.error for edge in world.edges), "refused")
    assert "server.pem" in next(iter(world.edges)).error
    assert world.edge.exit_code == 1
    world.files.certificate.write_bytes(good)
    world.system.processes[next(iter(world.edges)).pid].die(1)
    world.until(lambda: not world.edges, "ended")
    world.pass_time(0.2)
    world.until(lambda: any(edge.ready for edge in world.edges), "ready")


def test_the_end(world: World) -> None:
    """It waits for its clients until the deadline."""
    world.start()
    with shake(world) as client:
        world.until(lambda: bool(world.welcomed), "passed on")
        world.edges.retire(world.clock.now + 5.0)
        world.pass_time(1.0)
        reactor, edge, _ = world.system.edges[0]
        assert (reactor.stopped, edge.accepting) == (False, False)
        world.pass_time(5.0)
        assert (reactor.stopped, len(edge._clients)) == (True, 0)
        client.settimeout(10)
        with pytest.raises(OSError, match=r"reset|EOF"):
            client.recv(1)


def test_the_keepers_death(world: World) -> None:
    """What is passed on goes on; what is not ends, and nothing more is accepted."""
    world.start()
    with shake(world):
        world.until(lambda: bool(world.welcomed), "passed on")
        waiting = socket.create_connection(world.listener.sock.getsockname())
        world.until(lambda: len(world.edge._clients) == 2, "accepted")
        for edge in world.edges:
            edge.link.close()
        world.pass_time(1.0)
        assert waiting.recv(1) == b""
        waiting.close()
        reactor = world.system.edges[0][0]
        assert not reactor.stopped
    world.until(lambda: reactor.stopped, "the last has gone")


def test_upgrade(world: World) -> None:
    """The next version of the keeper has its own edges, and the former serve on what they have.

    They accept until the new ones do, and what is only shaking hands then is not cut either.
    """
    world.start()
    with shake(world) as client:
        world.until(lambda: bool(world.welcomed), "passed on")
        world.pass_time(1.0)
        world.pass_time(1.0)
        saved = world.edges.snapshot(lambda fd: fd)
        (former,) = world.edges
        # What execve(2) does: the descriptor stays, all else goes.
        world.reactor.unregister(former.link._channel.fileno())
        former.link._channel._sock.detach()
        for child in world.edges._children._watched.values():
            world.reactor.unregister(child.pidfd)
            os.close(child.pidfd)
        world.edges = world.make()
        world.edges.restore(saved)
        former, latter = world.edges
        assert (former.earlier, latter.earlier) == (True, False)
        assert world.edges.totals().handshakes == {"TLSv1.3": 1}
        old = world.system.edges[0][1]
        half = socket.create_connection(world.listener.sock.getsockname())
        world.until(lambda: old._clients.shaking == 1, "accepted by the former")
        world.edges.admit(True)
        world.until(lambda: former.leaves_by is not None and not old.accepting, "it leaves")
        half.setblocking(True)
        with shake(world):
            world.until(lambda: len(world.welcomed) == 2, "passed on")
            assert [len(edge._clients) for _, edge, _ in world.system.edges] == [2, 1]
        shaken: list[socket.socket] = []

        def go_on() -> None:
            shaken.append(client_context().wrap_socket(half, server_hostname=HOST))

        thread = threading.Thread(target=go_on)
        thread.start()
        world.until(lambda: len(world.welcomed) == 3, "passed on")
        thread.join(10)
        shaken[0].close()
        world.welcomed[0][1].sendall(b"pong")
        world.pass_time(1.0)
        assert client.recv(10) == b"pong"


def test_an_unready_edge_is_told_when_it_is(world: World) -> None:
    """Before `EdgeReady` it has no listener to accept from."""
    world.edges.start()
    world.edges.admit(True)
    (edge,) = world.edges
    assert not edge.accepting
    send_with(world.system.edges[0][2], message("EdgeReady"))
    world.until(lambda: edge.accepting, "told")


def test_a_worker_asks_for_tls(world: World) -> None:
    """Hands are shaken for it, and it goes on over the pair; its death ends the handshake."""
    bind = f"{world.config.bind[0]},start-tls=on"
    world.config = configured(target="a:b", bind=[bind])
    world.edges = world.make()
    world.edges.start()

    def ask(header: bytes = b"") -> tuple[socket.socket, EdgeHandshake]:
        client = socket.create_connection(world.listener.sock.getsockname(), timeout=10)
        accepted, _ = world.listener.sock.accept()
        plain, far = socket.socketpair()
        fds = [os.dup(each.fileno()) for each in (accepted, far)]
        asks = message("StartTls", "7-1-1", 1, 0, "peer", b"", header, *fds)
        packet = packet_of(fds, asks)
        world.edges.shake_hands(packet, asks)
        packet.close()
        far.close()
        return client, EdgeHandshake(accepted, plain)

    def shake_with(client: socket.socket) -> socket.socket:
        shaken: list[socket.socket] = []
        thread = threading.Thread(
            target=lambda: shaken.append(client_context().wrap_socket(client, server_hostname=HOST))
        )
        thread.start()
        world.until(lambda: bool(shaken), "hands are shaken")
        thread.join(10)
        world.until(lambda: world.edge._clients.shaking == 0, "told")
        return shaken[0]

    client, handshake = ask()  # of an edge that is not ready yet
    assert not any(edge.ready for edge in world.edges)
    shaken = shake_with(client)
    header = handshake.header()
    assert header is not None
    told = facts_in(header)
    assert told is not None
    assert told.server_hostname == HOST
    assert world.welcomed == []
    handshake.plain.send(b"pong")
    world.pass_time(1.0)
    assert shaken.recv(10) == b"pong"

    for header in (b"garbage", b"PROXY TCP4 "):  # of a worker that says anything
        liar, lied = ask(header)
        liar = shake_with(liar)
        with pytest.raises(TlsFailure, match="PROXY header"):
            lied.header()
        liar.close()
        lied.plain.close()
        lied.sock.close()
    second, late = ask()
    world.until(lambda: world.edge._clients.shaking == 1, "shaking")
    with pytest.raises(Closed, match="call start_tls again"):
        late.send(b"x")
    world.pass_time(HANDSHAKE_TIME)
    with pytest.raises(TlsFailure, match="no handshake within 10 s"):
        late.header()
    third, dead = ask()
    world.until(lambda: world.edge._clients.shaking == 1, "shaking")
    dead.plain.close()
    world.until(lambda: world.edge._clients.shaking == 0, "ended")
    for edge in world.edges:
        edge.leaves_by = 0.0
    fourth, nobody = ask()
    with pytest.raises(SystemFailure, match="could not shake hands"):
        nobody.header()
    for sock in (shaken, second, third, fourth):
        sock.close()
    for each in (handshake, late, dead, nobody):
        each.plain.close()
        each.sock.close()


class Guard:
    """A store that has what it was given, for the next keeper."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    def add(self, name: str, fd: int) -> bool:
        self.held[name] = os.dup(fd)
        return True

    def remove(self, name: str) -> None:
        os.close(self.held.pop(name))

    def give(self) -> dict[str, socket.socket]:
        """Return what a keeper is given at its start; it stays here, too."""
        return {name: socket.socket(fileno=os.dup(fd)) for name, fd in self.held.items()}


def test_an_edge_whose_keeper_has_died(world: World) -> None:
    """It serves what it has; the next keeper has its channel, asks by it, and waits for its end."""
    guard: Any = Guard()
    world.edges.use_store(guard)
    world.start()
    (name,) = world.edges.stored
    with shake(world) as client:
        world.until(lambda: bool(world.welcomed), "passed on")
        ((passed, plain),) = world.welcomed
        client.sendall(b"some")
        world.until(lambda: bool(select.select([plain], [], [], 0)[0]), "relayed")
        assert plain.recv(10) == b"some"
        (before,) = world.edges
        before.link.close()  # the keeper has died; the guard has the end of the channel still
        world.edges.use_store(None)
        old = world.edge
        old._keeper_ended()
        assert not old.accepting
        world.edges = world.make()
        world.edges.use_store(guard)
        world.edges.adopt(guard.give())
        assert boot_of(name) == 0
        assert world.edges.stored == {name}
        assert [edge.leaves_by for edge in world.edges] == [float("inf")]
        told: list[Any] = []
        world.edges.ask_bytes(passed.raw, told.append)
        world.until(lambda: bool(told), "told")
        assert (told[0].taken, told[0].given) == (0, 4)
        world.pass_time(1.0)
        assert world.edges.totals().open == 1
        assert world.edges.totals().certificates == []
        world.edges.retire(world.clock.now + 5.0)
        assert world.edges, "it is waited for"
    world.until(lambda: world.edges.totals().open == 0, "its last connection has ended")
    (adopted,) = world.edges
    world.system.processes[adopted.pid].die(0)
    world.until(lambda: not world.edges, "ended")
    assert guard.held == {}


def test_an_edge_that_has_died_with_its_keeper(world: World) -> None:
    """Another process has its pid now, and nothing is done to that."""
    guard: Any = Guard()
    world.edges.use_store(guard)
    world.start()
    (edge,) = world.edges
    world.system.processes[edge.pid].die(1)
    later = world.make()
    later.adopt(guard.give())
    assert not later
    world.until(lambda: guard.held == {}, "stored no longer")


def test_the_rate_holds_the_accept(world: World) -> None:
    """Who comes faster stays in the queue, and is accepted when its time has come."""
    bind = [f"127.0.0.1:0,{world.files.text},accept-rate=1:2"]
    world.config = configured(target="a:b", bind=bind)
    census = create_memfd(1)
    try:
        world.edges = Edges(
            *(world.reactor, world.system, world.config, [world.listener], "name"),
            *({0: world.outlet}, world._changed, census),
        )
        world.start()
        with ExitStack() as stack:
            for _ in range(4):
                client = stack.enter_context(socket.socket())
                client.connect(world.listener.sock.getsockname())
            world.until(lambda: len(world.edge._clients) == 2, "two accepted")
            world.until(lambda: not world.edge.accepting, "no more")
            assert len(world.edge._clients) == 2
            account = Census(census, NO_LANE)
            account._header[Census.account_of(0)] = 0  # as if it had been long ago
            world.pass_time(2)
            world.until(lambda: len(world.edge._clients) == 4, "the others")
    finally:
        os.close(census)


def expiry(world: World) -> int:
    """Return when the certificate that the edge serves with expires."""
    (listening,) = world.edge._listening.values()
    return listening.tls.certificates[0].expires


def test_files_that_the_edge_may_not_open(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The keeper gives them, looks at them, and has them for the next edge and the next keeper."""
    world.system.serve_as("shop", 61234)
    world.edges = world.make()
    assert world.edges.open_files()
    for path in (world.files.certificate, world.files.key):
        path.rename(path.with_suffix(".away"))
    world.start()
    with shake(world):
        world.until(lambda: bool(world.welcomed), "passed on")
    before = expiry(world)
    world.edges.renew()
    assert "certificates not renewed: those before stay" in caplog.text
    assert expiry(world) == before
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1000)
    world.files.put(AUTHORITY.issue_cert(HOST, not_after=later))
    world.pass_time(1.0)
    world.pass_time(1.0)
    world.until(lambda: expiry(world) == int(later.timestamp()), "renewed")
    for path in (world.files.certificate, world.files.key):
        path.unlink()
    (edge,) = world.edges
    world.system.processes[edge.pid].die(1)
    world.until(lambda: not world.edges, "ended")
    world.pass_time(1.0)
    world.until(lambda: len(world.system.edges) == 2 and world.edge.accepting, "another one")
    assert expiry(world) == int(later.timestamp())
    saved = world.edges.snapshot(lambda fd: fd)
    assert [each.path for each in saved.files] == [
        str(world.files.certificate),
        str(world.files.key),
    ]
    for each in saved.files:
        assert os.pread(each.fd, 11, 0) == b"-----BEGIN "
