"""Connections that wait for their PROXY header: who lets them in, and what sends them away."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import msgspec
import pytest

from socketkeep.proxy import InetAddress, ProxyHeader
from tests.keeper.bench import Bench, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Served
from tests.keeper.test_parking import arrival

RAW = ProxyHeader(
    source=InetAddress("192.0.2.7", 40000), destination=InetAddress("192.0.2.1", 443)
).encode()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench(workers=2, proxy_protocol="on", proxy_from=["127.0.0.0/8"])


@dataclass
class Waiting:
    """A peer that the keeper waits for, and who was the first to have it."""

    peer: socket.socket
    served: Served
    sent: int


def await_header(
    bench: Bench, worker: FarWorker, sent: int = 10, *, by: float = 3.0, tcp: bool = False
) -> Waiting:
    """Have a worker accept a peer that has sent so much of its header, and hand it over."""
    peer, served = bench.serve(worker, tcp=tcp)
    peer.sendall(RAW[:sent])
    handoff = msgspec.structs.replace(
        served.handoff(parked=True), header_by=int((bench.clock.now + by) * 1e9), peer=""
    )
    worker.send(handoff, (served.sock.fileno(),))
    bench.settle()
    assert worker.acknowledged.pop().taken
    served.settle()
    bench.settle()
    return Waiting(peer, served, sent)


def refused(bench: Bench) -> dict[str, int]:
    counters = bench.keeper.counters()
    return {
        name.removeprefix("proxy_"): count
        for name, count in counters.items()
        if name.startswith("proxy_") and count
    }


@pytest.mark.parametrize("resumable", [True, False])
def test_the_rest_of_it_comes(bench: Bench, resumable: bool) -> None:
    """A worker is given it as new, with the header and all that follows still in the kernel."""
    workers = bench.start(resumable=resumable)
    waiting = await_header(bench, workers[0])
    assert len(bench.keeper.connections.porch) == 1
    assert not any(worker.arrived for worker in workers)
    waiting.peer.sendall(RAW[10:] + b"hello")
    again = arrival(bench)
    assert again.attach is not None
    assert (again.id, again.epoch) == (waiting.served.id, 2)
    assert (again.attach.attached, again.attach.peer) == ("accepted", "192.0.2.7:40000")
    assert (again.attach.proxy, again.attach.unread) == (RAW, b"")
    assert again.sock.recv(100) == b"hello"
    assert len(bench.keeper.connections) == 0
    assert refused(bench) == {}


def test_byte_by_byte(bench: Bench) -> None:
    """However small the pieces are."""
    workers = bench.start()
    waiting = await_header(bench, workers[0], 0)
    for number in range(len(RAW)):
        assert not any(worker.arrived for worker in workers)
        waiting.peer.sendall(RAW[number : number + 1])
        bench.settle()
    assert arrival(bench).attach is not None


def test_its_time_is_over(bench: Bench) -> None:
    """It counts from the accept, and what trickles in lengthens it by nothing."""
    workers = bench.start()
    waiting = await_header(bench, workers[0], by=2.0)
    late = await_header(bench, workers[1], by=3.0)
    for number in range(10, 27):
        waiting.peer.sendall(RAW[number : number + 1])
        bench.advance(0.1)
    assert not is_at_eof(waiting.peer)
    bench.advance(0.4)
    assert is_at_eof(waiting.peer)
    assert refused(bench) == {"late": 1}
    assert not is_at_eof(late.peer)
    bench.advance(1.0)
    assert is_at_eof(late.peer)
    assert refused(bench) == {"late": 2}
    assert len(bench.keeper.connections.connection_table) == 0


def test_a_worker_cannot_have_one_wait_for_ever(bench: Bench) -> None:
    """A moment in the far future is taken for the latest that there can be."""
    workers = bench.start()
    waiting = await_header(bench, workers[0], by=1e9)
    bench.advance(3.1)
    assert is_at_eof(waiting.peer)


def test_one_more_than_can_wait(bench: Bench) -> None:
    """Who has waited longest goes."""
    workers = bench.start()
    bench.keeper.connections.porch._most = 2
    first, second, third = (await_header(bench, workers[0]) for _ in range(3))
    assert is_at_eof(first.peer)
    assert refused(bench) == {"no_room": 1}
    for waiting in (second, third):
        waiting.peer.sendall(RAW[10:])
        assert arrival(bench).id == waiting.served.id


@pytest.mark.parametrize(
    ("data", "reason"), [(b"x", "malformed"), (RAW[10:12] + b"\x22\xee\0\0", "malformed")]
)
def test_it_goes_wrong(bench: Bench, data: bytes, reason: str) -> None:
    """What cannot become a header any more is refused at once."""
    workers = bench.start()
    waiting = await_header(bench, workers[0], 12 if data == b"x" else 10)
    waiting.peer.sendall(b"\x31" + data * 4 if data == b"x" else data)
    bench.settle()
    assert is_at_eof(waiting.peer)
    assert refused(bench) == {reason: 1}
    assert bench.keeper.connections.totals["closed"] == 1


def test_the_peer_gives_up(bench: Bench) -> None:
    """Whether by FIN or by RST."""
    workers = bench.start()
    ends, resets = (await_header(bench, workers[0], tcp=tcp) for tcp in (False, True))
    ends.peer.shutdown(socket.SHUT_WR)
    resets.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    resets.peer.close()
    while len(bench.keeper.connections.porch):
        bench.reactor.run_once(0.05)
    assert refused(bench) == {"cut": 2}


def test_a_stop(bench: Bench) -> None:
    """Nothing of it has begun: it is closed."""
    workers = bench.start()
    waiting = await_header(bench, workers[0])
    bench.keeper.stop("close")
    bench.settle()
    assert is_at_eof(waiting.peer)
    assert len(bench.keeper.connections) == 0
    assert refused(bench) == {}, "that is nothing that its peer has done"


def test_the_death_of_who_accepted_it(bench: Bench) -> None:
    """It is the keeper's alone by then."""
    workers = bench.start()
    waiting = await_header(bench, workers[0])
    workers[0].die(-9)
    bench.settle()
    assert not is_at_eof(waiting.peer)
    waiting.peer.sendall(RAW[10:])
    assert arrival(bench).id == waiting.served.id


