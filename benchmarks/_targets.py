"""What Socketkeep is to reach, and whether a run's figures show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks._figures import Figures
from benchmarks._subjects import FORMER

#: From here on a generator is the limit, or the machine is too busy, for a rate to tell much.
GENERATOR_LIMIT: Final = 0.9
ELSEWHERE_LIMIT: Final = 0.1

_BUSY: Final = (
    *("64 B, 64 connections", "64 B, 1000 connections"),
    *("16 KiB, 64 connections", "16 KiB, 1000 connections"),
)
_ENCRYPTED: Final = ("handshakes, 32 at once", "64 B, 64 connections", "16 KiB, 64 connections")
_LINES: Final = ("1 connection", "64 connections", "64 connections, 16 lines at once")


@dataclass(frozen=True)
class Target:
    """One bound.

    metric: "speed", a ratio of rates or of CPU time an operation, above 1 where `own` is faster;
    "faster", a ratio of seconds, likewise; "lost", beside a peer: so many more than the peer's;
    else the name of a metric, of `own` alone, or divided by the peer's.
    """

    number: str
    work: str
    case: str
    own: str
    peer: str | None
    bound: float
    at_least: bool = True
    metric: str = "speed"
    unit: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a target.

    values: the ratio, or the figure, of each round.  by: whether rates or CPU time were compared,
    where there is a choice; `other` is what the other one says.
    """

    target: Target
    values: list[float]
    by: str = ""
    other: float | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def met(self) -> bool:
        """Whether the median is within the bound."""
        bound = self.target.bound
        return self.value >= bound if self.target.at_least else self.value <= bound

    @property
    def tie(self) -> bool:
        """Whether it is missed, but by so little that the two count as equally fast."""
        target = self.target
        equal = target.metric == "speed" and target.peer is not None and target.work != "g"
        return equal and not self.met and target.bound <= 1 and self.value >= 0.8


def targets() -> Iterator[Target]:
    """Yield all bounds."""
    yield from _short()
    yield from _keep_alive()
    yield from _lines()
    yield from _forks()
    yield from _memory()
    yield from _changes()
    yield from _price()
    was = f"Socketkeep {FORMER} prefork"
    yield Target("h", "h", "5000 parked", "Socketkeep prefork", was, 0.25, False, "cpu_us")
    own, gunicorn = "Socketkeep prefork, 1 worker", "gunicorn (sync)"
    yield Target("i", "i", "serve to the first reply", own, gunicorn, 0.7, False, "seconds")
    yield from _encrypted()
    yield from _web()
    yield from _pushes()
    held = "10,000 sockets"
    yield Target("j", "j", held, "socketkeep.inspect.holders", "ss -p", 1.0, metric="faster")
    yield Target("j", "j", held, "socketkeep holders", "lsof -i", 1.0, metric="faster")


def _web() -> Iterator[Target]:
    for case in ("64 connections", "1000 connections"):
        yield Target("m", "m", case, "Socketkeep ASGI", "uvicorn", 1.2)
        yield Target("m", "m", case, "Socketkeep ASGI", "granian", 0.5)
        yield Target("n", "n", case, "Socketkeep ASGI", "uvicorn websockets-sansio", 1.3)


def _pushes() -> Iterator[Target]:
    yield Target("o", "o", "4 workers, 400 names", "Socketkeep push", "Redis pub/sub", 0.5)
    mine = "Socketkeep publish"
    yield Target("o", "o", "1000 members, 1 worker", mine, None, 1.5, False, "in_sends", "times")
    yield Target("o", "o", "100 parked", "Socketkeep push, parked", None, 0, False, "woken")


def _encrypted() -> Iterator[Target]:
    mine = "Socketkeep async, edge"
    for case in _ENCRYPTED:
        yield Target("k1", "k", case, mine, "uvloop streams, TLS", 0.8)
        for program in ("hitch", "haproxy"):
            yield Target("k2", "k", case, mine, f"{program}, Socketkeep async", 0.5)


def _short() -> Iterator[Target]:
    for case in ("32 at once", "256 at once"):
        yield Target("a1", "a", case, "Socketkeep async", "uvloop streams", 1.7)
        yield Target("a1", "a", case, "Socketkeep async", "C epoll", 0.7)
        yield Target("a1", "a", case, "Socketkeep async on asyncio", "uvloop streams", 1.5)
    for case in ("1 at once", "32 at once", "256 at once"):
        yield Target("a2", "a", case, "Socketkeep prefork", "prefork loop (8)", 1.15)


def _keep_alive() -> Iterator[Target]:
    for case in _BUSY:
        yield Target("b1", "b", case, "Socketkeep async", "uvloop streams", 1.6)
        yield Target("b1", "b", case, "Socketkeep async", "uvloop protocol", 0.9)
        yield Target("b1", "b", case, "Socketkeep async", "C epoll", 0.75)
    for case in _BUSY:
        bound = 1.0 if case.startswith("64 B") else 0.9
        yield Target("b2", "b", case, "Socketkeep thread", "thread loop", bound)
        yield Target("b2", "b", case, "Socketkeep fork", "fork loop", bound)


def _lines() -> Iterator[Target]:
    for case in _LINES:
        yield Target("c", "c", case, "Socketkeep async", "uvloop streams", 1.7)
        yield Target("c", "c", case, "Socketkeep thread", "thread loop", 1.2)
    for model, peer in (("async", "uvloop streams"), ("thread", "thread loop")):
        yield Target("c", "c", _LINES[-1], f"Socketkeep {model}, gathered", peer, 8.0)


