"""The lines of `socketkeep top`: a row a seat, a dot a connection.  No I/O."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from socketkeep._admin._feed import Frame
from socketkeep._admin._reports import ConnectionReport, LiveReport, WorkerReport
from socketkeep._base._printable import printable
from socketkeep._cli._table import duration, size

#: How long a connection that has moved is marked, in seconds.
_MARKED: Final = 2.0

_RESET: Final = "\x1b[0m"
_BOLD: Final = "\x1b[1m"
_DIM: Final = "\x1b[2m"
_BAD: Final = "\x1b[31m"
_GOOD: Final = "\x1b[32m"
_MOVED: Final = "\x1b[1;33m"
#: A generation's colour, and the next one's: not those that say good, bad and moved.
_GENERATIONS: Final = ("\x1b[36m", "\x1b[35m", "\x1b[34m")
_OF_KIND: Final = {"died": _BAD, "lost": _BAD, "error": _BAD, "moved": _GOOD, "ready": _GOOD}
_SGR: Final = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Marks:
    """The signs for a connection that waits, is at work, has just moved, or is parked."""

    waits: str = "●"
    works: str = "◉"
    moved: str = "◆"
    parked: str = "○"


ASCII_MARKS: Final = Marks("o", "O", "#", ".")


class TopScreen:
    """Lays out frames, and remembers which connections have moved."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._workers: dict[str, int | None] = {}
        self._moved_at: dict[str, float] = {}

    def lines(self, frame: Frame, now: float, width: int, height: int) -> list[str]:
        """Return at most `height` lines of at most `width` columns.

        now: the time of the frame, in seconds, on any clock that goes on.
        """
        self._follow(frame.report, now)
        head = [*self._head(frame), ""]
        seats = list(self._seats(frame.report, width))
        log = [_happened(each.at, each.kind, each.text) for each in reversed(frame.happenings)]
        room = height - len(head)
        # The latest events stay in sight, and seats that find no room are counted.
        kept = min(len(log), max(3, room - len(seats) - 1))
        if len(seats) > (most := max(1, room - kept - 1)):
            cut = len(seats) - most + 1
            told = f"{_DIM}and {cut} lines more: make the window higher{_RESET}"
            seats = [*seats[: most - 1], told]
        lines = [*head, *seats, "", *log[:kept]]
        return [_cut(line, width) for line in lines[:height]]

    def _follow(self, report: LiveReport, now: float) -> None:
        """Note which connections another worker has than in the frame before."""
        there: dict[str, int | None] = {}
        for each in report.connections:
            before = self._workers.get(each.id, each.worker)
            # On the way it has none; what counts is whether it comes back to the same one.
            there[each.id] = each.worker or before
            if each.worker and before and each.worker != before:
                self._moved_at[each.id] = now
        self._workers = there
        self._moved_at = {
            name: at for name, at in self._moved_at.items() if name in there and now - at < _MARKED
        }

    def _head(self, frame: Frame) -> Iterator[str]:
        status, rates = frame.report.status, frame.rates
        colour = _GOOD if status.accepting and status.state == "running" else _MOVED
        yield (
            f"{_BOLD}{printable(status.name)}{_RESET}  {colour}{status.state}{_RESET}"
            f"  generation {status.generation}, {status.connections.open} connections,"
            f" up {duration(status.uptime)}"
            f"  {_DIM}{printable(status.target)}, {status.model}, keep {status.keep}{_RESET}"
        )
        about = "~" if frame.report.left_out else ""
        received, sent = size(int(rates.bytes_in)), size(int(rates.bytes_out))
        yield (
            f"accepted {rates.accepted:.1f}/s  ended {rates.ended:.1f}/s"
            f"  in {about}{received}B/s  out {about}{sent}B/s"
        )
        totals = status.totals
        moved = totals.attached.reload + totals.attached.crash + totals.attached.upgrade
        waits = (status.waits.reload, status.waits.crash, status.waits.upgrade)
        longest = max(each.longest for each in waits)
        waited = f", waited {longest:.3f}s at most" if longest else ""
        reload = "" if status.last_reload is None else f"  last reload {status.last_reload:.2f}s"
        bad = _BAD if totals.lost else ""
        yield (
            f"moved {moved} ({rates.moved:.1f}/s){waited}  {bad}lost {totals.lost}{_RESET}"
            f"  worker deaths {totals.worker_deaths}{reload}"
        )
        for listener in status.listeners:
            queued = "" if listener.queued is None else f"  {listener.queued} wait to be accepted"
            yield f"{_DIM}listens{_RESET} {printable(listener.address)}{_DIM}{queued}{_RESET}"

    def _seats(self, report: LiveReport, width: int) -> Iterator[str]:
        by_worker: dict[int | None, list[ConnectionReport]] = {}
        for each in report.connections:
            by_worker.setdefault(each.worker, []).append(each)
        serving = report.status.generation
        for number in sorted({worker.generation for worker in report.workers}):
            role = "serves" if number == serving else "comes" if number > serving else "gives way"
            colour = _GENERATIONS[number % 3]
            yield f"{colour}{_BOLD}generation {number}{_RESET} {_DIM}{role}{_RESET}"
            for worker in report.workers:
                if worker.generation == number:
                    theirs = by_worker.get(worker.pid, []) if worker.pid else []
                    yield self._seat(worker, theirs, width)
        held = report.status.connections
        theirs = by_worker.get(None, [])
        label = f"keeper  {held.parked} parked, {held.moving} on the way, {held.kept} also held "
        yield label + self._dots(theirs, held.parked + held.moving, width - len(label), _DIM)
        if report.left_out:
            yield f"{_DIM}drawn: {len(report.connections)} of {held.open} connections{_RESET}"

    def _seat(self, worker: WorkerReport, theirs: list[ConnectionReport], width: int) -> str:
        label = (
            f"  seat {worker.slot:<3} pid {worker.pid:<8}{worker.state:<9}{worker.connections:>6} "
        )
        colour = _GENERATIONS[worker.generation % 3]
        dots = self._dots(theirs, worker.connections, width - len(label), colour)
        return f"{_DIM if worker.state == 'draining' else ''}{label}{_RESET}{dots}"

    def _dots(self, theirs: list[ConnectionReport], count: int, width: int, colour: str) -> str:
        room = max(0, width - 8)
        text, style = "", ""
        for each in sorted(theirs, key=lambda each: each.age, reverse=True)[:room]:
            if each.id in self._moved_at:
                mark, wanted = self._marks.moved, _MOVED
            elif each.worker is None and each.state == "parked":
                mark, wanted = self._marks.parked, colour
            else:
                mark, wanted = (self._marks.works if each.busy else self._marks.waits), colour
            if wanted != style:
                text, style = text + _RESET + wanted, wanted
            text += mark
        left = count - min(room, len(theirs))
        return f"{text}{_RESET}{f' +{left}' if left > 0 else ''}"


def summary(frame: Frame) -> str:
    """Return a frame as one line, for where there is no terminal."""
    status, rates = frame.report.status, frame.rates
    ready = status.workers.ready
    totals = status.totals
    return (
        f"{printable(status.name)} {status.state} generation={status.generation} workers={ready}"
        f" connections={status.connections.open} moving={status.connections.moving}"
        f" parked={status.connections.parked} accepted/s={rates.accepted:.1f}"
        f" in/s={int(rates.bytes_in)} out/s={int(rates.bytes_out)} lost={totals.lost}"
        f" worker_deaths={totals.worker_deaths}"
    )


def _happened(at: float, kind: str, text: str) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    return f"{_DIM}{clock}{_RESET} {_OF_KIND.get(kind, '')}{printable(text)}{_RESET}"


def _cut(line: str, width: int) -> str:
    """Return the line, cut to so many columns; its colours take none."""
    column, at, kept = 0, 0, ""
    while at < len(line):
        colour = _SGR.match(line, at)
        if colour:
            kept, at = kept + colour[0], colour.end()
            continue
        column += 2 if unicodedata.east_asian_width(line[at]) in "WF" else 1
        if column > width:
            return kept + _RESET
        kept, at = kept + line[at], at + 1
    return kept
