"""The post, under whatever order of pushes, moves, deaths and time: nothing twice, none in silence.

The keeper's side is real.  Workers are played here with channels that keep their order, as the
real ones do: each step of a worker's, and of the keeper's, is one message.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep._names._pushing import PushOutcome
from tests.keeper.fakes import Clock, SteppedReactor, make_post, name_table, named
from tests.wire.sending import kind_of, letter, letter_told, message, presence_told

GROUP = "room"
_LONG = 10**15
_BEGUN = 6  # what a worker says of a push whose handler has begun with it
_WORKERS = 3
_CONNECTIONS = 4


@dataclass(eq=False)
class FarEnd:
    """A worker: what it has, and the two directions of its channel."""

    serial: int
    model: str = "async"
    waiting: int = 0
    down: deque[Any] = field(default_factory=deque)
    up: deque[Any] = field(default_factory=deque)
    has: set[str] = field(default_factory=set)
    slow: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    drain: Callable[[], None] = lambda: None

    @property
    def link(self) -> FarEnd:
        """Its channel."""
        return self

    def send(self, message: object) -> None:
        self.down.append(message)


class World:
    """A post, its workers, and what the connections' peers have got."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.reactor = SteppedReactor(self.clock)
        self.post = make_post(self.reactor, self)
        self.workers = {n: FarEnd(n) for n in range(1, _WORKERS + 1)}  # by slot
        self.serial = _WORKERS
        for each in self.workers.values():
            each.drain = partial(self.hear_all, each)
        self.got: dict[str, list[bytes]] = defaultdict(list)
        self.told: dict[int, Any] = {}
        self.pushed: dict[int, tuple[str, bytes]] = {}
        self.published: dict[int, bytes] = {}
        self.parked: set[str] = set()
        self.moving: set[str] = set()
        self.ended: set[str] = set()
        self.epochs = dict.fromkeys((f"c{n}" for n in range(_CONNECTIONS)), 1)
        for number, name in enumerate(self.epochs):
            worker = self.workers[number % _WORKERS + 1]
            worker.has.add(name)
            worker.up.append(message("Registered", name, 1, f"name-{name}", [GROUP], {}))
        for worker in self.workers.values():
            self.hear_all(worker)

    # As the post sees connections that no worker has, and senders.

    def push(self, name: str, data: bytes, told: Callable[[bool], None]) -> bool | None:
        if name not in self.parked:
            return False
        self.got[name].append(data)
        return True

    def close(self, name: str, why: str) -> None:
        raise AssertionError("names are kept")

    def is_held(self, name: str) -> bool:
        return True

    def tell(self, answer: Any) -> None:
        assert answer.number not in self.told, "told twice"
        self.told[answer.number] = answer

    # Steps.

    def step(self, chance: random.Random) -> None:
        name = chance.choice(list(self.epochs))
        worker = self.workers[chance.randint(1, _WORKERS)]
        steps: list[Callable[[], object]] = [
            lambda: self.send(name, chance),
            lambda: self.send(name, chance),
            self.publish,
            lambda: self.hear(worker),
            lambda: self.hear(worker),
            lambda: self.work(worker, chance),
            lambda: self.work(worker, chance),
            self.reactor.run_once,
            self.reactor.run_once,
            lambda: self.leave(name, parks=chance.random() < 0.4),
            lambda: self.give(name, worker),
            lambda: self.answer_slow(name),
            lambda: self.die(worker, chance) if chance.random() < 0.2 else None,
            lambda: self.end(name) if chance.random() < 0.1 else None,
            lambda: self.pass_time(chance),
        ]
        chance.choice(steps)()

    def send(self, name: str, chance: random.Random) -> None:
        number = len(self.pushed) + len(self.published) + 1
        data = b"%d" % number
        self.pushed[number] = name, data
        until = chance.choice([_LONG, int((self.clock.now + 1) * 1e9)])
        self.post.push(self, [letter(number, f"name-{name}", data, until)])

    def publish(self) -> None:
        number = len(self.pushed) + len(self.published) + 1
        self.published[number] = b"%d" % number
        self.post.push(self, [letter(number, GROUP, b"%d" % number, _LONG, group=True)])

    def hear(self, worker: FarEnd) -> None:
        """The keeper reads one message of a worker's."""
        if not worker.up:
            return
        as_worker: Any = worker
        match heard := worker.up.popleft():
            case ("left", name, parks):
                self.post.taken_back(name)
                if parks:
                    self.parked.add(name)
                    self.post.parked(name)
                else:
                    self.moving.add(name)
            case ("refused", name):
                self.post.taken_back(name)
                self.moving.add(name)
            case ("ended", name):
                self.post.ended(name)
                self.ended.add(name)
            case _ if kind_of(heard) == "Registered":
                self.post.register(as_worker, heard)
            case _:
                assert kind_of(heard) == "Delivered"
                self.post.answered(as_worker, heard.answers)

    def hear_all(self, worker: FarEnd) -> None:
        while worker.up:
            self.hear(worker)

    def work(self, worker: FarEnd, chance: random.Random) -> None:
        """A worker reads one message of the keeper's."""
        if not worker.down:
            return
        match heard := worker.down.popleft():
            case ("attach", name):
                if chance.random() < 0.2:
                    worker.up.append(("refused", name))
                else:
                    worker.has.add(name)
            case _:
                assert kind_of(heard) == "Deliver", "no worker has asked"
                for each in heard.letters:
                    self.deliver(worker, each, chance)

    def deliver(self, worker: FarEnd, pushed: Any, chance: random.Random) -> None:
        if pushed.group:
            for name in worker.has:
                self.got[name].append(pushed.data)
            done = letter_told(pushed.number, PushOutcome.DELIVERED, "", 0, len(worker.has), 0)
            worker.up.append(message("Delivered", [done]))
        elif pushed.to not in worker.has:
            worker.up.append(message("Delivered", [letter_told(pushed.number, 0)]))
        elif pushed.until <= self.clock.now * 1e9:
            worker.up.append(
                message("Delivered", [letter_told(pushed.number, PushOutcome.TIMED_OUT)])
            )
        else:
            self.got[pushed.to].append(pushed.data)
            if chance.random() < 0.3:
                worker.slow[pushed.to].append(pushed.number)
                worker.up.append(message("Delivered", [letter_told(pushed.number, _BEGUN)]))
            else:
                self.answer_slow(pushed.to)
                worker.up.append(
                    message("Delivered", [letter_told(pushed.number, PushOutcome.DELIVERED)])
                )

    def answer_slow(self, name: str) -> None:
        for worker in self.workers.values():
            for number in worker.slow.pop(name, ()):
                worker.up.append(message("Delivered", [letter_told(number, PushOutcome.DELIVERED)]))

    def owner(self, name: str) -> FarEnd | None:
        return next((each for each in self.workers.values() if name in each.has), None)

    def leave(self, name: str, *, parks: bool) -> None:
        worker = self.owner(name)
        if worker is not None:
            self.answer_slow(name)
            worker.has.discard(name)
            worker.up.append(("left", name, parks))

    def end(self, name: str) -> None:
        worker = self.owner(name)
        if worker is not None:
            self.answer_slow(name)
            worker.has.discard(name)
            worker.up.append(("ended", name))

    def give(self, name: str, worker: FarEnd) -> None:
        as_worker: Any = worker
        if name in self.parked:
            self.parked.discard(name)
            self.moving.add(name)
        if name in self.moving:
            self.moving.discard(name)
            self.epochs[name] += 1
            self.post.flush_to(as_worker)
            worker.send(("attach", name))
            self.post.given(name, as_worker, self.epochs[name])

    def die(self, worker: FarEnd, chance: random.Random) -> None:
        """A worker dies; what it has said is heard, and each connection resumed or ended."""
        self.hear_all(worker)
        for unheard in worker.down:
            if isinstance(unheard, tuple):
                self.post.taken_back(unheard[1])  # it has not touched it
                self.moving.add(unheard[1])
        for name in sorted(worker.has):
            if chance.random() < 0.5:
                self.post.taken_back(name, uncertain=True)
                self.moving.add(name)
            else:
                self.ended.add(name)
        self.post.worker_died(worker.serial)
        self.serial += 1
        slot = next(slot for slot, each in self.workers.items() if each is worker)
        self.workers[slot] = fresh = FarEnd(self.serial)
        fresh.drain = partial(self.hear_all, fresh)

    def pass_time(self, chance: random.Random) -> None:
        self.clock.now += chance.choice([0.1, 1.0])
        self.reactor.run_once()

    def come_to_rest(self, chance: random.Random) -> None:
        """Have all that is under way arrive."""
        for _ in range(200):
            for worker in tuple(self.workers.values()):
                for name in sorted(worker.slow):
                    self.answer_slow(name)
                self.hear_all(worker)
                while worker.down:
                    self.work(worker, chance)
            for name in sorted(self.moving):
                self.give(name, self.workers[1])
            self.reactor.run_once()
            busy = any(each.up or each.down or each.slow for each in self.workers.values())
            if not (busy or self.moving or self.reactor._soon):
                return
        raise AssertionError("it does not come to rest")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(10, 150))
