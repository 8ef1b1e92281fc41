"""The notes that nodes send to each other, and those that they leave in the buckets.

Fields are only ever appended, each with a default, so that nodes of several versions can talk.
Notes are msgpack; what stands in the buckets is JSON, which people can read with the tools of NATS.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from socketkeep._wire._messages import PresenceTold


class Envelope(msgspec.Struct, array_like=True, frozen=True, tag="Parcel"):
    """A pushed message, to whoever has a name or a group; its tag is frozen, as all of these are.

    left: nanoseconds in which it is to be handed over; machines do not share a clock.
    """

    to: str
    data: bytes
    left: int
    group: bool = False


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="Hello"):
    """To all: this node is here."""

    node: str
    label: str


class Sent(msgspec.Struct, array_like=True, frozen=True, tag="Sent"):
    """To all: something was sent to a group.  Who has nobody in it answers that at once."""

    group: str


class Ask(msgspec.Struct, array_like=True, frozen=True, tag="Ask"):
    """To all: who has that name with you, and who is in that group?"""

    text: str
    left: int


class Took(msgspec.Struct, array_like=True, frozen=True, tag="Took"):
    """To one: a connection of the node `label` has the name now that your connection `id` had."""

    name: str
    id: str
    label: str


Note: TypeAlias = Envelope | Hello | Sent | Ask | Took


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """The fate of an envelope, or who was found.

    outcome: one of `Outcome`; 0: nobody has that name here, any more.
    """

    node: str
    label: str
    outcome: int = 0
    id: str = ""
    epoch: int = 0
    delivered: int = 0
    failed: int = 0
    found: list[PresenceTold] = []


class NodeEntry(msgspec.Struct, frozen=True):
    """A node, in the bucket whose entries last for one lease."""

    label: str
    target: str = ""
    version: str = ""


class NameEntry(msgspec.Struct, frozen=True):
    """The holder of a name.  at: since when, in seconds of that machine's clock.

    The entry's revision is the claim's epoch: the later one has the name.
    """

    node: str
    label: str
    id: str
    epoch: int
    at: float = 0.0


class ClusterEntry(msgspec.Struct, frozen=True):
    """The target that all nodes of the cluster serve."""

    target: str


NOTES: Final[msgspec.msgpack.Decoder[Note]] = msgspec.msgpack.Decoder(Note)
ANSWERS: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)
NODES: Final = msgspec.json.Decoder(NodeEntry)
NAMES: Final = msgspec.json.Decoder(NameEntry)
CLUSTERS: Final = msgspec.json.Decoder(ClusterEntry)


def packed(note: Note | Answer) -> bytes:
    """Return a note as it is sent."""
    return msgspec.msgpack.encode(note)


def written(entry: NodeEntry | NameEntry | ClusterEntry) -> bytes:
    """Return an entry as it stands in a bucket."""
    return msgspec.json.encode(entry)
