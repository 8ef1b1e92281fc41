"""What passes through an edge, on the compiled core and on its twin: the same, by one script."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from socketkeep._edge._flow import Flow
from socketkeep._edge._relay_loop import RelayLoop
from tests.edge.spoken import call_openssl, call_ssl
from tests.edge.support import CHUNK, HOST, client_context, issue, server_tls
from tests.native.cores import both, on_both
from tests.native.seeds import SECONDS, seeds

_SCRIPTS = 60  # each shakes hands, which takes longer than the rest
_STEPS = 60

#: A flow, and whether it calls OpenSSL itself.
Way = tuple[type[Flow], bool]


def _ways() -> dict[str, Way]:
    kinds = both(Flow, "Flow")
    found = {name: (kind, False) for name, kind in zip(("python", "compiled"), kinds, strict=False)}
    if call_openssl():
        call_ssl()
        found["OpenSSL"] = kinds[-1], True
    return found


WAYS = _ways()
on_all_ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Any:
    files = issue(Path(tmp_path_factory.mktemp("tls")))
    return server_tls(files)


class Session:
    """A client's TLS, a flow behind it, and the worker's end; what the flow tells is in `told`."""

    def __init__(self, way: Way, tls: Any, version: ssl.TLSVersion) -> None:
        self.told: list[Any] = []
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = client_context(maximum_version=version)
        self.client = context.wrap_bio(self._in, self._out, server_hostname=HOST)
        self.unsent = bytearray()  # ciphertext of the client's that is not on its way
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.do_handshake()
        incoming.write(self._out.read())
        server = tls.begin(incoming, outgoing)
        for side, source, target in (
            (server, outgoing, self._in),
            (self.client, self._out, incoming),
            (server, outgoing, self._in),
            (self.client, self._out, incoming),
        ):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            target.write(source.read())
        self.wire, ours = socket.socketpair()
        self.worker, plain = socket.socketpair()
        for sock in (self.wire, ours, self.worker, plain):
            sock.setblocking(False)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, 40_000)
        base, calls_openssl = way
        if calls_openssl:
            assert call_openssl()
        self.flow = _telling(base, self.told)(ours, server, incoming, outgoing, plain, b"")
        call_ssl()

    def close(self) -> None:
        self.flow.close()
        self.wire.close()
        self.worker.close()

    def says(self, data: bytes) -> None:
        self.client.write(data)
        self.unsent += self._out.read()

    def send(self, most: int) -> int:
        """Have some of what the client has said arrive."""
        try:
            sent = self.wire.send(self.unsent[:most])
        except BlockingIOError:
            return 0
        del self.unsent[:sent]
        self.flow.note_client(select.EPOLLIN)
        return sent

    def heard(self, most: int) -> bytes:
        """Take some of what came for the client, and return what it says."""
        with contextlib.suppress(BlockingIOError):
            if data := self.wire.recv(most):
                self._in.write(data)
        self.flow.note_client(select.EPOLLOUT)
        found = b""
        try:
            while data := self.client.read(CHUNK):
                found += data
        except ssl.SSLWantReadError:
            return found
        except ssl.SSLError:
            assert self.told, "an alert for nothing"
        return found

    def give(self, data: bytes) -> int:
        """Have the worker send."""
        try:
            sent = self.worker.send(data)
        except BlockingIOError:
            return 0
        self.flow.note_plain(select.EPOLLIN)
        return sent

    def take(self, most: int) -> bytes:
        """Have the worker receive."""
        try:
            data = self.worker.recv(most)
        except BlockingIOError:
            data = b""
        self.flow.note_plain(select.EPOLLOUT)
        return data

    def seen(self) -> tuple[Any, ...]:
        flow = self.flow
        return flow.taken, flow.given, flow.held, flow.unsent, flow.in_ended, flow.out_ended


_ASKED_IN_VAIN = "OpenSSL has no plaintext"


def _telling(base: type[Flow], told: list[Any]) -> type[Flow]:
    """Return a flow that notes what else there was, and ends by that."""

    class Telling(base):  # type: ignore[misc, valid-type]
        def cut(self, word: str) -> None:
            told.append(("cut", word))
            self.in_ended = self.out_ended = True

        def _end_in(self, word: str | None) -> None:
            told.append(("in", word))
            self.in_ended = True

        def _read_failed(self, error: OSError) -> bool:
            if isinstance(error, ssl.SSLWantReadError):
                told.append(_ASKED_IN_VAIN)
                return True
            if isinstance(error, ssl.SSLZeroReturnError):
                self._end_in(None)
            else:
                self._refuse()
            return False

        def _refuse(self) -> None:
            told.append("refused")
            self.in_ended = True
            self._flush()

        def _worker_ended(self) -> None:
            told.append("worker ended")
            self._notified = True
            if self._flush():
                self._finish_out()

        def _finish_out(self) -> None:
            told.append("finished")
            self.out_ended = True

    return Telling


def script(way: Way, tls: Any, seed: int) -> list[Any]:
    """Play what the seed says; return what could be seen, with all bytes in order."""
    draw = random.Random(seed)
    version = draw.choice((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))
    session = Session(way, tls, version)
    trace: list[Any] = []
    said, taken, given, heard = bytearray(), bytearray(), bytearray(), bytearray()

    def size() -> int:
        return draw.choice((1, 3, 4, 5, 6, 64, 86, 1000, CHUNK, CHUNK + 22, 20_000, 50_000))

    try:
        for _ in range(_STEPS):
            match draw.randrange(6):
                case 0:
                    data = draw.randbytes(size())
                    session.says(data)
                    said += data
                case 1 | 2:
                    session.send(size())
                case 3:
                    data = draw.randbytes(size())
                    given += data[: session.give(data)]
                case 4:
                    taken += session.take(size())
                case _:
                    heard += session.heard(size())
            more = session.flow.go_on()
            trace.append((*session.seen(), more))
        how = draw.randrange(5)
        match how:
            case 0:
                session.wire.close()
                session.flow.note_client(select.EPOLLIN | select.EPOLLRDHUP)
            case 1:
                session.worker.close()
                session.flow.note_plain(select.EPOLLIN | select.EPOLLHUP)
            case 2:
                session.unsent[:] = draw.randbytes(20_000)
            case 3:
                session.unsent += b"\x17\x03\x03\xff\xff" + bytes(100)
            case _:
                with contextlib.suppress(ssl.SSLError):
                    session.client.unwrap()
                session.unsent += session._out.read()
        for _ in range(400):
            if session.wire.fileno() >= 0:
                session.send(CHUNK)
                if not session.flow.out_ended:
                    heard += session.heard(CHUNK)
            if session.worker.fileno() >= 0:
                taken += session.take(CHUNK)
            session.flow.go_on()
            trace.append(session.seen())
        assert bytes(said).startswith(bytes(taken))
        assert bytes(given).startswith(bytes(heard))
        if how == 4:
            assert bytes(taken) == bytes(said)
            assert session.told[:1] == [("in", None)]
        told = [each for each in session.told if each != _ASKED_IN_VAIN]
        return [*trace, *told, bytes(taken), bytes(heard)]
    finally:
        session.close()


def test_scripts(tls: Any) -> None:
    """At random, and to the same end by all ways."""
    for seed in seeds() if SECONDS else islice(seeds(), _SCRIPTS):
        seen = [script(each, tls, seed) for each in WAYS.values()]
        assert all(each == seen[0] for each in seen), f"seed {seed}"


@on_all_ways
def test_nothing_grows(way: Way, tls: Any) -> None:
    """Whatever a script comes to, what it took is given back."""
    drawn = list(islice(seeds(), 10))
    held = []
    for _ in range(4):
        for seed in drawn:
            script(way, tls, seed)
        gc.collect()
        held.append(sys.getallocatedblocks())
    assert held[3] - held[2] < 50
    assert held[3] - held[1] < 100


@on_all_ways
def test_it_asks_for_plaintext_when_there_is_some(way: Way, tls: Any) -> None:
    """However a record comes in pieces, OpenSSL has no error to make."""
    session = Session(way, tls, ssl.TLSVersion.TLSv1_3)
    session.says(b"x" * CHUNK)
    session.says(b"y")
    total = len(session.unsent)
    for pieces in (1, 3, 1, 5, 400, CHUNK):
        session.send(pieces)
        session.flow.go_on()
        session.take(CHUNK)
    while session.unsent:
        session.send(total)
        session.flow.go_on()
        session.take(CHUNK)
    assert (session.flow.given, session.told) == (CHUNK + 1, [])
    session.close()


@on_all_ways
def test_what_has_been_closed_moves_nothing(way: Way, tls: Any) -> None:
    """A descriptor of the same number may be somebody else's by then."""
    session = Session(way, tls, ssl.TLSVersion.TLSv1_3)
    session.says(b"hello")
    session.send(1000)
    session.flow.close()
    with contextlib.suppress(OSError):
        session.flow.go_on()
    assert session.flow.given == 0
    session.close()


