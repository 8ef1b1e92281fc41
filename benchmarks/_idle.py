"""Work (e) and (h): connections that are idle, in a worker and parked, and those that wake."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.harness.control import ask

from benchmarks._crowd import crowd
from benchmarks._figures import Figures
from benchmarks._generator import generator, losses
from benchmarks._processes import cpu_seconds, memory_bytes, own_anonymous_bytes, tree, wait_until
from benchmarks._running import Running, running
from benchmarks._subjects import Subject, asgi, former, own, peers, uvicorn_websockets

IDLE_TITLE: Final = "memory of an idle connection"
WAKING_TITLE: Final = "parked connections woken, served and parked again"

_FIRST: Final = 100  # what the first connections cost is no matter
_PARKED: Final = 5000
_WEBSOCKETS: Final = 1500
_PINGS: Final = ("--ws-ping-interval", "2", "--ws-ping-timeout", "60")
_SLOTS: Final = 64  # requests that are out at a time
_WAKING_WORKERS: Final = 4


@dataclass(frozen=True)
class _Idle:
    subject: Subject
    count: int
    parks: bool = False


@dataclass(frozen=True)
class _IdleWebSockets(_Idle):
    deflate: bool = False


def _subjects(quick: bool) -> list[_Idle]:
    return [*_plain(quick), *_websockets(quick)]


def _websockets(quick: bool) -> Iterator[_Idle]:
    """Yield those whose WebSockets are idle; each has been pinged since its one message."""
    app = "benchmarks.peers.web:websocket"
    for deflate in (False, True):
        suffix = ", deflate" if deflate else ""
        protocols = ("websockets-sansio",) if quick else ("websockets-sansio", "websockets")
        for subject in (
            asgi(app, *_PINGS, name=f"Socketkeep ASGI{suffix}"),
            *(uvicorn_websockets(app, each, *_PINGS, suffix=suffix) for each in protocols),
        ):
            yield _IdleWebSockets(subject, _WEBSOCKETS, deflate=deflate)
        name = f"Socketkeep ASGI{suffix}, parked"
        parking = asgi("benchmarks.handlers:websocket_commit", "--park-after", "0.2", name=name)
        yield _IdleWebSockets(parking, _WEBSOCKETS, parks=True, deflate=deflate)


def _plain(quick: bool) -> list[_Idle]:
    mine = [_Idle(own("async", "echo"), _PARKED)]
    for model, count in (("prefork", _PARKED), ("fork", 1000)):
        name = f"Socketkeep {model}, parked"
        subject = own(model, "echo", "--park-after", "0.2", handler="_commit", name=name)
        mine.append(_Idle(subject, count, parks=True))
    if quick:
        return mine
    echo = peers("echo")
    many = (
        *("uvloop streams", "asyncio streams", "uvloop protocol", "asyncio protocol", "trio"),
        *("anyio on uvloop", "gevent", "Twisted", "C epoll"),
    )
    return [
        *mine,
        *(_Idle(echo[name], _PARKED) for name in many),
        # Fewer of what is a thread or a process each, that they fit.
        *(_Idle(subject, 1000) for subject in (own("thread", "echo"), echo["thread loop"])),
        *(_Idle(subject, 500) for subject in (own("fork", "echo"), echo["fork loop"])),
        _Idle(echo["C fork"], 500),
    ]


def memory(figures: Figures, _rounds: int, _seconds: float, quick: bool) -> None:
    """Measure each once: memory does not differ from one time to the next."""
    print(f"\n(e) {IDLE_TITLE}", file=sys.stderr)
    for idle in _subjects(quick):
        name, reason = idle.subject.name, idle.subject.missing()
        if reason is not None:
            figures.missing[name] = reason
            continue
        with figures.attempt(name), running(idle.subject) as server:
            if isinstance(idle, _IdleWebSockets):
                case, told = f"{idle.count} idle WebSockets", _memory_of_websockets(server, idle)
            else:
                case, told = f"{idle.count} idle", _memory(server, idle)
            figures.add(("e", case, name), **told)
            shown = "  ".join(f"{metric} {value:g}" for metric, value in told.items())
            print(f"  {name:26} {idle.count:5} {shown}", file=sys.stderr)


def _memory(server: Running, idle: _Idle) -> dict[str, float]:
    options = {"seconds": 60, "warm": 0, "deadline": 30}
    with generator("idle", server.port, connections=_FIRST, **options) as first:
        first.expect("begin")
        if idle.parks:
            _wait_parked(server, _FIRST)
        all_of_it = memory_bytes(server.pid)
        keeper = _keeper_bytes(server) if idle.parks else 0
        processes = len(tree(server.pid))
        with generator("idle", server.port, connections=idle.count, **options) as load:
            load.expect("begin")
            if idle.parks:
                _wait_parked(server, _FIRST + idle.count)
            told = {
                "server_kib": _each(memory_bytes(server.pid) - all_of_it, idle.count),
                "processes": max(0, len(tree(server.pid)) - processes),
            }
            if idle.parks:
                more = _keeper_bytes(server) - keeper
                told["keeper_kib"] = _each(more, idle.count)
            for each in (load, first):
                each.end()
                each.expect("end")
                if losses(each.result()):
                    raise RuntimeError(f"{idle.subject.name} has lost idle connections")
    return told


def _memory_of_websockets(server: Running, idle: _IdleWebSockets) -> dict[str, float]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with crowd(server.port, deflate=idle.deflate) as clients:

        def add(more: int, all_of_them: int) -> None:
            clients.add(more)
            if idle.parks:
                _wait_parked(server, all_of_them)

        add(_FIRST, _FIRST)
        if not idle.parks:
            clients.answer_pings()
        all_of_it = memory_bytes(server.pid)
        keeper = _keeper_bytes(server) if idle.parks else 0
        for number in range(idle.count // _FIRST):  # some at a time, as those that park come
            add(_FIRST, (number + 2) * _FIRST)
        for _ in range(0 if idle.parks else 2):  # so that what the first has freed has gone
            clients.answer_pings()
        told = {"server_kib": _each(memory_bytes(server.pid) - all_of_it, idle.count)}
        if idle.parks:
            told["keeper_kib"] = _each(_keeper_bytes(server) - keeper, idle.count)
    return told


def _keeper_bytes(server: Running) -> int:
    """Return what is the keeper's own, which is a child of the guard where there is one."""
    guard = ask(server.directory / "control", "status")["guard"]
    return own_anonymous_bytes(guard["keeper"] if guard else server.pid)


