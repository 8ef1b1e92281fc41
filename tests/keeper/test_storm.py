"""Everything at once, in any order: no connection is lost but those that have to be.

Hypothesis plays the people who reload and scale, the templates, the workers and their deaths.  What
must hold is said of the peers, and of who could serve them; and what the ownership table was told
and what it accepted is held against an account of its own at the end.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.harness.configuration import Model
from tests.keeper.bench import Bench, is_alive, is_at_eof
from tests.keeper.fakes import FarWorker, Served, Template
from tests.keeper.ledger import logged

PICK: Final = st.integers(0, 30)
NEVER: Final = 100_000.0


class Storm(RuleBasedStateMachine):
    """One server in a storm."""

    model: Model = "async"
    options: Any = {}  # noqa: RUF012
    code: Any = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.log = self._stack.enter_context(logged())
        self.bench = Bench(workers=2, orphan_timeout=NEVER, graceful_timeout=NEVER, **self.options)
        self.peers: dict[str, socket.socket] = {}
        self.lost: set[str] = set()
        self.ended: set[str] = set()
        self.bench.start(self.model, **self.code)

    # Who there is.

    @property
    def templates(self) -> list[Template]:
        return [each for each in self.bench.system.templates if each.process.exit is None]

    @property
    def workers(self) -> list[FarWorker]:
        every = [worker for each in self.bench.system.templates for worker in each.workers]
        return [worker for worker in every if worker.process.exit is None]

    @property
    def receivers(self) -> list[FarWorker]:
        return [worker for worker in self.workers if worker.arrived]

    @property
    def movable(self) -> list[Served]:
        return [
            served
            for worker in self.workers
            if worker.told() == "move"
            for served in worker.connections.values()
        ]

    # What people do.

    @rule()
    def reload(self) -> None:
        self.bench.reload()

    @rule(count=st.integers(1, 4))
    def scale(self, count: int) -> None:
        self.bench.keeper.scale(count)
        self.bench.settle()

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.advance(seconds)

    @rule(times=st.integers(1, 3))
    def descriptors_run_out(self, times: int) -> None:
        """The next deaths cannot be watched at once."""
        self.bench.system.no_pidfd = times

    # What upgrades do.

    @rule()
    def upgrade(self) -> None:
        self.bench.keeper.upgrade()
        self.bench.settle()

    @precondition(lambda self: self.bench.system.check)
    @rule(passes=st.booleans(), executes=st.booleans())
    def check_ends(self, passes: bool, executes: bool) -> None:
        """And the next version of the keeper goes on, or this one does."""
        check = self.bench.system.check
        assert check is not None
        self.bench.system.no_execution = not executes
        if passes:
            check.passes()
        else:
            check.fails("SyntaxError: invalid syntax")
        self.bench.settle()

    # What templates do.

    @rule(pick=PICK)
    def template_goes_on(self, pick: int) -> None:
        """Load what it is to load, or fork what it is to fork."""
        template = self.templates[pick % len(self.templates)] if self.templates else None
        if template is None or template.load is None:
            return
        if template.model_told:
            template.fork()
        else:
            template.loaded(self.model, **self.code)
        self.bench.settle()

    @rule(pick=PICK)
    def template_ends(self, pick: int) -> None:
        if self.templates:
            self.templates[pick % len(self.templates)].die(-9)
            self.bench.settle()

    # What workers do.

    @rule(pick=PICK)
    def worker_is_ready(self, pick: int) -> None:
        starting = [worker for worker in self.workers if not worker.said_ready]
        if starting:
            starting[pick % len(starting)].ready()
            self.bench.settle()

    @rule(pick=PICK)
    def worker_accepts(self, pick: int) -> None:
        able = [
            worker
            for worker in self.workers
            if not worker.order and len(worker.connections) < worker.accept_below
        ]
        if able:
            peer, served = self.bench.serve(able[pick % len(able)])
            self.peers[served.id] = peer

    def give_up(self, served: Served) -> None:
        served.detach(self.state_of(served))
        self.bench.settle()
        assert served.worker.acknowledged.pop().taken
        served.settle()
        self.bench.settle()

    def attach(self, worker: FarWorker) -> None:
        """Take what arrived first, unless a connection was accepted into its seat meanwhile."""
        if len(worker.connections) >= worker.board.rows:
            worker.refuse()
        else:
            self.attached(worker.attach())

    def attached(self, served: Served) -> None:
        """A connection is with its next worker."""

    def state_of(self, served: Served) -> bytes | None:
        return None

    def die(self, worker: FarWorker) -> None:
        """Note who is lost by it, and let it die."""
        self.lost.update(worker.connections)
        worker.die(-9)
        self.bench.settle()

    @precondition(lambda self: self.movable)
    @rule(pick=PICK)
    def worker_gives_up(self, pick: int) -> None:
        movable = self.movable
        self.give_up(movable[pick % len(movable)])

    @precondition(lambda self: self.receivers)
    @rule(pick=PICK, takes=st.booleans())
    def worker_answers(self, pick: int, takes: bool) -> None:
        receivers = self.receivers
        worker = receivers[pick % len(receivers)]
        if takes:
            self.attach(worker)
        else:
            worker.refuse()
        self.bench.settle()

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, unheard=st.booleans())
    def worker_dies(self, pick: int, unheard: bool) -> None:
        """It may have said something that the keeper has not read yet."""
        workers = self.workers
        worker = workers[pick % len(workers)]
        if unheard and worker.arrived:
            self.attach(worker)
        self.die(worker)

    @rule()
    def retired_workers_end(self) -> None:
        for worker in self.workers:
            if worker.order and not worker.connections and not worker.arrived:
                worker.die(0)
        self.bench.settle()

    # What must hold.

    @invariant()
    def nobody_is_cut_off(self) -> None:
        cut = {name for name, peer in self.peers.items() if is_at_eof(peer)}
        assert cut == self.lost | self.ended

    @invariant()
    def nobody_is_served_twice(self) -> None:
        for name in self.peers:
            servers = [w.serial for w in self.workers if name in w.connections]
            offered = [
                w.serial for w in self.workers for attach, _ in w.arrived if attach.id == name
            ]
            assert len(servers) + len(offered) <= 1, (servers, offered)

    def teardown(self) -> None:
        """The storm is over."""
        try:
            self.calm_down()
        finally:
            self._stack.close()
        self.log.replay()

    def calm_down(self) -> None:
        """Everybody does what is asked, and all that is left is served."""
        for _ in range(40):
            if self.bench.system.check:
                self.bench.system.check.passes()
                self.bench.settle()
            for template in self.templates:
                if template.load is not None and not template.model_told:
                    template.loaded(self.model, **self.code)
                self.bench.settle()
                template.fork()
            for worker in self.workers:
                if not worker.said_ready:
                    worker.ready()
            self.bench.settle()
            for served in self.movable:
                self.give_up(served)
            for worker in self.receivers:
                while worker.arrived:
                    self.attach(worker)
            self.retired_workers_end()
            self.bench.advance(0.5)
        assert self.bench.keeper.state == "running"
        self.nobody_is_cut_off()
        for name, peer in self.peers.items():
            if name in self.lost | self.ended:
                continue
            servers = [w for w in self.workers if name in w.connections]
            if self.room():
                assert len(servers) == 1, (name, len(self.bench.keeper.connections.moves))
                assert is_alive(peer, servers[0].connections[name].sock)
        assert self.bench.keeper.counters()["lost"] == len(self.lost)
        self.bench.close()

    def room(self) -> bool:
        """Whether the workers there are can serve all the connections there are."""
        return True


class PreforkStorm(Storm):
    """Where seats are few."""

    model = "prefork"

    def room(self) -> bool:
        return not len(self.bench.keeper.connections.moves)


class StoppedStorm(Storm):
    """Where the server is told to stop in the midst of it."""

    def calm_down(self) -> None:
        """Whatever was under way, the server ends soon, and the peers are told so."""
        self.bench.keeper.stop("close")
        for peer in self.peers.values():
            peer.close()
        for _ in range(3):
            self.bench.settle()
            for worker in self.workers:
                while worker.arrived:
                    worker.refuse()
                for served in tuple(worker.connections.values()):
                    served.settle("closed")
                if worker.order:
                    worker.die(0)
        self.bench.advance(1)
        assert self.bench.has_stopped()
        assert self.bench.system.unreaped() == []
        self.bench.close()


class KeptStorm(Storm):
    """Where connections are kept through crashes, parked, and in the middle of messages."""

    options: Any = {"keep": "crash"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, bytes] = {}
        self.deaths: dict[str, list[float]] = {}
        self.interrupted: set[str] = set()  # left in the middle of a message, until taken over

    @property
    def served(self) -> list[Served]:
        return [served for worker in self.workers for served in worker.connections.values()]

    @property
    def movable(self) -> list[Served]:
        return [served for served in super().movable if served.record.status == "clean"]

    @property
    def parked(self) -> list[str]:
        return [held.id for held in self.bench.keeper.connections.parking]

    def state_of(self, served: Served) -> bytes | None:
        return self.states.get(served.id)

    def attached(self, served: Served) -> None:
        """What the next worker is told is what the last one committed."""
        assert served.attach is not None
        assert served.attach.state == self.states.get(served.id)
        assert served.attach.redelivered is bool(
            self.code.get("redeliver") and served.id in self.interrupted
        )
        self.interrupted.discard(served.id)

    def die(self, worker: FarWorker) -> None:
        for name, served in worker.connections.items():
            kept = served.record.keep != "not offered"
            status = served.record.status
            if not kept or (status not in ("clean", "again") and self.is_condemned(name, status)):
                self.lost.add(name)
            elif status != "clean":
                self.interrupted.add(name)
            else:
                self.interrupted.discard(name)
        worker.die(-9)
        self.bench.settle()

    def is_condemned(self, name: str, status: str) -> bool:
        """One more owner of it died in the middle of its message: whether it is lost by that."""
        if not self.code.get("redeliver"):
            return True
        if not status.endswith("again"):  # of another message than the one before
            self.deaths.pop(name, None)
        deaths = self.deaths.setdefault(name, [])
        deaths.append(self.bench.clock.now)
        return sum(self.bench.clock.now - death < 60 for death in deaths) >= 3

    @precondition(lambda self: self.served)
    @rule(pick=PICK, heard=st.booleans())
    def connection_is_entrusted(self, pick: int, heard: bool) -> None:
        served = self.served[pick % len(self.served)]
        served.keep()
        if heard:
            self.bench.settle()
            assert served.is_kept()

    @precondition(lambda self: self.served)
    @rule(pick=PICK, status=st.sampled_from(["read", "sent"]))
    def message_begins(self, pick: int, status: str) -> None:
        self.served[pick % len(self.served)].become(status)

    @precondition(lambda self: self.served)
    @rule(pick=PICK, state=st.binary(min_size=1, max_size=3))
    def message_is_committed(self, pick: int, state: bytes) -> None:
        served = self.served[pick % len(self.served)]
        served.commit(state)
        self.states[served.id] = state

    @precondition(lambda self: self.served)
    @rule(pick=PICK)
    def connection_is_parked(self, pick: int) -> None:
        served = self.served[pick % len(self.served)]
        if served.record.status == "clean":
            served.park(self.states.get(served.id))
            self.bench.settle()
            assert served.worker.acknowledged.pop().taken
            served.settle()
            self.bench.settle()

    @precondition(lambda self: self.parked)
    @rule(pick=PICK)
    def bytes_arrive(self, pick: int) -> None:
        name = self.parked[pick % len(self.parked)]
        self.peers[name].send(b".")
        self.bench.settle()
        assert name not in self.parked

    @precondition(lambda self: self.served)
    @rule(pick=PICK, told=st.booleans())
    def connection_ends(self, pick: int, told: bool) -> None:
        """And its worker dies before it can say so."""
        served = self.served[pick % len(self.served)]
        served.record.ended = "closed"
        self.ended.add(served.id)
        if told:
            if served.record.keep != "not offered":
                served.say_ended()
            served.settle("closed")
            self.bench.settle()
            return
        del served.worker.connections[served.id]
        served.sock.close()
        self.die(served.worker)

    def calm_down(self) -> None:
        for name in self.parked:
            self.peers[name].send(b".")
        for served in self.served:
            served.commit(self.states.setdefault(served.id, b"end"))
        self.bench.settle()
        super().calm_down()


class RedeliveringStorm(KeptStorm):
    """Where messages in the middle of which workers died are delivered again."""

    code: Any = {"redeliver": True}  # noqa: RUF012


class KeptPreforkStorm(KeptStorm):
    """Where connections are kept, and seats are few."""

    model = "prefork"

    def room(self) -> bool:
        return not len(self.bench.keeper.connections.moves)


SETTINGS: Final = settings(
    max_examples=15,
    derandomize=True,  # a suite that fails now and then helps nobody; raise the numbers to explore
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestKeptStorm = KeptStorm.TestCase
TestKeptStorm.settings = SETTINGS
TestRedeliveringStorm = RedeliveringStorm.TestCase
TestRedeliveringStorm.settings = SETTINGS
TestKeptPreforkStorm = KeptPreforkStorm.TestCase
TestKeptPreforkStorm.settings = SETTINGS
TestStorm = Storm.TestCase
TestStorm.settings = SETTINGS
TestPreforkStorm = PreforkStorm.TestCase
TestPreforkStorm.settings = SETTINGS
TestStoppedStorm = StoppedStorm.TestCase
TestStoppedStorm.settings = SETTINGS
