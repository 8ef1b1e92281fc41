"""Nodes and a real broker, with the keepers' sides in this process: who hears what from whom."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from socketkeep._cluster._node import Node
from tests.cluster.broker import Broker
from tests.cluster.keepers import KeeperSide
from tests.keeper.fakes import Clock, FakeSystem
from tests.wire.sending import channel_on, letter

DELIVERED, NOT_CONNECTED, UNREACHABLE = 1, 2, 7
PATIENCE = 20.0


class RunningClock(Clock):
    """Tells the time, as the nodes do."""

    def __call__(self) -> float:
        return time.monotonic()


class NodeSystem(FakeSystem):
    """Has each node run in a thread, in place of a process."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[threading.Thread] = []

    def spawn_cluster(self, channel_fd: int) -> int:
        thread = threading.Thread(target=_be_a_node, args=(os.dup(channel_fd),))
        thread.start()
        self.threads.append(thread)
        return self.add("cluster").pid


def _be_a_node(fd: int) -> None:
    channel = channel_on(socket.socket(fileno=fd))
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(PATIENCE * 1000)
    packet = channel.receive()
    assert packet is not None
    joined: Any = packet.message

    async def be() -> None:
        await Node(channel, joined).run()

    asyncio.run(be())
    channel.close()


class Parked:
    """The connections of a keeper, all of which are parked: a push is sent at once."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, bytes]] = []

    def push(self, name: str, data: bytes, told: Any) -> bool:
        self.pushed.append((name, data))
        return True

    def close(self, name: str, why: str) -> None:
        """No connection of this test has an end."""

    def is_held(self, name: str) -> bool:
        return True


class Keeper(KeeperSide):
    """The side of a keeper, with its node."""

    def __init__(self, label: str, url: str, target: str = "app:handle") -> None:
        self.system = NodeSystem()
        self.parked = Parked()
        super().__init__(
            RunningClock(),
            self.system,
            self.parked,
            label,
            cluster=url,
            cluster_name="app",
            target=target,
        )
        self.cluster = self.join()
        self.post.elsewhere = self.cluster

    def push(self, number: int, to: str, data: bytes = b"x", **more: Any) -> None:
        until = int((time.monotonic() + 5) * 1e9)
        self.post.push(self, [letter(number, to, data, until, **more)])

    def close(self) -> None:
        """Have the process end for the keeper, by which the node hears that it is alone."""
        self.system.processes[self.cluster.pid].die()
        self.reactor.settle()
        self.cluster.close()
        self.reactor.close()
        for thread in self.system.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


class World:
    """A broker, and the keepers of its nodes."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.keepers: list[Keeper] = []

    def join(self, label: str, target: str = "app:handle") -> Keeper:
        keeper = Keeper(label, self.broker.url, target)
        self.keepers.append(keeper)
        return keeper

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Let the keepers run until it holds."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, what
            for keeper in self.keepers:
                keeper.reactor.run_once(0.01)

    def joined(self, *keepers: Keeper) -> None:
        for keeper in keepers:
            self.until(
                lambda keeper=keeper: len(keeper.cluster.state.nodes) == len(keepers),  # type: ignore[misc]
                "all know of each other",
            )

    def answer(self, keeper: Keeper, number: int) -> Any:
        self.until(lambda: number in keeper.told, "it is told what became of it")
        return keeper.told[number]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Broker(tmp_path / "broker") as broker:
        made = World(broker)
        yield made
        for keeper in made.keepers:
            keeper.close()


def test_a_name_is_found_at_another_node_and_followed(world: World) -> None:
    north, south = world.join("north"), world.join("south")
    world.joined(north, south)
    south.call("s1", "device", frozenset({"room"}))
    north.call("n1", "lamp", frozenset({"room"}))
    world.until(
        lambda: [each for each in (asked(world, north, "device")) if each.id == "s1"],
        "the name is claimed",
    )
    north.push(1, "device", b"on")
    answer = world.answer(north, 1)
    assert (answer.outcome, answer.id, answer.epoch) == (DELIVERED, "s1", 1)
    assert answer.node.endswith("/south")
    assert south.parked.pushed == [("s1", b"on")]
    north.push(2, "room", b"all", group=True)
    assert world.answer(north, 2).delivered == 2
    assert ("s1", b"all") in south.parked.pushed
    assert ("n1", b"all") in north.parked.pushed
    north.push(3, "nobody")
    assert world.answer(north, 3).outcome == NOT_CONNECTED
    # It comes again, at the other node: whoever had the name before loses it.
    north.call("n2", "device")
    world.until(lambda: south.post.names.named("device") is None, "the earlier one has lost it")
    south.push(1, "device", b"off")
    assert world.answer(south, 1).id == "n2"
    assert ("n2", b"off") in north.parked.pushed


def pushed(world: World, keeper: Keeper, name: str) -> int:
    """Push to a name; return what has become of it."""
    number = 2000 + len(keeper.told)
    keeper.push(number, name)
    outcome: int = world.answer(keeper, number).outcome
    return outcome


def asked(world: World, keeper: Keeper, text: str) -> list[Any]:
    """Return who is called so, as the nodes say."""
    number = 1000 + len(keeper.told)
    keeper.push(number, text, asks=True)
    found: list[Any] = world.answer(keeper, number).found
    return found


def test_without_a_broker_and_with_it_again(world: World) -> None:
    north, south = world.join("north"), world.join("south")
    south.call("s1", "device")
    world.joined(north, south)
    world.until(lambda: asked(world, north, "device"), "the name is claimed")
    world.broker.kill()
    world.until(lambda: north.cluster.state.state == "away", "it is missed")
    north.push(1, "device")
    assert world.answer(north, 1).outcome == UNREACHABLE
    world.broker.start()
    world.until(lambda: pushed(world, north, "device") == DELIVERED, "it is found again")


def test_a_server_of_another_target_is_refused(world: World) -> None:
    first = world.join("first")
    world.joined(first)
    other = world.join("other", "other:handle")
    world.until(lambda: other.cluster.state.state == "refused", "it is told why")
    assert "app:handle" in other.cluster.state.error
    other.push(1, "device")
    assert world.answer(other, 1).outcome == UNREACHABLE
