"""Work (f): what a reload, a worker's death and an upgrade cost 1,000 clients.

And what a reload and a worker's death cost 1,000 WebSockets.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from tests.harness.control import ask

from benchmarks._figures import Figures
from benchmarks._generator import generator, losses
from benchmarks._machine import ROOT
from benchmarks._processes import wait_until
from benchmarks._running import Running, running, start
from benchmarks._subjects import Subject, asgi, own, uvicorn_websockets

CLIENTS: Final = 1000
CASE: Final = "1000 clients"
_WEBSOCKETS: Final = "1000 WebSockets"
TITLE: Final = "1,000 clients in a request loop, and 200 new connections a second, through a change"

#: Each client asks again so long after it was answered; new connections come beside.
_THINK: Final = 0.2
_ARRIVALS: Final = 200
_MOST_ROUNDS: Final = 3  # each is several seconds long
_BEFORE: Final = 1.0
_CALM: Final = 0.5  # until what the question for the worker has held up is dealt with
_AFTER: Final = 1.5
_START: Final = 30.0
_UNTOLD: Final = 3.0  # for the peers, which do not say when they are done
_SAMPLE: Final = struct.Struct("IIqq")  # as the generator writes them


@dataclass(frozen=True)
class Change:
    """A server, and what is done to it; `act` returns when it is done."""

    subject: Subject
    act: Callable[[Running], None]
    case: str = CASE


def measure(figures: Figures, rounds: int, _seconds: float, quick: bool) -> None:
    """Run each change some times; the peers' once, and in the full benchmark alone."""
    print(f"\n(f) {TITLE}", file=sys.stderr)
    for number in range(1 if quick else min(rounds, _MOST_ROUNDS)):
        for change in (*_own(), *(() if quick or number else _peers())):
            name, reason = change.subject.name, change.subject.missing()
            if reason is not None:
                figures.missing[name] = reason
                continue
            with figures.attempt(name):
                told = _through(change)
                figures.add(("f", change.case, name), **told)
                shown = "  ".join(f"{metric} {value:g}" for metric, value in told.items())
                print(f"  {name:26} {shown}", file=sys.stderr)


def _own() -> Iterator[Change]:
    def subject(name: str, keep: str) -> Subject:
        return own(
            *("async", "lines", "--keep", keep, "--graceful-timeout", "5"),
            handler="_commit",
            name=f"Socketkeep async: {name}",
        )

    yield Change(subject("reload", "reload"), lambda server: _order(server, "reload"))
    yield Change(subject("crash", "crash"), _kill_worker)
    yield Change(subject("upgrade", "reload"), lambda server: _order(server, "upgrade"))

    def websockets(name: str, keep: str) -> Subject:
        return asgi(
            "benchmarks.peers.web:websocket",
            *("--ws-resume", "on", "--keep", keep, "--graceful-timeout", "5"),
            name=f"Socketkeep ASGI: {name}",
        )

    reload = websockets("reload", "reload")
    yield Change(reload, lambda server: _order(server, "reload"), _WEBSOCKETS)
    yield Change(websockets("crash", "crash"), _kill_worker, _WEBSOCKETS)


def _order(server: Running, command: str) -> None:
    ask(server.directory / "control", command)


def _kill_worker(server: Running) -> None:
    control = server.directory / "control"
    (killed,) = ask(control, "workers")
    time.sleep(_CALM)
    os.kill(killed["pid"], signal.SIGKILL)

    def served_again() -> bool:
        ready = {each["pid"] for each in ask(control, "workers") if each["state"] == "ready"}
        owned: int = ask(control, "status")["connections"]["owned"]
        return bool(ready - {killed["pid"]}) and owned >= CLIENTS

    wait_until(served_again, "the connections have a worker again")


