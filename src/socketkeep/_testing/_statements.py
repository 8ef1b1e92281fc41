"""Statements about pairs of streams: each holds for every pair that has what it needs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from socketkeep._stream._modes import Mode
from socketkeep._testing._ends import End, waits

World: TypeAlias = Literal["sync", "async"]
Run: TypeAlias = Callable[[End, End], Coroutine[Any, Any, None]]

#: The verbs, and what else can be asked of a stream: "errors": it raises Socketkeep's; "timeout":
#: verbs take one; "drain": `close` lets the peer finish sending; "mode": it has the modes of a sync
#: `Connection`; "attributes": `peer`, `local`, `unread`, `ended`, `fileno`.
FEATURES: Final = frozenset(
    [
        "abort",
        "attributes",
        "close",
        "commit",
        "drain",
        "errors",
        "frames",
        "lines",
        "mode",
        "netstrings",
        "recv",
        "recv_exactly",
        "recv_frame",
        "recv_into",
        "recv_netstring",
        "recv_until",
        "release",
        "send",
        "send_eof",
        "send_frame",
        "send_netstring",
        "shutdown",
        "timeout",
    ]
)

#: What any stream of bytes has, whatever its library.
BYTE_STREAM: Final = frozenset({"recv", "send", "send_eof", "close"})


@dataclass(frozen=True)
class Statement:
    """Something that holds for every pair of streams that have what it `needs`."""

    run: Run
    needs: frozenset[str]
    world: World | None  # None: both
    waiting: bool  # it is about waiting: not for NonBlocking()

    def applies(self, world: World, mode: Mode, features: Iterable[str]) -> bool:
        """Return whether it is to be run."""
        if self.world not in (None, world) or (self.waiting and not waits(mode)):
            return False
        return self.needs <= frozenset(features)


STATEMENTS: Final[list[Statement]] = []


def holds(*needs: str, world: World | None = None, waiting: bool = False) -> Callable[[Run], Run]:
    """Register the statement that is decorated."""
    unknown = set(needs) - FEATURES
    assert not unknown, unknown

    def register(run: Run) -> Run:
        every = frozenset({"recv", "send", "close", *needs})
        STATEMENTS.append(Statement(run, every, world, waiting))
        return run

    return register
