"""Somebody asks that a connection be ended while it is on its way: it is there, and ends."""

from __future__ import annotations

from tests.keeper.bench import Bench, is_at_eof
from tests.keeper.test_parking import parked

TIMEOUT = 10.0


def ask(bench: Bench, what: str, timeout: float = TIMEOUT) -> list[str]:
    """Ask for its end; the outcome comes to stand in what is returned."""
    told: list[str] = []
    bench.keeper.disconnecting.disconnect(
        what, force=False, timeout=timeout, told=lambda _, outcome: told.append(outcome)
    )
    return told


def test_on_its_way_from_a_worker(bench: Bench) -> None:
    """The worker has given it up, and the keeper has not heard it yet."""
    worker, _ = bench.start()
    peer, served = bench.kept(worker)
    served.record.ended = "detached"
    told = ask(bench, served.id)
    bench.advance(0.1)
    assert told == []
    served.park()
    bench.settle()
    bench.advance(0.1)
    assert told == ["disconnected"]
    assert is_at_eof(peer)
    assert not worker.to_end


def test_on_its_way_to_a_worker(bench: Bench) -> None:
    """It is asked once the connection has come there, though nobody waits for that any more."""
    peer, _, workers = parked(bench)
    peer.send(b"?")
    bench.settle()
    (worker,) = (each for each in workers if each.arrived)
    ((attach, _),) = worker.arrived
    told = ask(bench, attach.id, timeout=0.3)
    bench.advance(0.1)
    assert told == []
    bench.advance(0.4)
    assert told == ["still open"]
    served = worker.attach()
    bench.advance(0.1)
    assert [(each.id, each.epoch) for each in worker.to_end] == [(served.id, served.epoch)]
    served.record.ended = "closed"
    served.say_ended()
    bench.advance(0.1)
    assert told == ["still open"]
    assert ask(bench, served.id) == ["not connected"]


def test_what_has_ended_in_its_worker(bench: Bench) -> None:
    """Its row says so before the worker does."""
    worker, _ = bench.start()
    _, served = bench.kept(worker)
    served.record.ended = "closed"
    assert ask(bench, served.id) == ["not connected"]
    assert ask(bench, "nobody") == ["not connected"]
    served.say_ended()
    bench.settle()