def test_nothing_comes_twice_and_each_is_told(seed: int, steps: int) -> None:
    chance = random.Random(seed)
    world = World()
    for _ in range(steps):
        world.step(chance)
    world.come_to_rest(chance)
    for number, (name, data) in world.pushed.items():
        assert number in world.told, f"nothing was told of push {number}"
        outcome = world.told[number].outcome
        times = world.got[name].count(data)
        if outcome == PushOutcome.DELIVERED:
            assert times == 1
        elif outcome == PushOutcome.UNCERTAIN:
            assert times <= 1
        else:
            assert times == 0, (PushOutcome(outcome), name, data)
    for number, data in world.published.items():
        assert number in world.told, f"nothing was told of publication {number}"
        counts = [world.got[name].count(data) for name in world.epochs]
        assert max(counts) <= 1
        assert sum(counts) >= world.told[number].delivered
    for name in world.epochs:
        numbers = [int(data) for data in world.got[name]]
        assert numbers == sorted(numbers), "out of order"
    assert not world.post._letters
    assert not world.post._bytes
    assert not world.post._boxes
    assert not world.post._at


def test_too_much_for_one_connection_is_refused() -> None:
    world = World()
    for number in range(1000 + 5):
        world.post.push(world, [letter(number, "name-c0", b"x", _LONG)])
    assert [each.outcome for each in world.told.values()] == [PushOutcome.FULL] * 5


