"""A kill storm: workers are killed at random under connections that are kept.

``python -m tests.peer.storm MODEL`` runs it in full size and says what it showed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.harness import ControlError, Load, Server, connect, read_reply
from tests.peer.conftest import MODELS, Site
from tests.peer.told import name_of

WORKERS: Final = 4
#: Bytes that the keeper may have more thereafter: its tables grow with the connections that it has
#: had at one time, not with the deaths.
GROWTH: Final = 8 << 20
#: The answers to what may have been told before are marked.
_MARKED: Final = """
_send = {connection}.send

def send(conn, data, **options):
    return _send(conn, data.rstrip(b"\\n") + b"+" * conn.redelivered + b"\\n", **options)

{connection}.send = send
handle = resumable(redeliver={redeliver})(handle)
"""


@dataclass
class Size:
    """How much of a storm: half of the connections are quiet, half in a request loop."""

    connections: int = 60
    seconds: float = 2.5
    interval: float = 0.1


FULL: Final = Size(500, 20.0)


@dataclass
class Held:
    """What the keeper has open, to be as much after the storm as before."""

    descriptors: int
    registrations: int
    processes: int
    memory: int  # bytes of its own, without what it shares with its workers

    @classmethod
    def of(cls, server: Server) -> Held:
        directory = Path(f"/proc/{server.pid}")
        registrations = 0
        descriptors = list((directory / "fdinfo").iterdir())
        for each in descriptors:
            with contextlib.suppress(FileNotFoundError):
                registrations += each.read_text().count("\ntfd:")
        lines = (directory / "status").read_text().splitlines()
        (own,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
        return cls(len(descriptors), registrations, len(server.processes()), own)

    def no_more_than(self, other: Held) -> bool:
        """Whether it is not more than there was."""
        return (
            self.descriptors <= other.descriptors
            and self.registrations <= other.registrations
            and self.processes <= other.processes
        )


@dataclass
class Outcome:
    """What a storm did, and what its peers and its server showed."""

    seed: int
    kills: int = 0
    done: Counter[str] = field(default_factory=Counter)
    quiet_ended: list[str] = field(default_factory=list)  # and what the log says of them
    busy: str = ""
    totals: Any = None
    before: Held | None = None
    after: Held | None = None


class Killer:
    """Kills a random process that serves, every `interval` seconds, and now and then reloads."""

    def __init__(self, server: Server, site: Site, size: Size, seed: int, outcome: Outcome) -> None:
        self._server = server
        self._site = site
        self._size = size
        self._random = random.Random(seed)
        self._outcome = outcome
        self._change: threading.Thread | None = None

    def run(self) -> None:
        """Storm, then wait until what was begun is done."""
        end = time.monotonic() + self._size.seconds
        following = time.monotonic()
        while time.monotonic() < end:
            with contextlib.suppress(ConnectionError, TimeoutError):
                self._kill_one()
            if self._random.random() < self._size.interval / 1.5:
                self._begin(self._random.choice(["reload", "upgrade"]))
            following += self._size.interval
            time.sleep(max(0.0, following - time.monotonic()))  # the pace of the storm
        if self._change is not None:
            self._change.join()

    def _kill_one(self) -> None:
        pids = {each["pid"] for each in self._server.ask("workers", 5.0)}
        if self._site.model == "fork":
            pids |= {each["owner"] for each in self._server.ask("connections", 5.0)}
        pids -= {None, 0, self._server.pid}
        if pids:
            pid = self._random.choice(sorted(pids))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._outcome.kills += 1

    def _begin(self, what: str) -> None:
        if self._change is None or not self._change.is_alive():
            self._change = threading.Thread(target=self._ask, args=(what,))
            self._change.start()

    def _ask(self, what: str) -> None:
        try:
            self._server.ask(what, 60.0)
            self._outcome.done[what] += 1
        except ControlError:
            self._outcome.done[f"{what} given up"] += 1  # its workers were killed too
        except (ConnectionError, TimeoutError):
            self._outcome.done[f"{what} not answered"] += 1


def storm(site: Site, size: Size, *, redeliver: bool, seed: int) -> Outcome:
    """Let one pass over a server and return what it showed; raises AssertionError."""
    outcome = Outcome(seed)
    connection = "AsyncConnection" if site.is_async else "Connection"
    target = site.write("v0", tail=_MARKED.format(connection=connection, redeliver=redeliver))
    options = (
        *("--keep", "crash", "--keep-after", "0", "--poison-limit", "1000000"),
        *("-w", str(WORKERS)),
        *(("--threads", str(size.connections)) if site.model == "thread" else ()),
    )
    with site.serve(target, *options, clients=WORKERS) as server:
        server.wait_until(lambda: server.status()["workers"]["ready"] == WORKERS, "all ready")
        outcome.before = Held.of(server)
        with ExitStack() as stack:
            number = size.connections // 2
            quiet = [stack.enter_context(connect(server.address, 30.0)) for _ in range(number)]
            for sock in quiet:
                sock.sendall(b"first\n")
            for sock in quiet:
                assert read_reply(sock).startswith(b"1 first v0")
            busy = stack.enter_context(Load(server.address, number, pause=0.2))
            busy.wait_replies(number, 30.0)
            server.wait_until(lambda: all_held(server, 2 * number), "all kept", 20.0)
            Killer(server, site, size, seed, outcome).run()
            # Whoever keeps dying is replaced ever later: up to 5 s.
            tally = busy.finish(30.0)
            outcome.busy = tally.summary()
            for sock in quiet:
                sock.sendall(b"second\n")
            for sock in quiet:
                try:
                    assert read_reply(sock).startswith(b"2 second v0"), "the state is kept"
                except (EOFError, ConnectionResetError):
                    name = name_of(sock)
                    mine = [event for event in server.events if event.get("peer") == name]
                    pids = {event.get("pid") for event in mine} - {None}
                    said = [event for event in server.events if event.get("pid") in pids] + mine
                    outcome.quiet_ended.append(f"{name}: {said}")
            assert not outcome.quiet_ended, outcome
            assert tally.disordered == tally.reset == 0, outcome
            assert not redeliver or tally.clean, outcome
            assert redeliver or not tally.again, outcome
        server.wait_until(lambda: not server.connections(), "the end of all connections", 30.0)
        server.wait_until(lambda: all_there(server), "all workers again", 30.0)
        # Nothing is asked of the server meanwhile: who asks has a descriptor there, too.
        server.wait_until(lambda: at_rest(server, outcome), f"{outcome.before} again", 30.0)
        status = server.status()
        outcome.totals = status["totals"]
        assert status["connections"]["kept"] == 0
        assert outcome.after is not None
        grown = outcome.after.memory - outcome.before.memory
        assert grown < GROWTH, f"the keeper has {grown} bytes more"
    return outcome


def all_held(server: Server, number: int) -> bool:
    """Whether the keeper has a handle of each connection."""
    kept: int = server.status()["connections"]["kept"]
    return kept == number


def all_there(server: Server) -> bool:
    """Whether all workers are ready, and no others are left."""
    workers: dict[str, int] = server.status()["workers"]
    return workers == {"starting": 0, "ready": WORKERS, "draining": 0}


def at_rest(server: Server, outcome: Outcome) -> bool:
    """Whether nothing more is open than before."""
    assert outcome.before is not None
    outcome.after = Held.of(server)
    return outcome.after.no_more_than(outcome.before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--connections", type=int, default=FULL.connections)
    parser.add_argument("--seconds", type=float, default=FULL.seconds)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--redeliver", choices=("yes", "no", "both"), default="both")
    asked = parser.parse_args()
    size = Size(asked.connections, asked.seconds)
    modes = {"yes": [True], "no": [False], "both": [False, True]}[asked.redeliver]
    for model in asked.models:
        for redeliver in modes:
            print(f"{model}, redeliver={redeliver}, seed {asked.seed}: ", end="", flush=True)
            with tempfile.TemporaryDirectory() as directory:
                site = Site(model, "ipv4", Path(directory))
                outcome = storm(site, size, redeliver=redeliver, seed=asked.seed)
            print(outcome)


if __name__ == "__main__":
    main()
