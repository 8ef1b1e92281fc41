"""The crash policy, for a connection whose owner died: pure, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from socketkeep._stream._record import AGAIN, READ, SENT, Status

#: Owners that died longer ago than this do not count against a connection, in seconds.
MEMORY: Final = 60.0

OnCrash = Literal["close", "reset", "resume"]
Fate = Literal["resume", "redeliver", "close", "reset", "poison"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The handler's word on a connection that was not clean."""

    on_crash: OnCrash = "close"
    redeliver: bool = False


def judge(
    status: int, policy: Policy, deaths: Sequence[float], now: float, limit: int
) -> tuple[Fate, tuple[float, ...]]:
    """Return what becomes of the connection, and the deaths that count against it from now on.

    A connection that was clean is innocent of its owner's death, however often that happens.  Where
    messages are delivered again, so is one that had not been received from again; and once
    something has been committed it is another message: what died of earlier ones counts no more.
    """
    recent = tuple(death for death in deaths if now - death < MEMORY)
    if status == AGAIN and policy.redeliver:
        return "redeliver", recent
    if status in (AGAIN | READ, AGAIN | SENT):
        status -= AGAIN
    elif policy.redeliver and status != Status.CLEAN:
        recent = ()
    if status == Status.CLEAN:
        return "resume", recent
    if status == Status.BOUND:
        return ("reset" if policy.on_crash == "reset" else "close"), recent
    recent = (*recent, now)
    if not policy.redeliver and policy.on_crash != "resume":
        return policy.on_crash, recent
    if len(recent) >= limit:
        return "poison", recent
    return ("redeliver" if policy.redeliver else "resume"), recent