def _forks() -> Iterator[Target]:
    for case in ("1 at once", "32 at once", "256 at once"):
        yield Target("d1", "d", case, "Socketkeep fork", "ForkingTCPServer", 1.5)
        yield Target("d1", "d", case, "Socketkeep fork", "tcpserver (execs C)", 0.6)
        snapshot = "Socketkeep fork, snapshot"
        yield Target("d1", "d", case, snapshot, "ForkingTCPServer", 1.8)
        yield Target("d1", "d", case, snapshot, "tcpserver (execs C)", 0.8)
    several = "Socketkeep fork, 16 a process"
    yield Target("d1", "d", "32 at once", several, "ForkingTCPServer", 4)
    yield Target("d2", "d", "1 at once", "Socketkeep fork", "ForkingTCPServer", 0.5, False, "p50")
    spare = "Socketkeep fork, 4 spare"
    yield Target("d2", "d", "1 at once", spare, "ForkingTCPServer", 0.4, False, "p50")
    for case in ("256 at once", "1000 at once"):
        yield Target("d3", "d", case, "Socketkeep fork", "C fork", 0, False, "lost")


def _memory() -> Iterator[Target]:
    idle = "5000 idle"
    yield Target("e1", "e", idle, "Socketkeep async", None, 1.6, False, "server_kib", "KiB")
    for model, case in (("prefork", idle), ("fork", "1000 idle")):
        name = f"Socketkeep {model}, parked"
        yield Target("e2", "e", case, name, None, 0.8, False, "keeper_kib", "KiB")
    yield Target("e2", "e", "1000 idle", "Socketkeep fork, parked", None, 0, False, "processes")
    idle = "1500 idle WebSockets"
    for suffix in ("", ", deflate"):
        name, best = f"Socketkeep ASGI{suffix}", f"uvicorn websockets-sansio{suffix}"
        yield Target("e3", "e", idle, name, best, 0.5, False, "server_kib")
        yield Target("e3", "e", idle, f"{name}, parked", None, 1.5, False, "server_kib", "KiB")


def _changes() -> Iterator[Target]:
    for subject, starts in (("reload", 0.2), ("crash", 0.6), ("upgrade", 0.2)):
        name = f"Socketkeep async: {subject}"
        # What ended by FIN or RST is among what was lost.
        yield Target("f", "f", "1000 clients", name, None, 0, False, "lost")
        if subject != "crash":  # which keeps no connection younger than --keep-after
            yield Target("f", "f", "1000 clients", name, None, 0, False, "lost_new")
        yield Target("f", "f", "1000 clients", name, None, starts, False, "added_p99_in_starts")
    name, case = "Socketkeep ASGI: reload", "1000 WebSockets"
    for metric, bound in (("lost", 0), ("lost_new", 0), ("added_p99_in_starts", 0.2)):
        yield Target("f", "f", case, name, None, bound, False, metric)


def _price() -> Iterator[Target]:
    for model in ("async", "thread"):
        none = f"{model}: none"
        for other, bound in (("reload", 0.98), ("reload, commits", 0.98), ("crash, commits", 0.95)):
            yield Target("g", "g", "64 connections", f"{model}: {other}", none, bound)


def judge(figures: Figures, all_of_them: Iterable[Target] | None = None) -> Iterator[Outcome]:
    """Yield the outcome of each target that was measured."""
    for target in targets() if all_of_them is None else all_of_them:
        outcome = _outcome(figures, target)
        if outcome is not None:
            yield outcome


def unmeasured(figures: Figures) -> Iterator[Target]:
    """Yield the targets of the works that were measured, for which there is no figure."""
    works = {work for work, _, _ in figures.series}
    for target in targets():
        if target.work in works and _outcome(figures, target) is None:
            yield target


def _outcome(figures: Figures, target: Target) -> Outcome | None:
    def of(subject: str, metric: str) -> list[float]:
        return figures.get(target.work, target.case, subject, metric)

    if target.metric == "speed":
        assert target.peer is not None
        rates = _ratios(of(target.own, "per_second"), of(target.peer, "per_second"))
        cpu = _ratios(of(target.peer, "cpu_us"), of(target.own, "cpu_us"))
        if not rates or not cpu:
            return None
        limits = (("generator_share", GENERATOR_LIMIT), ("elsewhere", ELSEWHERE_LIMIT))
        by_cpu = any(
            median(of(subject, metric)) >= limit
            for subject in (target.own, target.peer)
            for metric, limit in limits
        )
        return (
            Outcome(target, cpu, "CPU", median(rates))
            if by_cpu
            else Outcome(target, rates, "rate", median(cpu))
        )
    if target.peer is not None:
        faster = target.metric == "faster"
        metric = "seconds" if faster else target.metric
        mine, theirs = of(target.own, metric), of(target.peer, metric)
        if metric == "lost":  # by most rounds nobody loses any: a ratio would tell nothing
            more = [own - peer for own, peer in zip(mine, theirs, strict=False)]
            return Outcome(target, more) if more else None
        ratios = _ratios(theirs, mine) if faster else _ratios(mine, theirs)
        return Outcome(target, ratios) if ratios else None
    values = of(target.own, target.metric)
    return Outcome(target, values) if values else None


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=False) if a and b]
