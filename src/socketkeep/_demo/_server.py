"""The server of the demo: a real one, in its own processes, driven by the commands users have."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, Self

from socketkeep._config._settings import PREFIX
from socketkeep._native import PURE_VARIABLE

_HANDLER: Final = """\
from socketkeep import AsyncConnection, resumable

VERSION = b"{version}"


@resumable(redeliver=True)
async def handle(conn: AsyncConnection) -> None:
    count = conn.state or 0
    async for line in conn.lines():
        if not (conn.redelivered and int(line) <= count):  # else a cut-off commit has counted it
            count += 1
        again = b"+" * conn.redelivered  # a worker that died may have answered already
        await conn.send(b"%d %s %s%s\\n" % (count, line, VERSION, again))
        conn.commit(count)
"""

START_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 5.0
_LOOK_AGAIN: Final = 0.05


class ServerFailed(Exception):
    """The server, or a command to it, failed; the text is what it said."""


class DemoServer:
    """``socketkeep serve`` of a small handler in `directory`, as a context manager.

    Entering starts it and waits until it is ready; raises ServerFailed if it does not become so.
    """

    def __init__(self, directory: Path, workers: int) -> None:
        self._handler = directory / "counter.py"
        self._control = directory / "control.sock"
        self._workers = workers
        self._log: deque[str] = deque(maxlen=50)
        self._ready = threading.Event()
        self.address = ""

    def __enter__(self) -> Self:
        # What the user has set for other servers is not meant for this one.
        environment = {
            k: v for k, v in os.environ.items() if k == PURE_VARIABLE or not k.startswith(PREFIX)
        }
        environment.pop("NOTIFY_SOCKET", None)  # of a service manager, which would be its guard
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "socketkeep", "serve", f"{self._handler}:handle"),
                *("--bind", "127.0.0.1:0", "--workers", str(self._workers)),
                *("--keep", "crash", "--worker-timeout", "1", "--park-after", "0.3"),
                *("--control", str(self._control), "--log-format", "json"),
            ],
            cwd=self._handler.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends the demo, which then ends the server in order
        )
        self._reader = threading.Thread(target=self._read_log, name="server log", daemon=True)
        self._reader.start()
        self._ready.wait(START_TIMEOUT)
        if self.address and self.process.poll() is None:
            return self
        self._stop()
        raise ServerFailed("the server did not start:\n" + "\n".join(self._log))

    def __exit__(self, *_: object) -> None:
        self._stop()

    def write(self, version: str) -> None:
        """Write the handler's code, whose replies say `version`."""
        new = self._handler.with_suffix(".new")
        new.write_text(_HANDLER.format(version=version))
        new.replace(self._handler)

    def ask(self, command: str) -> Any:
        """Return what ``socketkeep COMMAND --json`` says; raises ServerFailed if it fails."""
        return json.loads(self.command(command, "--json"))

    def command(self, *words: str) -> str:
        """Run ``socketkeep WORDS`` against the server and return what it says.

        Raises ServerFailed if it fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", "socketkeep", *words, "--control", str(self._control)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise ServerFailed(f"socketkeep {' '.join(words)} failed:\n{said}")
        return done.stdout

    def keeper(self) -> int:
        """Return the pid of the keeper, the guard's child."""
        pid = self.ask("status")["guard"]["keeper"]
        assert isinstance(pid, int)
        return pid

    def all_but_guard(self) -> list[int]:
        """Return the pids of the keeper and of its children, which all others are."""
        keeper = self.keeper()
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text()
        return [keeper, *map(int, children.split())]

    def wait_started(self, times: int, seconds: float) -> None:
        """Wait until the guard has started so many other keepers, and the last one serves.

        Raises ServerFailed.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ServerFailed):  # there is no keeper yet
                status = self.ask("status")
                if status["guard"]["starts"] >= times and status["state"] == "running":
                    return
            time.sleep(_LOOK_AGAIN)
        raise ServerFailed(f"keeper {times + 1} does not serve:\n" + "\n".join(self._log))

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP_TIMEOUT)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            event: dict[str, Any] = {}
            with contextlib.suppress(ValueError):
                event = json.loads(line)
            self._log.append(_shown(event) or line.rstrip())
            if event.get("event") == "listening":
                self.address = event["address"]
            elif event.get("event") == "ready":
                self._ready.set()
        self._ready.set()  # it has ended: nobody need wait any longer


def _shown(event: dict[str, Any]) -> str:
    return "  ".join(str(value) for key, value in event.items() if key != "time")
