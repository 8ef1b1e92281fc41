"""Work (a) to (d), (g), (k), (m) and (n): requests and connections a second, by turns."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import Any, Final

from benchmarks._figures import Figures
from benchmarks._generator import LOSSES, losses
from benchmarks._running import Running, running
from benchmarks._subjects import Subject, asgi, former, own, peers, uvicorn_websockets
from benchmarks._subjects import encrypted as encrypted_subjects
from benchmarks._targets import targets

KIB: Final = 1024


@dataclass(frozen=True)
class Case:
    """One load: a mode of the generator, its options, and which subjects it is for."""

    name: str
    mode: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What is compared with what, under which loads."""

    name: str
    title: str
    subjects: list[Subject]
    cases: list[Case]
    longer: int = 1  # so many times as long, where small differences matter


def _of(work: str, *names: str) -> list[Subject]:
    all_of_them = peers(work)
    return [all_of_them[name] for name in names]


def _short(count: int) -> Case:
    return Case(f"{count} at once", "short", {"connections": count})


def short_connections() -> Work:
    """(a): connect, echo 64 bytes, close."""
    names = (
        *("uvloop streams", "asyncio streams", "prefork loop (8)", "thread loop"),
        *("ThreadingTCPServer", "asyncio protocol", "uvloop protocol", "gevent", "trio"),
        *("anyio on uvloop", "Twisted", "C epoll", "C prefork (8)"),
    )
    plain = own("async", "echo", "--loop", "asyncio", name="Socketkeep async on asyncio")
    mine = [own(model, "echo") for model in ("async", "prefork", "thread")]
    return Work(
        "a",
        "short connections: connect, echo 64 B, close",
        [*mine, plain, *map(former, mine), *_of("echo", *names)],
        [_short(count) for count in (1, 32, 256)],
    )


def keep_alive() -> Work:
    """(b): echo on connections that stay."""
    names = (
        *("uvloop streams", "trio", "anyio on uvloop", "C epoll", "thread loop", "fork loop"),
        *("asyncio streams", "asyncio protocol", "uvloop protocol", "gevent", "Twisted", "C fork"),
    )
    mine = [own(model, "echo") for model in ("async", "thread", "fork")]
    return Work(
        "b",
        "keep-alive echo",
        [*mine, *map(former, mine), *_of("echo", *names)],
        [
            Case(
                f"{label}, {count} connection{'s' if count > 1 else ''}",
                "echo",
                {"size": size, "connections": count, "deadline": 20},
            )
            for label, size in (("64 B", 64), ("16 KiB", 16 * KIB))
            for count in (1, 64, 1000)
        ],
    )


def lines() -> Work:
    """(c): 64-byte lines."""
    mine = [own(model, "lines") for model in ("async", "thread")]
    gathered = [
        own(model, "lines", handler="_gather", name=f"Socketkeep {model}, gathered")
        for model in ("async", "thread")
    ]
    names = ("uvloop streams", "asyncio streams", "thread loop")
    return Work(
        "c",
        "64-byte lines, each answered",
        [
            *mine,
            *gathered,
            *map(former, mine),
            *_of("lines", *names),
        ],
        [
            Case(name, "echo", {"lines": True, "connections": count, "batch": batch})
            for name, count, batch in (
                ("1 connection", 1, 1),
                ("64 connections", 64, 1),
                ("64 connections, 16 lines at once", 64, 16),
            )
        ],
    )


def fork_per_connection() -> Work:
    """(d): connect, echo, close, a process for each connection."""
    names = ("ForkingTCPServer", "fork loop", "tcpserver (execs C)", "C fork")
    failing = {"connections": 1000, "deadline": 3}
    return Work(
        "d",
        "a process for each connection: connect, echo 64 B, close",
        [
            own("fork", "echo"),
            own("fork", "echo", "--child-requests", "16", name="Socketkeep fork, 16 a process"),
            own("fork", "echo", "--spare", "4", name="Socketkeep fork, 4 spare"),
            own("fork", "echo", "--fork-snapshot", name="Socketkeep fork, snapshot"),
            former(own("fork", "echo")),
            *_of("echo", *names),
        ],
        [
            _short(1),
            _short(32),
            Case("256 at once", "short", {"connections": 256, "deadline": 3}),
            Case("1000 at once", "short", failing),
        ],
    )


def price() -> Work:
    """(g): what keeping costs."""
    subjects = []
    for model in ("async", "thread"):
        for name, level, handler in (
            ("none", "none", ""),
            ("reload", "reload", ""),
            ("reload, commits", "reload", "_commit"),
            ("crash, commits", "crash", "_commit"),
        ):
            subjects.append(
                own(model, "lines", "--keep", level, handler=handler, name=f"{model}: {name}")
            )
    options = {"lines": True, "connections": 64}
    return Work(
        "g",
        "the price of --keep and of @resumable: 64-byte lines",
        subjects,
        [Case("64 connections", "echo", options)],
        longer=3,
    )