def test_a_flow_begins_once(tls: Any) -> None:
    for kind in both(Flow, "Flow")[1:]:
        session = Session((kind, False), tls, ssl.TLSVersion.TLSv1_3)
        flow = session.flow
        with pytest.raises(TypeError, match="once"):
            flow.__init__(flow.sock, None, None, None, flow.plain, b"")  # type: ignore[misc]
        with pytest.raises(TypeError):
            kind(1, 2, 3)  # type: ignore[call-arg, arg-type]
        session.close()


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(3)]
    yield made
    for pair in made:
        for fd in pair:
            with contextlib.suppress(OSError):
                os.close(fd)


@on_both("kind", RelayLoop, "RelayLoop")
def test_the_loop(kind: type[RelayLoop], pipes: list[tuple[int, int]]) -> None:
    """What one call raises is told, and takes no event from another."""
    failed: list[Exception] = []
    told: list[int] = []
    loop = kind(lambda *_: None, failed.append)

    def ready(fd: int, events: int) -> None:
        assert events & select.EPOLLIN
        told.append(fd)
        if len(told) == 1:
            loop.forget(pipes[1][0])
            raise ValueError("a bug")

    for fd, _ in pipes:
        loop.watch(fd, lambda events, fd=fd: ready(fd, events))  # type: ignore[misc]
    for _, fd in pipes:
        os.write(fd, b"x")
    assert select.select([loop], [], [], 5)[0]
    loop.run()
    assert [str(error) for error in failed] == ["a bug"]
    assert told == [pipes[0][0], pipes[2][0]]
    loop.run()  # edge-triggered
    assert len(told) == 2
    begun = time.monotonic()
    loop.run(0.02)
    assert time.monotonic() - begun >= 0.02
    other, into = pipes[1]
    with select.epoll() as reactor:
        reactor.register(other, select.EPOLLIN)
        loop.watch_reactor(reactor.fileno())
        loop.run(None)
        os.read(other, 1)
        os.write(into, b"y")
        loop.run(20)
        assert len(told) == 2
    with pytest.raises(TypeError):
        loop.run("soon")  # type: ignore[arg-type]
    with pytest.raises(FileExistsError):
        loop.watch(pipes[0][0], lambda events: None)
    loop.forget(pipes[0][0])
    loop.forget(pipes[0][0])
    loop.forget(100_000)
    with pytest.raises((TypeError, ValueError, AttributeError)):
        loop.carry(None, None)  # type: ignore[arg-type]
    loop.close()