def test_a_letter_waits_no_longer_than_it_may() -> None:
    world = World()
    world.leave("c0", parks=False)
    world.hear_all(world.workers[1])
    until = int((world.clock.now + 2) * 1e9)
    world.post.push(world, [letter(1, "name-c0", b"x", until)])
    for _ in range(30):
        world.clock.now += 0.1
        world.reactor.run_once()
        assert 1 not in world.told or world.clock.now * 1e9 >= until
    assert world.told[1].outcome == PushOutcome.TIMED_OUT


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["", "a", "b"]),
            st.frozensets(st.sampled_from(["g", "h"])),
            st.sampled_from([None, 1, 2]),
        )
    )
)
def test_the_table_knows_each_by_all_that_it_is_called(
    steps: list[tuple[int, str, frozenset[str], int | None]],
) -> None:
    table = name_table()
    news: set[tuple[str, str]] = set()
    table.watch(lambda name, group: news.add((name, group)))
    known_names: dict[str, Any] = {}
    known_groups: dict[str, bool] = {}
    model: dict[str, Any] = {}
    for number, name, groups, owner in steps:
        key = f"c{number}"
        known = model.get(key)
        if known is None:
            known = named(key, 1, owner)
        else:
            table.move(known, owner, known.epoch + 1)
        table.put(known, name, groups, {})
        model[key] = known
        if not known.has_any:
            table.forget(model.pop(key))
        for each in [each for each in model.values() if not each.has_any]:
            table.forget(model.pop(each.id))  # whose name was taken
        names = {each.name: each for each in model.values() if each.name}
        assert len(names) == sum(bool(each.name) for each in model.values())
        for text in ("a", "b"):
            assert table.named(text) is names.get(text)
            if (text, "") in news:
                known_names[text] = table.named(text)
            assert known_names.get(text) is table.named(text)  # no change without news of it
        for group in ("g", "h"):
            if ("", group) in news:
                known_groups[group] = bool(table.members(group))
            assert known_groups.get(group, False) is bool(table.members(group))
            found = {
                (owner, each) for owner, members in table.members(group).items() for each in members
            }
            assert found == {(e.owner, e.id) for e in model.values() if group in e.groups}
        news.clear()
        for serial in (1, 2):
            owned = {each.id for each in table.owned_by(serial)}
            assert owned == {each.id for each in model.values() if each.owner == serial}
    other = name_table()
    other.restore(table.snapshot())
    assert other.snapshot() == table.snapshot()


