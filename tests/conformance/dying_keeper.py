"""Keepers that die in the middle of moves: clients count on connections, and no count is wrong.

``python -m tests.conformance.dying_keeper KILLS`` says what it showed.  Run with a path as its
argument it is the server itself: each of its keepers kills itself at one of the steps by which a
connection moves, drawn at random, as long as there is a file of that path.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from tests.guard.support import GuardedServer
from tests.harness import connect, read_reply

CLIENTS: Final = 8
#: Of one server; the guard waits longer each time before it starts another keeper.
KILLS_OF_A_SERVER: Final = 5
#: Among so many steps each keeper draws the one at which it dies.
STEPS: Final = 120
PATIENCE: Final = 40.0
_STEPS_OF_A_MOVE: Final = (
    ("connections._connections", "Connections", "take"),
    ("connections._connections", "Connections", "attached"),
    ("connections._connections", "Connections", "worker_died"),
    ("connections._moves", "Moves", "_give"),
    ("connections._fdstore", "FdStore", "_send_add"),
    ("connections._fdstore", "FdStore", "_send_remove"),
    ("connections._restoring", "Stored", "_restore_one"),
    ("workers._workers", "Link", "send"),
)
_ROOT: Final = Path(__file__).parents[2]

HANDLER: Final = """
from socketkeep import AsyncConnection, resumable

@resumable(redeliver=True)
async def handle(conn: AsyncConnection) -> None:
    count = conn.state or 0
    async for _ in conn.lines():
        count += 1
        await conn.reply(b"%d\\n" % count, state=count)
"""


def die_at_a_step(armed: Path) -> None:
    """Have this process, which comes to be a keeper, die so, before the step or after it."""
    left = [random.randrange(1, STEPS)]

    def step() -> None:
        if armed.exists():
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)

        def stepped(*arguments: Any, **more: Any) -> Any:
            step()
            try:
                return method(*arguments, **more)
            finally:
                step()

        patch.object(owner, name, stepped).start()

    for module, owner, name in _STEPS_OF_A_MOVE:
        around(getattr(import_module(f"socketkeep._keeper.{module}"), owner), name)


class DyingServer(GuardedServer):
    """One whose keepers die, as long as it is armed."""

    def __init__(self, directory: Path, *options: str) -> None:
        (directory / "app.py").write_text(HANDLER)
        self.armed = directory / "armed"
        super().__init__(directory, "app:handle", *options)
        self._environment["PYTHONPATH"] = f"{_ROOT}:{directory}"
        self._command[1:3] = ["-m", "tests.conformance.dying_keeper", str(self.armed)]

    @property
    def deaths(self) -> int:
        return sum(event["event"] == "keeper started again" for event in self.events)


@dataclass
class Result:
    """The outcome of a run.

    wrong: what a client saw that it should not.  reloads: how many moved all connections.
    """

    kills: int = 0
    answers: int = 0
    reloads: int = 0
    wrong: list[str] = field(default_factory=list)


def storm(directory: Path, kills: int) -> Result:
    """Reload one server again and again, whose keepers die so often."""
    result, ends = Result(), threading.Event()
    options = ("-k", "async", "-w", "2", "--keep", "crash", "--keep-after", "0")
    with DyingServer(directory, *options) as server:

        def count(peer: socket.socket) -> None:
            counted = 0
            try:
                while not ends.is_set():
                    peer.sendall(b"x\n")
                    counted += 1
                    answer = read_reply(peer)
                    if answer != b"%d" % counted:
                        result.wrong.append(f"{answer!r} after {counted - 1}")
                        return
            except (OSError, EOFError) as error:
                result.wrong.append(f"{error!r} after {counted}")
            result.answers += counted

        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(connect(server.address)) for _ in range(CLIENTS)]
            for peer in peers:
                peer.settimeout(PATIENCE)
            threads = [threading.Thread(target=count, args=[peer]) for peer in peers]
            for thread in threads:
                thread.start()
            server.wait_until(lambda: server.status()["connections"]["kept"] == CLIENTS, "kept")
            server.armed.touch()
            while server.deaths < kills and not result.wrong:
                result.reloads += server.cli("reload").exit_code == 0
            server.armed.unlink()
            ends.set()
            for thread in threads:
                thread.join(2 * PATIENCE)
            result.kills = server.deaths
    return result


def storms(directory: Path, kills: int) -> Result:
    """As many servers as it takes."""
    whole = Result()
    while whole.kills < kills and not whole.wrong:
        place = directory / str(whole.kills)
        place.mkdir()
        part = storm(place, min(KILLS_OF_A_SERVER, kills - whole.kills))
        whole.kills += part.kills
        whole.answers += part.answers
        whole.reloads += part.reloads
        whole.wrong += part.wrong
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = storms(Path(directory), said.kills)
    print(
        f"{result.kills} keepers killed in {result.reloads} reloads, {result.answers} answers on"
        f" {CLIENTS} connections each, wrong: {result.wrong or 'none'}"
    )
    raise SystemExit(bool(result.wrong))


if __name__ == "__main__":
    if "/" in sys.argv[1]:
        die_at_a_step(Path(sys.argv.pop(1)))
        runpy.run_module("socketkeep", run_name="__main__", alter_sys=True)
    else:
        main()
