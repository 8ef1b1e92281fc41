"""The story that the demo tells."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path
from typing import Final

from socketkeep._demo._clients import Load
from socketkeep._demo._screen import Screen, table
from socketkeep._demo._server import Server, ServerFailed

CONNECTIONS: Final = 200
WORKERS: Final = 2
#: Seconds from one reply to the next request of each client: some 4,000 requests a second in all.
PAUSE: Final = 0.05
#: Seconds of undisturbed load between two changes.
BETWEEN: Final = 2.0
#: Seconds until a change must have reached every connection.
PATIENCE: Final = 10.0


def run() -> int:
    """Run the demo; return 0 only if no client noticed anything but the new replies.

    A server with 200 connections, each sending numbered requests and checking every reply, is
    reloaded twice to new code and scaled up and down.  Needs the loopback interface alone.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="socketkeep-demo-") as directory:
            return _tell(Path(directory), Screen())
    except (ServerFailed, OSError) as error:
        print(f"The demo failed: {error}")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(directory: Path, screen: Screen) -> int:
    print(
        f"{CONNECTIONS} clients send numbered requests and check every reply, while the code that"
        " answers them is replaced.\n"
    )
    server = Server(directory, WORKERS)
    server.write("version 1")
    with server:
        screen.line("server", f"{server.address}, {WORKERS} workers, pid {server.process.pid}")
        with Load(server.address, CONNECTIONS, pause=PAUSE) as load, screen.counting(load.tally):
            load.wait_version("version 1", PATIENCE)
            screen.line("clients", f"{CONNECTIONS} connected, answered by version 1")
            for version in ("version 2", "version 3"):
                _let_run(load)
                _reload(server, load, screen, version)
            for workers in (WORKERS + 2, 1):
                _let_run(load)
                server.command("scale", str(workers))
                screen.line("scale", f"to {workers} worker{'s' * (workers > 1)}")
            _let_run(load)
            tally = load.finish(PATIENCE)
        screen.line("clients", "all replies are in")
    print(f"\n{table(tally)}\n")
    if not tally.clean:
        print("Something was lost:\n  " + tally.summary())
        return 1
    if set(tally.versions) != {"version 1", "version 2", "version 3"}:
        print("Not every version has answered.")
        return 1
    print(
        f"Nothing was lost: the {CONNECTIONS} connections lived through two reloads and the change"
        " of workers."
    )
    return 0


def _let_run(load: Load) -> None:
    """Let the clients ask for a while: as many replies as undisturbed ones get in that time."""
    load.wait_replies(int(CONNECTIONS * BETWEEN / PAUSE * 0.5), PATIENCE)


def _reload(server: Server, load: Load, screen: Screen, version: str) -> None:
    server.write(version)
    began = time.monotonic()
    server.command("reload")
    load.wait_version(version, PATIENCE)
    took = time.monotonic() - began
    screen.line("reload", f"to {version}: every client answered by it after {took:.1f} s")