class OtherNodes:
    """What is sent to other nodes, until the test says what has become of it there."""

    label, cluster, pid = "here/a", "app", 1
    state = message("ClusterTold", "connected")

    def __init__(self) -> None:
        self.sent: list[tuple[Any, Callable[[Any], None]]] = []

    def push(self, letter: Any, told: Callable[[Any], None]) -> None:
        self.sent.append((letter, told))

    def answer(self, **fields: Any) -> None:
        """Answer the oldest, under a number of their own."""
        self.sent.pop(0)[1](letter_told(77, **fields))


@pytest.fixture
def world() -> World:
    made = World()
    made.post.elsewhere = OtherNodes()
    return made


def nodes_of(world: World) -> OtherNodes:
    assert isinstance(world.post.elsewhere, OtherNodes)
    return world.post.elsewhere


def test_a_name_that_nobody_has_here_goes_elsewhere(world: World) -> None:
    letters = [letter(1, "name-c0", b"x", _LONG), letter(2, "far", b"y", _LONG)]
    world.post.push(world, letters)
    assert [sent for sent, _ in nodes_of(world).sent] == letters[1:]
    nodes_of(world).answer(outcome=PushOutcome.DELIVERED, id="c9", epoch=4, node="there/b")
    assert world.told[2] == letter_told(2, PushOutcome.DELIVERED, "c9", 4, node="there/b")


def test_what_comes_from_elsewhere_goes_to_no_other_node(world: World) -> None:
    letters = [letter(1, "far", b"y", _LONG), letter(2, "nobody's", b"y", _LONG, group=True)]
    world.post.push(world, [*letters, letter(3, "far", b"", _LONG, asks=True)], here=True)
    assert not nodes_of(world).sent
    assert world.told[1].outcome == PushOutcome.NOT_CONNECTED
    assert (world.told[2].delivered, world.told[3].found) == (0, [])


def test_a_group_is_counted_over_all_nodes(world: World) -> None:
    world.post.push(world, [letter(1, GROUP, b"x", _LONG, group=True)])
    world.come_to_rest(random.Random(1))
    assert 1 not in world.told
    nodes_of(world).answer(outcome=PushOutcome.DELIVERED, delivered=5, failed=2)
    told = world.told[1]
    assert (told.delivered, told.failed) == (_CONNECTIONS + 5, 2)


def test_who_is_asked_of_all_nodes(world: World) -> None:
    world.post.push(world, [letter(1, GROUP, b"", _LONG, asks=True)])
    there = presence_told("there/b", "c9", 1, "far", True)
    nodes_of(world).answer(outcome=PushOutcome.DELIVERED, found=[there], silent=1)
    told = world.told[1]
    assert told.silent == 1
    assert {(each.node, each.id) for each in told.found} == {
        *(("", f"c{number}") for number in range(_CONNECTIONS)),
        ("there/b", "c9"),
    }
    assert all(each.member for each in told.found)
    world.post.push(world, [letter(2, "name-c0", b"", _LONG, asks=True)])
    nodes_of(world).answer(outcome=PushOutcome.UNREACHABLE)
    assert world.told[2].silent == 1  # nobody else could be asked
    assert [(each.id, each.member) for each in world.told[2].found] == [("c0", False)]


def test_a_name_that_another_node_has_now_is_lost_here(world: World) -> None:
    world.post.taken_elsewhere("c0", "another")  # it has been renamed meanwhile
    assert world.post.names.named("name-c0") is not None
    world.post.taken_elsewhere("c0", "name-c0")
    assert world.post.names.named("name-c0") is None
    taken = [m for w in world.workers.values() for m in w.down if kind_of(m) == "NameTaken"]
    assert [(each.id, each.name) for each in taken] == [("c0", "name-c0")]


@pytest.mark.parametrize("outcome", list(PushOutcome))
def test_each_outcome_has_a_text(outcome: PushOutcome) -> None:
    assert outcome.text