def test_an_upgrade(bench: Bench) -> None:
    """What has come goes along, and the time goes on."""
    workers = bench.start()
    goes_on, late = await_header(bench, workers[0]), await_header(bench, workers[0])
    bench.advance(0.1)
    bench.upgrade().passes()
    bench.bring_up()
    assert len(bench.keeper.connections.porch) == 2
    assert {held.ownership.state.value for held in bench.keeper.connections.porch} == {"parked"}
    goes_on.peer.sendall(RAW[10:])
    again = arrival(bench)
    assert again.attach is not None
    assert (again.id, again.attach.proxy) == (goes_on.served.id, RAW)
    bench.advance(2.8)
    assert not is_at_eof(late.peer)
    bench.advance(0.2)
    assert is_at_eof(late.peer)


def test_the_keeper_accepts_in_a_workers_place(make_bench: MakeBench) -> None:
    """There, too, only what has its header is given a seat, and half of one takes none."""
    bench = make_bench(workers=1, proxy_protocol="on", max_connections=1, park_after="1")
    (worker,) = bench.start()
    peers = [bench.knock() for _ in range(3)]
    for peer, sent in zip(peers, (5, len(RAW), 0), strict=True):
        peer.setblocking(False)
        peer.sendall(RAW[:sent])
    whole = peers[1]
    found = [bench.keeper.connections.accept() for _ in range(3)]
    (held,) = [each for each in found if each is not None]
    assert (held.handoff.proxy, held.handoff.peer) == (RAW, "192.0.2.7:40000")
    assert len(bench.keeper.connections.porch) == 2
    bench.keeper.connections.moves.put(held)
    bench.settle()
    again = worker.attach()
    assert again.sock.send(b"hi") == 2
    assert whole.recv(10) == b"hi"
    bench.advance(3.1)
    assert all(is_at_eof(each) for each in peers if each is not whole)
    assert refused(bench) == {"late": 2}
    for each in peers:
        each.close()


def test_a_seat_is_waited_for_as_in_the_queue(make_bench: MakeBench) -> None:
    """However long that takes: the time of orphans is not for those that nobody has served."""
    bench = make_bench(workers=1, proxy_protocol="on", orphan_timeout=0.0)
    (worker,) = bench.start("prefork")
    waiting = await_header(bench, worker)
    peer, served = bench.serve(worker)
    waiting.peer.sendall(RAW[10:])
    bench.advance(60)
    assert not worker.arrived
    assert not is_at_eof(waiting.peer)
    served.settle("closed")
    again = arrival(bench)
    assert again.id == waiting.served.id
    peer.close()


def test_the_header_outlives_its_worker(make_bench: MakeBench) -> None:
    """Kept through a crash it is in what the next worker is sent; so is it when it is parked."""
    bench = make_bench(workers=2, proxy_protocol="on", keep="crash")
    workers = bench.start()
    waiting = await_header(bench, workers[0])
    waiting.peer.sendall(RAW[10:])
    first = arrival(bench)
    assert first.is_kept()
    first.worker.die(-9)
    bench.settle()
    second = arrival(bench)
    assert second.attach is not None
    assert (second.attach.attached, second.attach.proxy) == ("crash", RAW)
    handoff = msgspec.structs.replace(second.handoff(parked=True), proxy=RAW)
    second.worker.send(handoff)
    second.settle()
    bench.settle()
    waiting.peer.sendall(b"?")
    third = arrival(bench)
    assert third.attach is not None
    assert (third.attach.attached, third.attach.proxy) == ("parked", RAW)


def test_optional(make_bench: MakeBench) -> None:
    """Who says nothing in time is served all the same; what was looked at comes to the handler."""
    bench = make_bench(workers=1, proxy_protocol="optional")
    workers = bench.start()
    silent = await_header(bench, workers[0], 0)
    begun = await_header(bench, workers[0], 5)
    half = await_header(bench, workers[0], 14)
    bench.advance(3.1)
    for waiting, unread in ((silent, b""), (begun, RAW[:5])):
        again = arrival(bench)
        assert again.attach is not None
        assert (again.id, again.attach.unread) == (waiting.served.id, unread)
        assert (again.attach.proxy, again.attach.peer) == (b"", "")
    assert is_at_eof(half.peer)
    assert refused(bench) == {"late": 1}
