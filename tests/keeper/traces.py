"""Traces of what a keeper and its processes send each other, a packet a line.

A trace is a text: ``! ACTION`` is what is done to the server, ``> worker 2: Attach attached=reload
+1`` a packet that the keeper sends, with one descriptor, and ``< worker 2: Attached`` one that it
receives.  Workers and templates are numbered in the order in which they are started.  Of the fields
those stand there that say which of several things a message means.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.wire.sending import descriptors_in, kind_of, overheard

DATA: Final = Path(__file__).parent.parent / "data" / "traces"

_TOLD: Final = {
    "Acknowledged": ("taken",),
    "Attach": ("attached", "redelivered", "kept"),
    "Detached": ("parked", "redelivered"),
    "Loaded": ("model", "resumable", "on_crash", "redeliver"),
    "Retire": ("how",),
}
#: How often the keeper says how many a worker may accept depends on what it has heard by then.
_OFTEN: Final = "Seats"
#: Two processes say that a worker runs, and either may be the first.
_EITHER_FIRST: Final = ("Began", "Forked")
_LINE: Final = re.compile(r"(?P<way>[<>]) (?P<whom>\w+ \d+): (?P<what>(?P<kind>\w+).*)")


class Step(NamedTuple):
    """One line of a trace.

    `way` is "!", "<" or ">"; `whom` names the process, and is empty for an action; `what` is the
    rest of the line, of which `kind` is the message's type, or the action.
    """

    way: str
    whom: str
    kind: str
    what: str


def parse(lines: Iterable[str]) -> list[Step]:
    """Return the steps of a trace; what follows a # is a comment."""
    steps = []
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        if line.startswith("! "):
            steps.append(Step("!", "", line[2:], line[2:]))
        elif found := _LINE.fullmatch(line):
            steps.append(Step(*found.group("way", "whom", "kind", "what")))
        else:
            raise ValueError(f"no line of a trace: {line!r}")
    return steps


def by_channel(steps: Iterable[Step]) -> dict[str, list[str]]:
    """Return what went over each channel, in its order, without what is so by chance."""
    result: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        if step.way == "!":
            continue
        packets, packet = result[step.whom], f"{step.way} {step.what}"
        if step.kind == _OFTEN and packet in packets:
            continue
        packets.append(packet)
        if step.kind in _EITHER_FIRST:
            packets[-2:] = sorted(packets[-2:], key=lambda each: each[2:].startswith("Forked"))
    return dict(result)


def describe(message: Any, descriptors: int) -> str:
    """Return a message as a trace has it."""
    kind = str(kind_of(message))
    parts = [kind, *(f"{name}={_text(getattr(message, name))}" for name in _TOLD.get(kind, ()))]
    return " ".join([*parts, f"+{descriptors}"] if descriptors else parts)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Tracer:
    """Writes a line for each packet that the keeper of this process sends and receives."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._names: dict[Any, str] = {}
        self._templates = 0
        self._workers = 0

    def sent(self, channel: Any, message: Any) -> None:
        """Note what the keeper sends."""
        name = self._name(channel, message)
        self._write(f"> {name}: {describe(message, len(descriptors_in(message)))}")

    def received(self, channel: Any, packet: Any) -> None:
        """Note what the keeper receives."""
        assert packet.message is not None
        name = self._name(channel, packet.message)
        self._write(f"< {name}: {describe(packet.message, len(packet.descriptors))}")

    def _name(self, channel: Any, message: Any) -> str:
        if channel not in self._names:
            if kind_of(message) == "Load":
                self._templates += 1
                self._names[channel] = f"template {self._templates}"
            else:
                self._workers += 1
                self._names[channel] = f"worker {self._workers}"
        return self._names[channel]


@contextmanager
def traced(write: Callable[[str], object]) -> Iterator[None]:
    """Write the lines of all that keepers of this process send and receive meanwhile."""
    tracer = Tracer(write)
    with overheard(tracer.sent, tracer.received):
        yield