@on_both("kind", RelayLoop, "RelayLoop")
def test_the_loop_ends_by_what_is_no_bug(
    kind: type[RelayLoop], pipes: list[tuple[int, int]]
) -> None:
    loop = kind(lambda *_: None, lambda error: None)

    def leave(events: int) -> None:
        raise SystemExit(3)

    loop.watch(pipes[0][0], leave)
    os.write(pipes[0][1], b"x")
    with pytest.raises(SystemExit):
        loop.run()
    loop.close()


@pytest.mark.parametrize("pure", [True, False], ids=["python", "compiled"])
def test_the_loop_moves(tls: Any, pure: bool) -> None:
    """Bytes pass by the loop alone; it tells the owner when there is more, and at the end."""
    flow_kind, loop_kind = both(Flow, "Flow"), both(RelayLoop, "RelayLoop")
    if not pure and len(flow_kind) == 1:
        pytest.skip("there is no compiled core")
    which = 0 if pure else -1
    session = Session((flow_kind[which], False), tls, ssl.TLSVersion.TLSv1_3)
    moved: list[tuple[object, bool]] = []
    failed: list[Exception] = []
    gone: list[int] = []
    loop = loop_kind[which](lambda owner, more: moved.append((owner, more)), failed.append)
    flow, owner = session.flow, object()
    loop.watch(flow.sock.fileno(), gone.append)
    loop.watch(flow.plain.fileno(), gone.append)
    loop.carry(flow, owner)
    session.says(b"question")
    session.wire.send(session.unsent)
    loop.run()
    assert session.worker.recv(100) == b"question"
    session.worker.send(b"answer")
    loop.run()
    assert session.heard(1000) == b"answer"
    assert (moved, gone, failed) == ([], [], [])
    session.wire.close()
    loop.run()
    assert session.told == [("in", "truncated")]
    flow.out_ended = True
    session.worker.send(b"x")
    loop.run()
    assert moved == [(owner, False)]
    session.worker.close()
    loop.run()
    assert len(gone) == 1
    assert gone[0] & select.EPOLLHUP
    for sock in (flow.sock, flow.plain):
        loop.forget(sock.fileno())
    loop.close()
    session.close()


@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
@on_all_ways
def test_the_loop_tells_of_room(way: Way, tls: Any, told: bool) -> None:
    """A worker that was slow gets the rest as it reads, however often that is."""
    loop_kind = both(RelayLoop, "RelayLoop")[0 if way[0] is Flow else -1]
    session = Session(way, tls, ssl.TLSVersion.TLSv1_3)
    failed: list[Exception] = []
    loop = loop_kind(lambda *_: None, failed.append)
    flow = session.flow
    loop.watch(flow.sock.fileno(), lambda _events: None)
    loop.watch(flow.plain.fileno(), lambda _events: None, told)
    loop.carry(flow, object())
    data = random.Random(1).randbytes(400_000)
    session.says(data)
    found, stalled = b"", 0
    for _ in range(2000):
        if not session.send(CHUNK):  # nobody on the way takes any more
            stalled += bool(session.unsent)
            with contextlib.suppress(BlockingIOError):
                while more := session.worker.recv(CHUNK):
                    found += more
        loop.run()
        flow.go_on()
        if len(found) == len(data):
            break
    assert (found == data, failed) == (True, [])
    assert stalled > 1
    loop.close()
    session.close()
