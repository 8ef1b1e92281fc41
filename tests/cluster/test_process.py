"""The keeper's side of the cluster's process, which the test plays over the channel."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.keepers import KeeperSide
from tests.keeper.fakes import Clock, FakeSystem
from tests.wire.sending import changed, channel_on, kind_of, letter, letter_told, message

#: Outcomes, as they are numbered on the wire.
DELIVERED, NOT_CONNECTED, UNCERTAIN, UNREACHABLE = 1, 2, 5, 7


class ClusterSystem(FakeSystem):
    """Keeps the far ends of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.far: list[Any] = []

    def spawn_cluster(self, channel_fd: int) -> int:
        if self.no_process:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.far.append(channel_on(socket.socket(fileno=os.dup(channel_fd))))
        return self.add("cluster").pid


class Parked:
    """Nothing is parked here."""

    def push(self, name: str, data: bytes, told: Any) -> bool:
        return False

    def close(self, name: str, why: str) -> None:
        """No connection of this test has an end."""

    def is_held(self, name: str) -> bool:
        return False


class World(KeeperSide):
    """A post, its way to other nodes, and the process at the other end of that."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.system = ClusterSystem()
        super().__init__(self.clock, self.system, Parked(), "a", cluster="nats://127.0.0.1:1")
        self.call("c0", "before", frozenset({"g"}))
        self.cluster = self.join()

    @property
    def until(self) -> int:
        return int((self.clock.now + 5) * 1e9)

    def push(self, number: int, to: str, **more: Any) -> None:
        self.post.push(self, [letter(number, to, b"x", self.until, **more)])
        self.step()

    def step(self) -> None:
        for _ in range(5):
            self.reactor.run_once(0.0)

    def heard(self) -> list[Any]:
        """Return what the process has been told meanwhile."""
        self.step()
        found = []
        while (packet := self.system.far[-1].receive()) is not None:
            found.append(packet.message)
        return found

    def say(self, said: Any) -> None:
        self.system.far[-1].send_now(said)
        self.step()

    def letters(self) -> list[Any]:
        return [e for m in self.heard() if kind_of(m) == "Push" for e in m.letters]

    def end(self) -> None:
        """The process ends."""
        process = self.system.processes[max(self.system.processes)]
        self.system.far[-1].close()
        process.die()
        self.step()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    if made.cluster.pid:
        made.end()
    made.cluster.close()
    made.reactor.close()
    for far in made.system.far:
        far.close()


def test_it_is_told_what_there_is_and_what_changes(world: World) -> None:
    join, names = world.heard()
    assert (kind_of(join), join.cluster, join.label) == (
        *("JoinCluster", "app"),
        f"{socket.gethostname()}/a",
    )
    assert [each[:3] for each in names.names] == [("before", "c0", 1)]
    assert names.groups == ["g"]
    began = time.time()
    world.call("c1", "after", frozenset({"g", "h"}))
    world.call("c0", "")
    (news,) = world.heard()
    ((name, connection, _, at),) = news.names
    assert (name, connection, news.gone, news.groups) == ("after", "c1", ["before"], ["h"])
    assert news.groups_gone == []  # c1 is in it still
    assert began <= at <= time.time()


def test_it_is_started_again_and_told_all_anew(world: World) -> None:
    world.heard()
    world.push(1, "far")
    world.end()
    assert world.told[1].outcome == UNCERTAIN
    assert world.cluster.state.state == "away"
    world.push(2, "far")
    assert world.told[2].outcome == UNREACHABLE
    world.clock.now += 0.2
    join, names = world.heard()
    assert kind_of(join) == "JoinCluster"
    assert [each[0] for each in names.names] == ["before"]
    world.push(3, "far")
    (sent,) = world.letters()
    world.say(message("Told", [letter_told(sent.number, DELIVERED, "c9", 1)]))
    assert world.told[3].outcome == DELIVERED


def test_what_is_not_answered_is_told_in_the_end(world: World) -> None:
    world.push(1, "far")
    world.push(2, "all", group=True)
    world.push(3, "far", asks=True)
    sent = world.letters()
    for _ in range(20):
        assert not world.told
        world.clock.now += 0.4
        world.step()
    world.clock.now += 1
    world.step()
    assert world.told[1].outcome == UNCERTAIN
    assert world.told[2].failed == 1
    assert world.told[3].silent == 1
    world.say(message("Told", [letter_told(sent[0].number, DELIVERED)]))  # too late
    assert world.told[1].outcome == UNCERTAIN


def test_what_other_nodes_say_is_looked_at(world: World) -> None:
    world.heard()
    good = letter(5, "nobody", b"x", world.until)
    for bad in (
        changed(good, to="a\nb"),
        changed(good, data=bytes(65537)),
        changed(good, number=-1),
    ):
        world.say(message("Push", [bad]))
        assert not world.heard()
    world.say(message("Push", [good]))
    ((answer,),) = (m.answers for m in world.heard())
    assert (answer.number, answer.outcome) == (5, NOT_CONNECTED)
    world.push(1, "far")
    (sent,) = world.letters()
    fine = letter_told(sent.number, DELIVERED, "c9", 1)
    for bad in (
        changed(fine, outcome=99),
        changed(fine, id="\x1b[2J"),
        changed(fine, epoch=-1),
        changed(fine, node="x" * 1000),
    ):
        world.say(message("Told", [bad]))
        assert not world.told
    world.say(message("Told", [fine]))
    assert world.told[1].id == "c9"


def test_a_name_that_is_taken_elsewhere(world: World) -> None:
    world.heard()
    world.say(message("TakenElsewhere", "c0", "before", "far/b"))
    assert world.post.names.named("before") is None
    (news,) = world.heard()
    assert news.gone == ["before"]


def test_it_cannot_be_started(world: World) -> None:
    world.system.no_process = True
    world.end()
    for _ in range(3):
        world.clock.now += 1
        world.step()
    world.push(1, "far")
    assert world.told[1].outcome == UNREACHABLE
    world.system.no_process = False
    world.clock.now += 30
    world.step()
    assert kind_of(world.heard()[0]) == "JoinCluster"
