"""The observations of clients, as numbers."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Tally:
    """The counts of all clients together.  Read it at any time."""

    connections: int = 0
    requests: int = 0
    replies: int = 0
    missing: int = 0  # a later reply came instead, or none came on a connection that lives
    unanswered: int = 0  # the connection ended before the reply
    repeated: int = 0
    again: int = 0  # repeated, and the handler was told that it might be
    out_of_order: int = 0
    miscounted: int = 0  # the handler's count is not the request's number: its state was lost
    malformed: int = 0
    truncated: int = 0  # connections that ended inside a reply
    fin: int = 0
    reset: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    latencies: array[float] = field(default_factory=lambda: array("d"))  # seconds
    ends: list[str] = field(default_factory=list)  # one line for each connection that ended

    @property
    def lost(self) -> int:
        """Replies that never came, or came without the state that belonged to them."""
        return self.missing + self.unanswered + self.miscounted + self.malformed + self.truncated

    @property
    def disordered(self) -> int:
        """Replies that are wrong whatever became of the connection."""
        return self.lost - self.unanswered + self.repeated + self.out_of_order

    @property
    def clean(self) -> bool:
        """Return whether no client noticed anything at all."""
        return not (self.disordered or self.unanswered or self.fin or self.reset)

    def latency(self, quantile: float) -> float:
        """Return the latency in seconds below which `quantile` (0 to 1) of the requests lie."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * quantile), len(ordered) - 1)] if ordered else 0.0

    def summary(self) -> str:
        """Return all counts on one line, and how the first connections ended on the next ones."""
        names = (
            *("connections", "requests", "replies", "missing", "unanswered", "repeated", "again"),
            *("out_of_order", "miscounted", "malformed", "truncated", "fin", "reset"),
        )
        counts = " ".join(f"{name}={getattr(self, name)}" for name in names)
        return "\n  ".join([f"{counts} versions={dict(self.versions)}", *self.ends[:10]])


def total(*tallies: Tally) -> Tally:
    """Return the counts of several groups of clients as one."""
    whole = Tally()
    for tally in tallies:
        for each in fields(Tally):
            ours, theirs = getattr(whole, each.name), getattr(tally, each.name)
            setattr(whole, each.name, ours + theirs)
    return whole
