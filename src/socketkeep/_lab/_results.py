"""The results of the lab: frozen values, which are also its JSON."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Verdict: TypeAlias = Literal["holds", "does not hold", "could not be done"]


class EndingPacket(Struct, frozen=True):
    """The packet that ended a connection, as the state of the receiving end shows.

    flag: "FIN" or "RST".  source, target: the names of the sockets at its two ends; "" for one
    that no process has accepted.
    """

    flag: str
    source: str
    target: str


class Step(Struct, frozen=True):
    """One call, and what the kernel said of the experiment's sockets after it.

    process: the name of the one that made it.  call: as it would be written.  result: what it
    returned, or the name of the errno or exception.  message: what the system says of that error.
    seconds: how long the call took.  waits: how often the process gave up the processor in it.
    at: seconds since the experiment began.
    handles: of each socket the number of handles in each process that has one.
    states: of each TCP socket, as ss(8) names them; "gone" when the kernel has it no longer.
    packets: those whose arrival was seen between the step before and this one.
    """

    process: str
    call: str
    result: str
    message: str
    seconds: float
    waits: int
    at: float
    handles: dict[str, dict[str, int]]
    states: dict[str, str]
    packets: tuple[EndingPacket, ...]


class Observation(Struct, frozen=True):
    """An observation against what the claim makes one expect.

    expected: "" for an observation that is shown and decides nothing.
    """

    what: str
    expected: str
    observed: str

    @property
    def holds(self) -> bool:
        """Return whether it is as expected."""
        return not self.expected or self.observed == self.expected


class Finding(Struct, frozen=True):
    """The outcome of one experiment.

    name: to ask for it by.  claim: what was tried.  notes: where that is said, in its own words.
    socketkeep: what the library makes of it.
    verdict: "holds", "does not hold", or "could not be done", for `reason`.
    reason: of the first check that failed, or why it could not be done; "" when it holds.
    """

    name: str
    claim: str
    notes: str
    socketkeep: str
    verdict: Verdict
    reason: str
    processes: tuple[str, ...]
    steps: tuple[Step, ...]
    checks: tuple[Observation, ...]


class LabReport(Struct, frozen=True):
    """All findings, and where they were made.  date: of the day, in UTC, as ISO 8601 has it."""

    kernel: str
    machine: str
    python: str
    date: str
    findings: tuple[Finding, ...]