def encrypted() -> Work:
    """(k): echo by TLS, which ends in the edge, in the server's own process, or in a proxy."""
    handshake = {"tls": True, "connections": 32}
    return Work(
        "k",
        "TLS 1.3: echo on connections that stay, and handshakes",
        encrypted_subjects(),
        [
            Case("handshakes, 32 at once", "short", handshake),
            *(
                Case(
                    f"{label}, {count} connection{'s' if count > 1 else ''}",
                    "echo",
                    {"tls": True, "size": size, "connections": count, "deadline": 20},
                )
                for label, size in (("64 B", 64), ("16 KiB", 16 * KIB))
                for count in (1, 64)
            ),
        ],
    )


def web() -> Work:
    """(m): plain text by HTTP, from one ASGI application, without Date and Server."""
    python = (sys.executable, "-m")
    app = "benchmarks.peers.web:asgi"
    uvicorn = (
        *(*python, "uvicorn", app, "--port", "{port}", "--http", "httptools", "--loop", "uvloop"),
        *("--no-access-log", "--no-date-header", "--no-server-header", "--log-level", "error"),
    )
    granian = (
        *(*python, "granian", app, "--port", "{port}", "--interface", "asgi", "--http", "1"),
        *("--workers", "1", "--loop", "uvloop", "--no-ws", "--no-access-log"),
        *("--log-level", "error"),
    )
    bare = ("--no-date-header", "--no-server-header")
    return Work(
        "m",
        "plain text by HTTP/1.1, from an ASGI application",
        [
            asgi(app, *bare, name="Socketkeep ASGI"),
            Subject("uvicorn", uvicorn, ("uvicorn", "httptools"), listens="given", http=True),
            Subject("granian", granian, ("granian",), listens="given", http=True),
        ],
        [
            Case(
                f"{count} connection{'s' if count > 1 else ''}",
                "echo",
                {"http": True, "connections": count, "deadline": 20},
            )
            for count in (1, 64, 1000)
        ],
    )


def websocket() -> Work:
    """(n): messages of 64 bytes, each echoed by one ASGI application, without compression."""
    app = "benchmarks.peers.web:websocket"
    return Work(
        "n",
        "64-byte messages by WebSocket, from an ASGI application",
        [
            asgi(app, name="Socketkeep ASGI"),
            uvicorn_websockets(app, "websockets-sansio"),
            uvicorn_websockets(app, "websockets"),
        ],
        [
            Case(
                f"{count} connection{'s' if count > 1 else ''}",
                "echo",
                {"websocket": True, "connections": count, "deadline": 20},
            )
            for count in (1, 64, 1000)
        ],
    )


def measure(work: Work, figures: Figures, rounds: int, seconds: float, quick: bool) -> None:
    """Run all cases of the work; the servers take turns, in another order each round.

    quick: only what a target is about.
    """
    wanted = {
        (target.case, subject)
        for target in targets()
        for subject in (target.own, target.peer)
        if target.work == work.name
    }
    with contextlib.ExitStack() as stack:
        servers: dict[str, Running] = {}
        for subject in work.subjects:
            if quick and subject.name not in {name for _, name in wanted}:
                continue
            reason = subject.missing()
            if reason is not None:
                figures.missing[subject.name] = reason
                continue
            with figures.attempt(subject.name):
                servers[subject.name] = stack.enter_context(running(subject))
        for case in work.cases:
            names = [name for name in servers if not quick or (case.name, name) in wanted]
            for number in range(rounds if names else 0):
                turn = number % len(names)
                for name in (*names[turn:], *names[:turn]):
                    with figures.attempt(f"{name}, {case.name}"):
                        told = servers[name].load(
                            case.mode, seconds=seconds * work.longer, **case.options
                        )
                        _add(figures, (work.name, case.name, name), told)
            if names:
                _tell(figures, work, case, names)


def _add(figures: Figures, key: tuple[str, str, str], told: dict[str, Any]) -> None:
    answered = told["answered"]
    figures.add(
        key,
        per_second=told["per_second"],
        cpu_us=round(told["server_cpu"] / answered * 1e6, 3) if answered else 0.0,
        server_share=round(told["server_cpu"] / told["span"], 3),
        generator_share=round(told["cpu"] / told["seconds"], 3),
        elsewhere=round(told["elsewhere"], 3),
        p50=told["p50"],
        p99=told["p99"],
        max=told["max"],
        lost=losses(told),
        **{name: told[name] for name in LOSSES if told[name]},
    )


def _tell(figures: Figures, work: Work, case: Case, names: list[str]) -> None:
    print(f"\n({work.name}) {work.title}; {case.name}", file=sys.stderr)
    for name in names:
        rate, cpu, lost = (
            figures.middle(work.name, case.name, name, metric)
            for metric in ("per_second", "cpu_us", "lost")
        )
        if rate is None or cpu is None:
            continue
        failed = f"  {lost:,.0f} lost" if lost else ""
        print(f"  {name:24} {rate:>12,.0f}/s {cpu:>10.2f} µs CPU{failed}", file=sys.stderr)