def _each(more: int, count: int) -> float:
    return round(more / count / 1024, 3)


def _wait_parked(server: Running, count: int) -> None:
    wait_until(partial(_parked, server, count), f"{count} connections are parked", 90)


def _parked(server: Running, count: int) -> bool:
    parked: int = ask(server.directory / "control", "status")["connections"]["parked"]
    return parked >= count


def waking(figures: Figures, rounds: int, seconds: float, _quick: bool) -> None:
    """Ask parked connections in turn, each only when it has been parked again."""
    subject = own("prefork", "lines", "-w", str(_WAKING_WORKERS), handler="_commit")
    print(f"\n(h) {WAKING_TITLE}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        servers = {
            each.name: stack.enter_context(running(each)) for each in (subject, former(subject))
        }
        for _ in range(rounds):
            for name, server in servers.items():
                told = _wake(server, max(1.0, 2 * seconds))
                figures.add(("h", f"{_PARKED} parked", name), **told)
    for name in servers:
        series = figures.series["h", f"{_PARKED} parked", name]
        shown = "  ".join(f"{metric} {values}" for metric, values in series.items())
        print(f"  {name}: {shown}", file=sys.stderr)


def _wake(server: Running, seconds: float) -> dict[str, float]:
    options = {"lines": True, "wait": True, "deadline": 30}
    many = {"connections": _PARKED, "at_once": _SLOTS, "seconds": seconds}
    with generator("echo", server.port, **options, **many) as load:
        load.expect("opened")
        _wait_parked(server, _PARKED)
        load.go()
        load.expect("begin")
        woken, used = _woken(server), cpu_seconds(server.pid)
        load.expect("end")
        woken, used = _woken(server) - woken, cpu_seconds(server.pid) - used
        told = load.result()
    wait_until(lambda: not _parked(server, 1), "what was parked has ended")
    return {
        "woken_a_second": round(woken / told["seconds"]),
        "cpu_us": round(used / woken * 1e6, 1),
        "answers_a_second": round(told["per_second"]),
        "p50": told["p50"],
        "p99": told["p99"],
        "lost": losses(told),
    }


def _woken(server: Running) -> int:
    woken: int = ask(server.directory / "control", "status")["totals"]["attached"]["parked"]
    return woken
