"""A server's news, from one look at it to the next: rates, and events in words.

No I/O: whoever looks, and when, is the caller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from socketkeep._admin._reports import LiveReport

_WINDOW: Final = 3.0  # seconds over which rates are taken
_MOST_HAPPENINGS: Final = 40
_MERGED: Final = 5.0  # seconds in which what goes on and on is one happening
_CAUSES: Final = {
    "reload": "the reload",
    "crash": "the death of a worker",
    "upgrade": "the upgrade",
}


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Per second.

    moved: connections given from one worker to another.  bytes_in, bytes_out: estimated from the
    connections of the report, where that leaves some out.
    """

    accepted: float = 0.0
    ended: float = 0.0
    moved: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0


class Happening(msgspec.Struct, kw_only=True):
    """One event; `number` counts them.  What goes on and on is one, whose `count` grows.

    what: the text, with ``{}`` in the place of the count.
    """

    number: int
    at: float
    kind: str
    what: str
    count: int = 0
    text: str = ""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One look: the report, the rates, and the latest happenings."""

    report: LiveReport
    rates: Rates
    happenings: list[Happening]


class _Mark(msgspec.Struct, frozen=True):
    """The counts at a moment: what rates are differences of."""

    at: float
    accepted: float
    ended: float
    moved: float
    bytes_in: float
    bytes_out: float


class Feed:
    """Compares each report with the one before."""

    def __init__(self) -> None:
        self._last: LiveReport | None = None
        self._marks: deque[_Mark] = deque()
        self._happenings: deque[Happening] = deque(maxlen=_MOST_HAPPENINGS)
        self._number = 0

    def look(self, report: LiveReport, at: float) -> Frame:
        """Return the frame of a report that was made at the time `at`, in seconds."""
        last, self._last = self._last, report
        self._marks.append(self._mark(last, report, at))
        while len(self._marks) > 2 and self._marks[1].at <= at - _WINDOW:
            self._marks.popleft()
        if last is not None:
            for kind, text, count in _changes(last, report):
                self._tell(kind, text, count, at)
        return Frame(report=report, rates=self._rates(), happenings=list(self._happenings))

    def _mark(self, last: LiveReport | None, report: LiveReport, at: float) -> _Mark:
        totals = report.status.totals
        received = sent = 0.0
        if last is not None:
            before = {each.id: each for each in last.connections}
            for each in report.connections:
                earlier = before.get(each.id)
                # Counts of a connection on the way may be older than those that were seen last.
                received += max(0, each.bytes_in - (earlier.bytes_in if earlier else 0))
                sent += max(0, each.bytes_out - (earlier.bytes_out if earlier else 0))
            if report.left_out and report.connections:
                share = 1 + report.left_out / len(report.connections)
                received, sent = received * share, sent * share
        previous = self._marks[-1] if self._marks else _Mark(at, 0, 0, 0, 0, 0)
        return _Mark(
            at,
            totals.accepted,
            totals.closed + totals.reset + totals.lost,
            _moved(report),
            previous.bytes_in + received,
            previous.bytes_out + sent,
        )

    def _rates(self) -> Rates:
        first, last = self._marks[0], self._marks[-1]
        seconds = last.at - first.at
        if seconds <= 0:
            return Rates()
        return Rates(
            accepted=(last.accepted - first.accepted) / seconds,
            ended=(last.ended - first.ended) / seconds,
            moved=(last.moved - first.moved) / seconds,
            bytes_in=(last.bytes_in - first.bytes_in) / seconds,
            bytes_out=(last.bytes_out - first.bytes_out) / seconds,
        )

    def _tell(self, kind: str, what: str, count: int, at: float) -> None:
        for happening in self._happenings:
            same = happening.kind == kind and happening.what == what
            if count and same and at - happening.at < _MERGED:
                break
        else:
            self._number += 1
            happening = Happening(number=self._number, at=at, kind=kind, what=what)
            self._happenings.append(happening)
        happening.count += count
        happening.text = what.format(happening.count)


def _moved(report: LiveReport) -> int:
    attached = report.status.totals.attached
    return attached.reload + attached.crash + attached.upgrade


def _changes(last: LiveReport, report: LiveReport) -> Iterator[tuple[str, str, int]]:
    """Yield the kind, the text and, where it is one, the count of each thing that has changed."""
    before, now = last.status, report.status
    if now.totals.upgrades > before.totals.upgrades:
        yield "upgrade", f"the keeper is upgraded, version {_plain(now.version)}", 0
    if now.state != before.state:
        yield "state", f"the server is {_plain(now.state)}", 0
    yield from _departures(last, report)
    yield from _arrivals(last, report)
    if now.generation != before.generation:
        took = f", after {now.last_reload:.2f} s" if now.last_reload is not None else ""
        yield "generation", f"generation {now.generation} serves{took}", 0
    attached, earlier = now.totals.attached, before.totals.attached
    for why in _CAUSES:
        count = getattr(attached, why) - getattr(earlier, why)
        if count > 0:
            yield "moved", f"connections moved by {_CAUSES[why]}: {{}}", count
    for kind, name, text in (
        ("lost", "lost", "connections lost with their worker: {}"),
        ("lost", "poisoned", "connections ended because workers died of them: {}"),
        ("error", "handler_errors", "handlers that failed: {}"),
        ("error", "unserved", "connections that could not be served: {}"),
    ):
        count = getattr(now.totals, name) - getattr(before.totals, name)
        if count > 0:
            yield kind, text, count


def _departures(last: LiveReport, report: LiveReport) -> Iterator[tuple[str, str, int]]:
    now = {worker.pid for worker in report.workers}
    died = report.status.totals.worker_deaths - last.status.totals.worker_deaths
    for worker in last.workers:
        if not worker.pid or worker.pid in now:
            continue
        # One that was draining was told to end.
        if died > 0 and worker.state != "draining":
            died -= 1
            yield "died", f"worker {worker.pid} in seat {worker.slot} died", 0
        else:
            yield "ended", f"workers of generation {worker.generation} that ended: {{}}", 1


def _arrivals(last: LiveReport, report: LiveReport) -> Iterator[tuple[str, str, int]]:
    ready = {worker.pid for worker in last.workers if worker.state in {"ready", "draining"}}
    for worker in report.workers:
        if worker.state != "ready" or worker.pid in ready:
            continue
        if worker.generation == last.status.generation:
            yield "ready", f"worker {worker.pid} took seat {worker.slot}", 0
        else:
            yield "ready", f"workers of generation {worker.generation} that are ready: {{}}", 1


def _plain(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
