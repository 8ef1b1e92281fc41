"""A finding laid out over time, for whatever draws it: a lane a process, a row a step."""

from __future__ import annotations

from dataclasses import dataclass

from socketkeep._lab._outcome import counted
from socketkeep._lab._results import EndingPacket, Finding, Step

#: What a lane is in a row: not there, there without a handle of any socket, or with one.
ABSENT, WITHOUT, HOLDS = range(3)


@dataclass(frozen=True, slots=True)
class Arrow:
    """A packet from lane to lane."""

    flag: str
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Row:
    """One step.  lanes: what each process is after it.  now: what is different after it."""

    lane: int
    call: str
    result: str
    failed: bool
    lanes: tuple[int, ...]
    arrows: tuple[Arrow, ...]
    now: tuple[str, ...]


def rows_of(finding: Finding) -> list[Row]:
    """Return the rows of a finding's timeline; lanes are numbered as its processes are."""
    lanes = {name: number for number, name in enumerate(finding.processes)}
    rows: list[Row] = []
    there: set[str] = set()
    before: dict[str, str] = {}
    last: dict[str, str] = {}  # of each socket a process that has it, or had it last
    for step in finding.steps:
        there.add(step.process)
        if step.call == "fork()":
            there.add(step.result)
        if step.call == "exit()":
            there.discard(step.process)
        holders = {name for handles in step.handles.values() for name in handles}
        sockets = {name: _described(step, name) for name in step.handles}
        last |= {name: next(iter(handles)) for name, handles in step.handles.items() if handles}
        rows.append(
            Row(
                lanes[step.process],
                step.call,
                # Most calls return nothing.
                step.result if step.result != "None" or step.call.startswith("get") else "",
                bool(step.message),
                tuple((name in there) + (name in there & holders) for name in lanes),
                tuple(_arrow(packet, step.process, lanes, last) for packet in step.packets),
                tuple(text for name, text in sockets.items() if before.get(name) != text),
            )
        )
        before = sockets
    return rows


def _described(step: Step, name: str) -> str:
    handles = counted(step.handles[name])
    state = step.states.get(name, "")
    return f"{name}: {handles}" + (f"; {state}" if state else "")


def _arrow(packet: EndingPacket, actor: str, lanes: dict[str, int], last: dict[str, str]) -> Arrow:
    """From who set it off, unless that is its receiver."""
    target = last[packet.target]
    source = actor if actor != target else last.get(packet.source, actor)
    return Arrow(packet.flag, lanes[source], lanes[target])
