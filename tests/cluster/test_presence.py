"""The holder of a name, by the buckets of a real broker, with two nodes in this process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.kv import KeyValue

from socketkeep._cluster._notes import NameEntry, NodeEntry
from socketkeep._cluster._presence import COLLECT_AFTER, Claim, PresenceBucket
from socketkeep._cluster._subjects import Subjects
from tests.cluster.broker import Broker


class Nodes:
    """Presences over connections of their own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: list[Client] = []
        self.live: dict[str, str] = {}

    async def join(self, node: str, target: str = "app:handle") -> PresenceBucket:
        client = Client()
        await client.connect(self._url)
        self._clients.append(client)
        presence = PresenceBucket(client, Subjects("app"), node, NodeEntry(node.upper(), target))
        self.live = await presence.join(10)
        return presence

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


def claim_of(nodes: Nodes) -> Callable[..., Coroutine[Any, Any, tuple[str, str]]]:
    """Return a claim of the name "x", which tells how it ended: who has it, who has lost it."""
    claims: dict[str, Claim | None] = {}

    async def claim(
        presence: PresenceBucket, node: str, connection: str, at: float, *, fresh: bool
    ) -> tuple[str, str]:
        mine = NameEntry(node, node.upper(), connection, 1, at)
        before = claims.get(node)
        claims[node], other = await presence.claim("x", mine, before, nodes.live, fresh=fresh)
        holder = await presence.holder("x")
        assert holder is not None
        return holder.id, other.id if other is not None else ""

    return claim


def test_a_name_outlives_the_process_that_claimed_it(tmp_path: Path) -> None:
    """A server whose processes were killed joins again, with the connections that were kept."""

    async def run(url: str) -> None:
        nodes = Nodes(url)
        before, after, other = [await nodes.join(node) for node in ("a1", "a2", "b")]
        assert set(nodes.live) == {"a1", "a2", "b"}, "the lease of the earlier one is not over"
        first = NameEntry("a1", "A", "c1", 1, 10)
        claim, lost = await before.claim("x", first, None, nodes.live, fresh=True)
        assert claim is not None
        again = NameEntry("a2", "A", "c1", 2, 5)  # as if it had been named earlier
        claim, lost = await after.claim("x", again, None, nodes.live, fresh=False)
        assert claim is not None
        assert lost is None
        holder = await other.holder("x")
        assert (holder and holder.node) == "a2"
        # A connection of that id at a node of another label is another one.
        foreign = NameEntry("b", "B", "c1", 1, 1)
        claim, lost = await other.claim("x", foreign, None, nodes.live, fresh=False)
        assert claim is None
        assert lost is not None
        await nodes.close()

    with Broker(tmp_path / "broker") as broker:
        asyncio.run(run(broker.url))


def test_who_has_a_name(tmp_path: Path) -> None:
    async def run(url: str) -> None:
        nodes = Nodes(url)
        a, b = await nodes.join("a"), await nodes.join("b")
        assert nodes.live == {"a": "A", "b": "B"}
        claim = claim_of(nodes)
        # Said at once, the later one has it; and again, by the same, changes nothing.
        assert await claim(a, "a", "a1", 10, fresh=True) == ("a1", "")
        assert await claim(a, "a", "a1", 10, fresh=True) == ("a1", "")
        assert await claim(b, "b", "b1", 5, fresh=True) == ("b1", "a1")
        # Whoever had it, and joins again, finds that it is lost.
        assert await claim(a, "a", "a1", 10, fresh=False) == ("b1", "b1")
        # A connection of the same node takes it over without a word to anybody.
        assert await claim(b, "b", "b2", 20, fresh=True) == ("b2", "")
        # Named while the node was away: the later moment decides.
        assert await claim(a, "a", "a2", 15, fresh=False) == ("b2", "b2")
        assert await claim(a, "a", "a3", 25, fresh=False) == ("a3", "b2")
        # Of a node that has left everybody takes it.
        await a.leave()
        nodes.live = await b.nodes()
        assert await claim(b, "b", "b3", 1, fresh=False) == ("b3", "")
        await nodes.close()

    with Broker(tmp_path) as broker:
        asyncio.run(run(broker.url))


def test_names_of_nodes_that_have_left_are_dropped(tmp_path: Path) -> None:
    async def run(url: str) -> None:
        nodes = Nodes(url)
        a, b = await nodes.join("a"), await nodes.join("b")
        for presence, node, name in ((a, "a", "one"), (a, "a", "two *"), (b, "b", "three")):
            mine = NameEntry(node, node.upper(), "c", 1)
            await presence.claim(name, mine, None, nodes.live, fresh=True)
        assert await b.sweep() == 0
        await a.leave()
        assert await b.sweep() == 2
        assert await b.holder("one") is None
        assert await b.holder("three") is not None
        await b.give_up("three", Claim(1, "c"))  # somebody else's by now
        assert await b.holder("three") is not None
        await nodes.close()

    with Broker(tmp_path) as broker:
        asyncio.run(run(broker.url))


def test_what_is_left_of_renewals_is_collected(tmp_path: Path) -> None:
    """The soak saw a node grow by 4 MB an hour: the collector had no other reason to come."""

    async def run(url: str) -> int:
        nodes = Nodes(url)
        presence = await nodes.join("a")
        gc.collect()
        gc.disable()
        try:
            for _ in range(COLLECT_AFTER + 20):
                await presence.renew()
                await presence.nodes()
            return sum(isinstance(each, KeyValue.KeyWatcher) for each in gc.get_objects())
        finally:
            gc.enable()
            await nodes.close()

    with Broker(tmp_path) as broker:
        assert asyncio.run(run(broker.url)) <= 25


def test_a_cluster_serves_one_target(tmp_path: Path) -> None:
    async def run(url: str) -> None:
        nodes = Nodes(url)
        a = await nodes.join("a")
        with pytest.raises(Exception, match="'app' serves app:handle, and this server other:x"):
            await nodes.join("b", "other:x")
        await a.leave()
        b = await nodes.join("b", "other:x")
        assert await b.nodes() == {"b": "B"}
        await nodes.close()

    with Broker(tmp_path) as broker:
        asyncio.run(run(broker.url))
