"""The story that the demo tells."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import Final

from socketkeep._demo._clients import Load
from socketkeep._demo._screen import ProgressScreen, table
from socketkeep._demo._server import DemoServer, ServerFailed
from socketkeep._demo._tally import total

CONNECTIONS: Final = 200
WORKERS: Final = 2
#: Seconds from one reply to the next request of each client: some 4,000 requests a second in all.
PAUSE: Final = 0.05
#: Clients that ask so seldom that their connections are parked meanwhile, and how seldom.
IDLE: Final = 50
IDLE_PAUSE: Final = 1.0
#: Seconds of undisturbed load between two changes.
BETWEEN: Final = 0.5
#: Seconds until a change must have reached every connection.
PATIENCE: Final = 10.0


def run() -> int:
    """Run the demo; return 0 only if no client noticed anything but the new replies.

    A server with 200 connections, each sending numbered requests and checking every reply, is
    reloaded to new code, loses workers by SIGKILL and SIGSTOP, is upgraded and scaled up and down,
    loses its keeper, and then every process but its guard; 50 more connections are parked most of
    the time.  Needs the loopback interface alone.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="socketkeep-demo-") as directory:
            return _tell(Path(directory), ProgressScreen())
    except (ServerFailed, OSError) as error:
        print(f"The demo failed: {error}")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(directory: Path, screen: ProgressScreen) -> int:
    print(
        f"{CONNECTIONS} clients send numbered requests and check every reply, while the code that"
        " answers them is replaced.\n"
    )
    server = DemoServer(directory, WORKERS)
    server.write("version 1")
    with server:
        screen.line("server", f"{server.address}, {WORKERS} workers, pid {server.process.pid}")
        with (
            Load(server.address, CONNECTIONS, pause=PAUSE) as load,
            screen.counting(load.tally),
            Load(server.address, IDLE, pause=IDLE_PAUSE) as idle,
        ):
            load.wait_version("version 1", PATIENCE)
            screen.line("clients", f"{CONNECTIONS} connected, answered by version 1")
            story = Story(server, load, screen)
            story.replace("reload", "version 2")
            story.kill(signal.SIGKILL, "kill", "killed by SIGKILL")
            story.kill(signal.SIGSTOP, "stop", "stopped by SIGSTOP, ended after 1 s")
            story.replace("upgrade", "version 3")
            for workers in (WORKERS + 2, 1):
                story.scale(workers)
            story.kill_keeper()
            story.kill_all_but_guard()
            story.park(idle)
            tally = load.finish(PATIENCE)
            quiet = idle.finish(PATIENCE)
        screen.line("clients", "all replies are in")
    tally = total(tally, quiet)
    print(f"\n{table(tally)}\n")
    if not tally.clean:
        print("Something was lost:\n  " + tally.summary())
        return 1
    if set(tally.versions) != {"version 1", "version 2", "version 3"}:
        print("Not every version has answered.")
        return 1
    print(
        f"Nothing was lost: the {tally.connections} connections lived through a reload, the deaths"
        " of two workers, an upgrade, the change of workers, the death of the keeper, and of all"
        " but the guard."
    )
    return 0


class Story:
    """The story of the server, each event with how long those waited whom it concerned."""

    def __init__(self, server: DemoServer, load: Load, screen: ProgressScreen) -> None:
        self._server = server
        self._load = load
        self._screen = screen

    def replace(self, command: str, version: str) -> None:
        """Put other code, and with ``upgrade`` another keeper, in the place of what runs."""
        self._let_run()
        self._server.write(version)
        self._load.mark()
        self._server.command(command)
        self._load.wait_version(version, PATIENCE)
        self._tell(command, f"to {version}, all clients", self._load.ports())

    def kill(self, number: signal.Signals, what: str, how: str) -> None:
        """End the worker that has the most connections."""
        self._let_run()
        owners: dict[int, set[int]] = {}
        for connection in self._server.ask("connections"):
            if connection["owner"] is not None:
                port = int(connection["peer"].rpartition(":")[2])
                owners.setdefault(connection["owner"], set()).add(port)
        victim = max(owners, key=lambda pid: len(owners[pid]))
        concerned = owners[victim] & self._load.ports()
        self._load.mark()
        os.kill(victim, number)
        self._tell(what, f"a worker {how}, {len(concerned)} clients", concerned)

    def scale(self, workers: int) -> None:
        """Change how many workers there are."""
        self._let_run()
        self._load.mark()
        self._server.command("scale", str(workers))
        many = f"{workers} worker{'s' * (workers > 1)}"
        self._tell("scale", f"to {many}, all clients", self._load.ports())

    def kill_keeper(self) -> None:
        """Kill the keeper; the guard starts another, which takes the workers over."""
        self._let_run()
        self._load.mark()
        os.kill(self._server.keeper(), signal.SIGKILL)
        self._server.wait_started(1, PATIENCE)
        self._tell("keeper", "killed by SIGKILL, all clients", self._load.ports())

    def kill_all_but_guard(self) -> None:
        """Kill keeper, template and workers at one instant."""
        self._let_run()
        pids = self._server.all_but_guard()
        self._load.mark()
        # None is to act on another's end.  The youngest go first: the kernel continues whoever is
        # stopped when the last parent outside of its process group ends.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in sorted(pids, reverse=True):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        self._server.wait_started(2, PATIENCE)
        self._tell("all", f"{len(pids)} processes killed, all clients", self._load.ports())

    def park(self, idle: Load) -> None:
        """Tell of the clients that seldom ask."""
        idle.mark()
        waits = idle.waits(idle.ports(), PATIENCE)
        times = self._server.ask("status")["totals"]["attached"]["parked"]
        what = f"{IDLE} idle clients, parked and woken {times} times"
        self._screen.line("park", f"{what}: {_figures(waits)}")

    def _let_run(self) -> None:
        """Let the clients ask for a while."""
        self._load.wait_replies(int(CONNECTIONS * BETWEEN / PAUSE * 0.5), PATIENCE)

    def _tell(self, what: str, text: str, concerned: set[int]) -> None:
        waits = self._load.waits(concerned, PATIENCE)
        self._screen.line(what, f"{text}: {_figures(waits)}")


def _figures(waits: list[float]) -> str:
    if not waits:
        return "nobody waited"
    middle, most = waits[len(waits) // 2], waits[-1]
    return f"waited {middle * 1000:.0f} ms (p50), {most * 1000:.0f} ms (max)"
