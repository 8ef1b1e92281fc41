"""A real server in a process of its own, watched through its log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from tests.harness.control import ask
from tests.harness.processes import session_processes, wait_exit

Event: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has run."""

    exit_code: int
    stdout: str
    stderr: str


class Server:
    """``socketkeep serve TARGET *options`` in `directory`, as a context manager.

    Entering starts it and, unless `wait_ready` is false, waits until it is ready.  Leaving stops it
    and fails the test if it had to be killed or left a process behind; on any failure the whole log
    is shown.  A server that the test itself has ended is left alone (`wait_exit`).

    bind: `None` stands for a free port on 127.0.0.1.
    """

    def __init__(
        self,
        directory: Path,
        target: str,
        *options: str,
        bind: Sequence[str] | None = None,
        environment: Mapping[str, str | None] | None = None,
        wait_ready: bool = True,
        start_timeout: float = 30.0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.control = directory / "control.sock"
        self.events: list[Event] = []
        self.stderr: list[str] = []
        self._mark = uuid.uuid4().hex
        variables = {
            **os.environ,
            "HARNESS_SERVER": self._mark,
            # Most tests look at the keeper, as the process that they have started.
            "SOCKETKEEP_GUARD": os.environ.get("TEST_GUARD", "off"),
            "PWD": str(directory),  # as a shell that has gone there
            **(environment or {}),
        }
        self._environment = {name: text for name, text in variables.items() if text is not None}
        self._wait_ready = wait_ready
        self._start_timeout = start_timeout
        self._descriptors: Sequence[int] = ()  # to be inherited
        self._changed = threading.Condition()
        self._log_ended = False
        self._command = [
            *(sys.executable, "-m", "socketkeep", "serve", target),
            *("--control", str(self.control), "--log-format", "json"),
            *(part for one in bind or ["127.0.0.1:0"] for part in ("--bind", one)),
            *options,
        ]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=self._descriptors,
        )
        self._reader = threading.Thread(target=self._read_log, name="server log", daemon=True)
        self._reader.start()
        if self._wait_ready:
            try:
                self.wait_event("ready", timeout=self._start_timeout)
            except BaseException:
                self._kill()
                self._end_log()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        faults = self._end()
        self._end_log()
        if error is not None:
            error.add_note(self._report(faults))
        elif faults:
            raise AssertionError(self._report(faults))

    # What it says.

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self.process.pid

    @property
    def addresses(self) -> list[str]:
        """Its listeners, as clients name them: the chosen ports instead of 0."""
        return [event["address"] for event in self.find("listening")]

    @property
    def address(self) -> str:
        """Its first listener."""
        return self.addresses[0]

    @property
    def port(self) -> int:
        """The port of its first listener."""
        return int(self.address.rpartition(":")[2])

    def find(self, name: str, since: int = 0, **fields: object) -> list[Event]:
        """Return the events so far called `name` with these fields, from the index `since` on."""
        return [
            event
            for event in self.events[since:]
            if event["event"] == name and fields.items() <= event.items()
        ]

    def wait_event(
        self, name: str, *, since: int = 0, count: int = 1, timeout: float = 30.0, **fields: object
    ) -> Event:
        """Wait for the `count`-th such event and return it.

        Raises TimeoutError after `timeout` seconds, RuntimeError if the server ends without it.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: len(self.find(name, since, **fields)) >= count or self._log_ended, timeout
            )
            found = self.find(name, since, **fields)
        if len(found) >= count:
            return found[count - 1]
        log = "\n".join(self.stderr[-60:])
        if self._log_ended:
            raise RuntimeError(f"the server ended without {name!r} {fields}; its log:\n{log}")
        raise TimeoutError(f"no {name!r} {fields} within {timeout} s; the log:\n{log}")

    def mark(self) -> int:
        """Return where the log now is, for the `since` of the other methods."""
        return len(self.events)

    # What it is told.

    def cli(self, *arguments: str, timeout: float = 60.0) -> Finished:
        """Run ``socketkeep ARGUMENTS --control ...`` and return how it ended."""
        done = subprocess.run(
            [sys.executable, "-m", "socketkeep", *arguments, "--control", str(self.control)],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def ask(self, command: str, timeout: float = 30.0, **arguments: object) -> Any:
        """Send `command` over the control socket, without the CLI; return its result."""
        return ask(self.control, command, timeout, **arguments)

    def reload(self) -> Finished:
        """Run ``socketkeep reload`` and require that it succeeds."""
        done = self.cli("reload")
        assert done.exit_code == 0, f"reload: {done}"
        return done

    def scale(self, workers: int) -> Finished:
        """Run ``socketkeep scale`` and require that it succeeds."""
        done = self.cli("scale", str(workers))
        assert done.exit_code == 0, f"scale: {done}"
        return done

    def status(self) -> Any:
        """Return the status, as ``socketkeep status --json`` has it."""
        return self.ask("status")

    def workers(self) -> Any:
        """Return the workers, as ``socketkeep workers --json`` has them."""
        return self.ask("workers")

    def connections(self) -> Any:
        """Return the connections, as ``socketkeep connections --json`` has them."""
        return self.ask("connections")

    def wait_clean(self) -> None:
        """Wait until every handler has committed: an answer is out before its commit is made."""
        self.wait_until(
            lambda: all(each["committed"] and not each["busy"] for each in self.connections()),
            "all clean",
        )

    def wait_until(self, reached: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        """Ask again and again until `reached()`; for what the server does not announce.

        Raises TimeoutError, naming `what`, after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout} s")
            time.sleep(0.02)  # between two questions, so that asking does not slow the answer

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the keeper."""
        self.process.send_signal(number)

    def wait_exit(self, timeout: float = 30.0) -> int:
        """Wait until the keeper has ended; return its exit code, and no process may be left.

        Raises subprocess.TimeoutExpired after `timeout` seconds.
        """
        status = self.process.wait(timeout)
        assert not self.processes(timeout=2.0), f"left behind: {self.processes()}"
        return status

    def processes(self, timeout: float = 0.0) -> dict[int, str]:
        """Return its living processes: command lines by pid; wait `timeout` for them to end."""
        return session_processes(self.pid, f"HARNESS_SERVER={self._mark}", timeout)

    # Ending.

    def _end(self) -> list[str]:
        """End the server and all of its processes; return what was wrong with the end."""
        faults = []
        if self.process.poll() is None:
            self.process.terminate()
            # The graceful end waits for handlers; the second signal is the one that does not.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
            if self.process.returncode is None:
                self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            faults.append("the server did not end at SIGTERM nor at SIGQUIT")
        left = self.processes(timeout=2.0)
        left.pop(self.pid, None)
        faults += [f"process {pid} was left behind: {command}" for pid, command in left.items()]
        self._kill()
        return faults

    def _kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_exit(pid, timeout=5.0)

    # The log.

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            line = raw.decode(errors="replace").rstrip("\n")
            with self._changed:
                self.stderr.append(line)
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and "event" in event:
                        self.events.append(event)
                self._changed.notify_all()
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    def _end_log(self) -> None:
        self._reader.join(10.0)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _report(self, faults: Sequence[str]) -> str:
        head = [f"server in {self.directory}: {' '.join(self._command)}", *faults]
        return "\n".join([*head, "its log:", *self.stderr[-300:]])
