"""Presence: which nodes there are, and who has which name, in two JetStream buckets.

A node has a lease: an entry in a bucket whose entries last for so long, put anew three times
meanwhile.  A name has an entry that says which node has it; that counts as long as the node's lease
does.  Entries of names change by compare and set alone, so that of two that claim a name one comes
later, and the other learns of it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.errors import (
    APIError,
    BadRequestError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue

from socketkeep._cluster._broker import Unusable, reason_of
from socketkeep._cluster._notes import (
    CLUSTERS,
    NAMES,
    NODES,
    ClusterEntry,
    NameEntry,
    NodeEntry,
    written,
)
from socketkeep._cluster._subjects import CLUSTER_KEY, NAME_KEYS, Subjects, name_key

#: What a broker alone, or a cluster of too few, says to a bucket with copies.
_NO_COPIES: Final = (10074, 10005)
_OTHERWISE: Final = 10058  # the bucket has been made meanwhile, by another node
_COPIES: Final = 3
#: Seconds for one call to JetStream, and for one that reads all names.
_CALL: Final = 3.0
_READ_ALL: Final = 60.0
#: Seconds after which the traces of names that are gone are dropped.
_FORGET: Final = 3600
_MOST_TRIES: Final = 20
#: Looks at the nodes after which to collect what the client leaves of them, which are cycles: so
#: little else is made here that the collector would come by itself after an hour or more.
COLLECT_AFTER: Final = 100


@dataclass(slots=True)
class Claim:
    """The notes that this node has put under a name."""

    revision: int
    id: str


class PresenceBucket:
    """The buckets of one session, for one node."""

    def __init__(self, client: Client, subjects: Subjects, node: str, entry: NodeEntry) -> None:
        self._jetstream = JetStreamContext(client, timeout=_CALL)
        self._subjects = subjects
        self._node = node
        self._entry = entry
        self._names: KeyValue
        self._nodes: KeyValue
        self._looks = 0
        self.lease = 0.0

    async def join(self, lease: float) -> dict[str, str]:
        """Find or make the buckets, and enter this node; return the nodes that there are.

        Raises Unusable: there is no JetStream, or the cluster serves something else.
        """
        try:
            self._names = await self._bucket(self._subjects.names_bucket, None)
            self._nodes = await self._bucket(self._subjects.nodes_bucket, lease)
            self.lease = (await self._nodes.status()).ttl or lease
            others = await self.nodes()
            others.pop(self._node, None)
            await self._agree(others)
            await self.renew()
        except (ServiceUnavailableError, nats.errors.NoRespondersError):
            raise Unusable(
                "the broker has no JetStream: start nats-server with -js", refused=True
            ) from None
        except TimeoutError:
            raise Unusable("JetStream does not answer: too few of its servers are there") from None
        except APIError as error:
            raise Unusable(f"JetStream says: {error.description or reason_of(error)}") from None
        return {**others, self._node: self._entry.label}

    async def _bucket(self, name: str, lease: float | None) -> KeyValue:
        try:
            return await self._jetstream.key_value(name)
        except BucketNotFoundError:
            pass
        try:
            return await self._made(name, lease, _COPIES)
        except APIError as error:
            if error.err_code not in _NO_COPIES:
                if error.err_code == _OTHERWISE:
                    return await self._jetstream.key_value(name)
                raise
        return await self._made(name, lease, 1)

    async def _made(self, name: str, lease: float | None, copies: int) -> KeyValue:
        return await self._jetstream.create_key_value(
            bucket=name, history=1, replicas=copies, ttl=lease
        )

    async def _agree(self, others: Mapping[str, str]) -> None:
        """See that all nodes serve the same; where no other lives this one decides."""
        target = self._entry.target
        mine = written(ClusterEntry(target))
        for _ in range(_MOST_TRIES):
            try:
                entry = await self._names.get(CLUSTER_KEY)
            except KeyNotFoundError:
                entry = None
            try:
                if entry is None:
                    await self._names.create(CLUSTER_KEY, mine)
                    return
                theirs = CLUSTERS.decode(entry.value or b"").target
                if theirs == target:
                    return
                if others:
                    cluster = self._subjects.names_bucket.removeprefix("socketkeep_")
                    raise Unusable(
                        f"the cluster {cluster!r} serves {theirs}, and this server {target}: give"
                        " one of them another --cluster-name",
                        refused=True,
                    )
                await self._names.update(CLUSTER_KEY, mine, last=entry.revision)
                return
            except KeyWrongLastSequenceError:
                continue
        raise Unusable("the cluster's entry changes all the time")

    async def renew(self) -> None:
        """Put this node's lease anew."""
        await self._nodes.put(self._node, written(self._entry))

    async def leave(self) -> None:
        """Give the lease back."""
        await self._nodes.delete(self._node)

    async def nodes(self) -> dict[str, str]:
        """Return the nodes that have a lease, with their labels."""
        self._looks += 1
        if self._looks % COLLECT_AFTER == 0:
            gc.collect()
        found = {}
        for key, (_, value) in (await _all(self._nodes, ">")).items():
            try:
                found[key] = NODES.decode(value).label
            except msgspec.MsgspecError:
                continue
        return found

    async def holder(self, name: str) -> NameEntry | None:
        """Return what stands under a name."""
        try:
            entry = await self._names.get(name_key(name))
            return NAMES.decode(entry.value or b"")
        except (KeyNotFoundError, msgspec.MsgspecError):
            return None

    async def claim(
        self,
        name: str,
        mine: NameEntry,
        before: Claim | None,
        live: Mapping[str, str],
        *,
        fresh: bool,
    ) -> tuple[Claim | None, NameEntry | None]:
        """Put this node under a name.

        before: what it had put there.  fresh: the connection was named just now, and not while the
        cluster was away.  Returns the claim, None: another node has come later; and the entry of
        the node that has lost the name by it, or by which it is lost.
        """
        key, value = name_key(name), written(mine)
        for attempt in range(_MOST_TRIES):
            try:
                if before is None and attempt == 0:
                    return Claim(await self._names.create(key, value), mine.id), None
                try:
                    entry = await self._names.get(key)
                    revision = entry.revision or 0
                    there = NAMES.decode(entry.value or b"")
                except KeyNotFoundError:
                    return Claim(await self._names.create(key, value), mine.id), None
                except msgspec.MsgspecError:
                    there = NameEntry("", "", "", 0)
                if there.node == self._node and there.id == mine.id:
                    return Claim(revision, mine.id), None
                # Of a process of this server that is gone, whose lease is not over yet: this
                # connection was kept, and is the one that has the name.
                itself = (there.label, there.id) == (mine.label, mine.id)
                of_another = not itself and there.node != self._node and there.node in live
                had = before is not None and before.id == mine.id
                if of_another and not fresh and (had or there.at > mine.at):
                    return None, there
                claimed = Claim(await self._names.update(key, value, last=revision), mine.id)
                return claimed, there if of_another else None
            except KeyWrongLastSequenceError:
                continue
        raise TimeoutError

    async def give_up(self, name: str, claim: Claim) -> None:
        """Take this node away from a name, unless another has it meanwhile."""
        try:
            await self._names.delete(name_key(name), last=claim.revision)
        except BadRequestError:
            return

    async def sweep(self) -> int:
        """Drop the names of nodes that have no lease any more; return how many."""
        entries = await _all(self._names, NAME_KEYS)
        live = await self.nodes()  # after the names: a node has its lease before it has names
        dropped = 0
        for key, (revision, value) in entries.items():
            try:
                node = NAMES.decode(value).node
            except msgspec.MsgspecError:
                node = ""
            if node not in live:
                try:
                    await self._names.delete(key, last=revision)
                    dropped += 1
                except BadRequestError:
                    continue
        async with asyncio.timeout(_READ_ALL):
            await self._names.purge_deletes(_FORGET)
        return dropped


async def _all(bucket: KeyValue, keys: str) -> dict[str, tuple[int, bytes]]:
    """Return the entries of a bucket, by key: revision and value."""
    found: dict[str, tuple[int, bytes]] = {}
    async with asyncio.timeout(_READ_ALL):
        watcher = await bucket.watch(keys, ignore_deletes=True)
        try:
            async for entry in watcher:
                if entry is None:
                    break
                found[entry.key] = (entry.revision or 0, entry.value or b"")
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]
    return found
