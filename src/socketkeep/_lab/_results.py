"""The results of the lab: frozen values, which are also its JSON."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Verdict: TypeAlias = Literal["holds", "does not hold", "could not be done"]


class EndingPacket(Struct, frozen=True):
    """The packet that ended a connection, as the state of the receiving end shows.

    Attributes:
        flag: "FIN" or "RST".
        source: The name of the socket that sent it; "" for one that no process has accepted.
        target: The name of the one that got it, likewise.
    """

    flag: str
    source: str
    target: str


class Step(Struct, frozen=True):
    """One call, and what the kernel said of the experiment's sockets after it.

    Attributes:
        process: The name of the process that made it.
        call: The call as it would be written.
        result: What it returned, or the name of the errno or exception.
        message: What the system says of that error.
        seconds: How long the call took.
        waits: How often the process gave up the processor in it.
        at: Seconds since the experiment began.
        handles: Of each socket the number of handles in each process that has one.
        states: Of each TCP socket its state, as ss(8) names it; "gone" when the kernel has it no
            longer.
        packets: The packets whose arrival was seen between the step before and this one.
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

    Attributes:
        what: What was looked at.
        expected: What the claim makes one expect; "" for an observation that is shown and decides
            nothing.
        observed: What was seen.
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

    Attributes:
        name: The name to ask for it by.
        claim: What was tried.
        notes: What the notes say of that, in their own words.
        socketkeep: What the library makes of it.
        verdict: "holds", "does not hold", or "could not be done".
        reason: The first check that failed, or why it could not be done; "" when it holds.
        processes: The names of its processes.
        steps: The calls, in their order.
        checks: The observations.
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
    """All findings, and where they were made.

    Attributes:
        kernel: The kernel's version.
        machine: The machine's architecture.
        python: The version of Python.
        date: The day, in UTC, as ISO 8601 has it.
        findings: The findings.
    """

    kernel: str
    machine: str
    python: str
    date: str
    findings: tuple[Finding, ...]