def _peers() -> Iterator[Change]:
    python = (sys.executable, "-m")
    yield _peer(
        "gunicorn (gthread): HUP",
        *(*python, "gunicorn", "benchmarks.peers.web:wsgi", "--bind", "127.0.0.1:{port}"),
        *("--worker-class", "gthread", "--threads", "64", "--worker-connections", "4000"),
        *("--keep-alive", "75", "--log-level", "error"),
        modules=("gunicorn",),
    )
    yield _peer(
        "uvicorn: HUP",
        *(*python, "uvicorn", "benchmarks.peers.web:asgi", "--port", "{port}", "--workers", "2"),
        *("--timeout-keep-alive", "75", "--log-level", "error"),
        modules=("uvicorn",),
    )
    files = ROOT / "benchmarks" / "peers"
    yield _peer("nginx: HUP", "nginx", "-c", f"{files}/nginx.conf", program="nginx")
    yield _peer("HAProxy: USR2", "haproxy", "-W", "-f", f"{files}/haproxy.cfg", program="haproxy")
    app = "benchmarks.peers.web:websocket"
    sansio = uvicorn_websockets(app, "websockets-sansio", "--workers", "2", suffix=": HUP")
    yield Change(sansio, _hang_up, _WEBSOCKETS)
    yield _peer(
        "granian: HUP",
        *(*python, "granian", app, "--port", "{port}", "--interface", "asgi", "--http", "1"),
        *("--workers", "2", "--loop", "uvloop", "--no-access-log", "--log-level", "error"),
        modules=("granian",),
        case=_WEBSOCKETS,
    )
    yield _peer(
        "gunicorn (asgi): HUP",
        *(*python, "gunicorn", app, "--bind", "127.0.0.1:{port}", "--worker-class", "asgi"),
        # Of 30 s, after which it ends those that it has, nobody would see the end here.
        *("--worker-connections", "4000", "--graceful-timeout", "2", "--log-level", "error"),
        modules=("gunicorn",),
        case=_WEBSOCKETS,
    )


def _peer(
    name: str,
    *command: str,
    modules: tuple[str, ...] = (),
    program: str | None = None,
    case: str = CASE,
) -> Change:
    subject = Subject(name, command, modules, program, listens="given", http=True)
    return Change(subject, _take_over if name.endswith("USR2") else _hang_up, case)


def _hang_up(server: Running) -> None:
    _signal(server, signal.SIGHUP)


def _take_over(server: Running) -> None:
    _signal(server, signal.SIGUSR2)


def _signal(server: Running, number: int) -> None:
    os.kill(server.pid, number)
    time.sleep(_UNTOLD)  # nothing tells when it is done


def _through(change: Change) -> dict[str, float]:
    with running(change.subject) as server:
        samples = server.directory / "samples"
        websocket = change.case == _WEBSOCKETS
        with generator(
            "paced",
            server.port,
            connections=CLIENTS,
            think=_THINK,
            arrivals=_ARRIVALS,
            deadline=10,
            seconds=60,
            lines=not change.subject.http,
            http=change.subject.http and not websocket,
            websocket=websocket,
            samples=samples,
        ) as load:
            load.expect("begin")
            time.sleep(_BEFORE)  # how long the usual is looked at
            began = time.monotonic_ns()
            change.act(server)
            took = time.monotonic_ns() - began
            time.sleep(_AFTER)  # what comes late belongs to it, too
            load.end()
            load.expect("end")
            told = load.result()
        added = _added(samples, began)
        return {
            "took_s": round(took / 1e9, 3),
            **added,
            "added_p99_in_starts": round(added["added_p99_ms"] / _start_ms(), 3),
            **_lost(told),
        }


def _start_ms() -> float:
    """Return how long an interpreter takes to load the handler, as whoever takes over must."""
    began = time.monotonic()
    importing = start([sys.executable, "-c", "import benchmarks.handlers, socketkeep"])
    if importing.wait(_START):
        raise RuntimeError("the handlers cannot be imported")
    return (time.monotonic() - began) * 1e3


def _lost(told: dict[str, Any]) -> dict[str, float]:
    return {
        "lost": losses(told),
        "fin": told["cut"] + told["closed"],
        "announced": told["announced"],
        "rst": told["reset"],
        "lost_new": losses(told["arrivals"]),
    }


def _added(samples: Path, began: int) -> dict[str, float]:
    """Return by how much each client's slowest reply since `began` was slower than the usual one.

    Over the clients: of each the slowest, so that a client that waited once counts as one that
    waited.  What ended without a reply is not in it: that is lost.
    """
    usual: list[int] = []
    slowest = [0] * CLIENTS
    for conn, kind, at, took in _SAMPLE.iter_unpack(samples.read_bytes()):
        if kind != 0 or conn >= CLIENTS:
            continue
        if at + took < began:
            usual.append(took)
        else:
            slowest[conn] = max(slowest[conn], took)
    if not usual:
        raise RuntimeError("no reply came before the change")
    added = sorted((took - median(usual)) / 1e6 for took in slowest)
    return {
        "usual_ms": round(median(usual) / 1e6, 3),
        "added_p50_ms": round(median(added), 3),
        "added_p99_ms": round(quantiles(added, n=100)[98], 3),
        "added_max_ms": round(added[-1], 3),
    }
