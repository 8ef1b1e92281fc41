"""No more connections than ``--max-connections``, however late each hears of what the others do.

And the keeper counts those there are, neither fewer nor more.

The keeper and its workers run as they please: a worker acts on what it was told last while the next
word is on its way, and the keeper on what it has heard.
"""

from __future__ import annotations

import random
import socket
from collections import Counter

import pytest

from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Served

LIMIT = 5
STEPS = 1500


class Unheard(Bench):
    """A bench whose workers hear what they are told when the test says so."""

    def settle(self) -> None:
        self._run()
        for template in self.system.templates:
            if not template.closed:
                template.read()
        self._run()


class Traffic:
    """Connections that come, park, wake and end, in workers that are replaced now and then."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Unheard(workers=2, max_connections=LIMIT, keep="crash", park_after="0.1")
        self.open: dict[str, socket.socket] = {}  # by name, the peers
        self.leaving: dict[str, Served] = {}  # those that wait for the keeper's answer
        self.done: Counter[str] = Counter()
        self.bench.start()

    @property
    def workers(self) -> list[FarWorker]:
        every = [worker for each in self.bench.system.templates for worker in each.workers]
        return [worker for worker in every if worker.process.exit is None]

    @property
    def served(self) -> list[Served]:
        """Those that are with their handlers."""
        every = [served for worker in self.workers for served in worker.connections.values()]
        return [served for served in every if served.id not in self.leaving]

    def step(self) -> None:
        """Have somebody do something."""
        do = self.random.choice(
            [self.keeper_runs, self.accept, self.accept, self.hear, self.hear, self.hear]
            + [self.park, self.park, self.give_back, self.give_back, self.wake, self.wake, self.end]
            + [self.reload, self.upgrade] * (self.random.random() < 0.1)
        )
        do()
        assert len(self.open) <= LIMIT, self.done
        keeper = self.bench.keeper
        assert keeper.pool.connections + len(keeper.connections) == len(self.open)

    def keeper_runs(self) -> None:
        self.bench.advance(self.random.choice([0.0, 0.1, 0.2]))

    def hear(self) -> None:
        """Have a worker read what it was told, and do it."""
        worker = self.random.choice(self.workers)
        worker.read()
        for answer in worker.acknowledged:  # one that has left may have come back meanwhile
            assert answer.taken
            self.leaving.pop(answer.id).settle()
        worker.acknowledged.clear()
        while worker.arrived:
            if self.random.random() < 0.1:
                worker.refuse("out of file descriptors")
                self.done["refused"] += 1
            else:
                self.attach(worker)
        if worker.order and not worker.connections and not worker.arrived:
            worker.die(0)

    def accept(self) -> None:
        worker = self.random.choice(self.workers)
        if worker.order or not worker.allowance.permits(len(worker.connections)):
            return
        peer, served = self.bench.serve(worker)
        peer.setblocking(False)
        served.keep()
        self.open[served.id] = peer
        self.done["accepted"] += 1

    def attach(self, worker: FarWorker) -> None:
        served = worker.attach()
        served.sock.setblocking(False)
        while self.has_input(served):
            self.done["read"] += 1

    def has_input(self, served: Served) -> bool:
        try:
            return bool(served.sock.recv(100))
        except BlockingIOError:
            return False

    def park(self) -> None:
        """Have a connection leave, and the worker wait for the keeper's answer."""
        if self.served:
            served = self.random.choice(self.served)
            if served.worker.order:
                served.detach()
            else:
                served.park()
            self.leaving[served.id] = served
            self.done["left"] += 1

    def give_back(self) -> None:
        """Have a connection that the keeper has a handle of leave without waiting for an answer."""
        kept = [served for served in self.served if served.is_kept()]
        if kept:
            served = self.random.choice(kept)
            parked = not served.worker.order
            served.worker.send(served.handoff(parked=parked))
            served.settle()
            self.done["given back"] += 1

    def wake(self) -> None:
        if self.open:
            self.open[self.random.choice(sorted(self.open))].send(b"?")

    def end(self) -> None:
        if self.served and self.random.random() < 0.5:
            served = self.random.choice(self.served)
            kept = served.record.keep != "not offered"
            served.settle("closed")
            if kept:
                served.say_ended()
            self.open.pop(served.id).close()
            self.done["ended"] += 1

    def reload(self) -> None:
        if self.bench.keeper.state == "running":
            self.bench.reload()
            self.bench.bring_up()
            self.done["reloads"] += 1

    def upgrade(self) -> None:
        """Have another version of the keeper go on, which knows what this one was told."""
        if self.bench.keeper.state == "running":
            self.bench.upgrade().passes()
            self.bench.settle()
            self.bench.bring_up()
            self.done["upgrades"] += 1

    def calm_down(self) -> None:
        """Everybody hears everything, and peers come until no more are let in."""
        for _ in range(300):
            self.hear()
            self.accept()
            self.bench.advance(0.05)
            assert len(self.open) <= LIMIT, self.done


@pytest.mark.parametrize("seed", range(4))
def test_the_limit_holds_and_is_reached(seed: int) -> None:
    traffic = Traffic(seed)
    for _ in range(STEPS):
        traffic.step()
    traffic.calm_down()
    assert len(traffic.open) == LIMIT, traffic.done
    assert all(traffic.done[what] > 5 for what in ("accepted", "left", "given back", "ended"))
    assert traffic.done["reloads"] > 0
    assert traffic.done["upgrades"] > 0
    traffic.bench.close()


def test_the_death_of_a_process_takes_no_seat_for_ever(make_bench: MakeBench) -> None:
    """Its connection has left the worker as one that was given up has, and may come back to it."""
    bench = make_bench(workers=1, max_connections=2, keep="crash")
    (worker,) = bench.start("fork")
    _, served = bench.kept(worker)
    for _ in range(3):
        served.say_orphaned()
        served.settle()
        bench.settle()
        served = worker.attach()
        bench.advance(0.3)
    assert worker.allowance.room(len(worker.connections)) == 1
