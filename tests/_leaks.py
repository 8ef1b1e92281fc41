"""A pytest plugin: the suite ends with a report of leaked sockets and processes, which fails it.

Each process that runs tests compares its sockets and descendants at the end with those at the
start.  It is a subreaper, so a daemon whose parents have gone becomes its child instead of init's.
(A variable in the environment as the mark of what a session started would not do: setproctitle
overwrites what /proc shows of it, and a fork without exec shows what the parent's exec was given.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Generator
from typing import Final

import pytest

from tests._processes import (
    Process,
    all_processes,
    descendants,
    describe_socket,
    open_sockets,
)

OUTPUT_KEY: Final = "socketkeep_leaks"
_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)


class Watch:
    """What was open when it was made, against what is left later."""

    def __init__(self, grace: float) -> None:
        """Start to watch.  grace: seconds in which what is on its way out may still go."""
        self._grace = grace
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot become a subreaper")
        self._sockets = set(open_sockets())
        self._processes = descendants(os.getpid(), all_processes())

    def _left_processes(self) -> list[Process]:
        # A zombie holds nothing; whether it is reaped is the business of the tests of that.
        living = [process for process in all_processes() if process.alive]
        left = descendants(os.getpid(), living) - self._processes
        return sorted(left, key=lambda process: process.pid)

    def _left_sockets(self) -> list[int]:
        return sorted(fd for inode, fd in open_sockets().items() if inode not in self._sockets)

    def leaks(self) -> list[str]:
        """Return a line for each socket and process that is left; the processes are killed."""
        deadline = time.monotonic() + self._grace
        while (self._left_processes() or self._left_sockets()) and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = [f"socket: fd {fd}: {describe_socket(fd)}" for fd in self._left_sockets()]
        for process in self._left_processes():
            lines.append(f"process: {process.pid} (parent {process.parent}): {process.command}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return lines


class WorkerReport:
    """In an xdist worker: hand what leaked to the main process."""

    def __init__(self, config: pytest.Config) -> None:
        self._output: dict[str, object] = config.workeroutput  # type: ignore[attr-defined]
        self._watch = Watch(config.getoption("leak_grace"))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Look after the last fixture is gone, and before xdist sends the output off."""
        self._output[OUTPUT_KEY] = self._watch.leaks()


class MainReport:
    """In the main process: print what leaked anywhere, and fail the suite for it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._watch = Watch(config.getoption("leak_grace"))
        self._lines: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Take what an xdist worker found."""
        output: dict[str, list[str]] = getattr(node, "workeroutput", {})
        gateway = getattr(getattr(node, "gateway", None), "id", "worker")
        self._lines += [f"{gateway}: {line}" for line in output.get(OUTPUT_KEY, [])]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Look once all else is done, so that xdist's workers are gone."""
        result = yield
        self._lines += self._watch.leaks()
        write = _writer(self._config)
        if self._lines:
            write(f"LEAKED, sockets and processes that outlived the tests: {len(self._lines)}")
            for line in self._lines:
                write(f"  {line}")
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif self._config.get_verbosity() >= 0:
            write("No socket and no process outlived the tests.")
        return result


def _writer(config: pytest.Config) -> Callable[[str], object]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    write: Callable[[str], object] = print if reporter is None else reporter.write_line
    return write


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one option, which the plugin's own tests shorten."""
    parser.addoption(
        "--leak-grace",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="how long sockets and processes that are on their way out may still take",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Watch from the start on."""
    config = session.config
    in_worker = hasattr(config, "workerinput")
    config.pluginmanager.register(WorkerReport(config) if in_worker else MainReport(config))
