"""The leak report itself: a suite that leaks fails and names what leaked, on xdist and without."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent

CLEAN = """
import socket, subprocess, sys

def test_clean():
    with socket.create_server(("127.0.0.1", 0)):
        subprocess.run([sys.executable, "-c", ""], check=True)
"""

LEAKED_SOCKET = """
import socket

kept = []

def test_leak():
    kept.append(socket.create_server(("127.0.0.1", 0)))
"""

LEAKED_CHILD = """
import subprocess

kept = []

def test_leak():
    kept.append(subprocess.Popen(["sleep", "77"]))
"""

# The shell starts the sleep in a session of its own and goes.
LEAKED_DAEMON = """
import subprocess

def test_leak():
    subprocess.run(["sh", "-c", "setsid sleep 77 >/dev/null 2>&1 &"], check=True)
"""

# Forked twice without exec, as daemons are.
LEAKED_FORK = """
import os, time

def test_leak():
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(77)
        os._exit(0)
    os.wait()
"""


def run_suite(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    workers: int,
    *options: str,
) -> pytest.RunResult:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-p", "tests._leaks", f"-n{workers}", *options, timeout=50)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clean_suite_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    result = run_suite(pytester, monkeypatch, CLEAN, workers)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["No socket and no process outlived the tests."])


@pytest.mark.parametrize(
    ("source", "workers", "line"),
    [
        pytest.param(LEAKED_SOCKET, 0, "  socket: *SOCK_STREAM*'127.0.0.1'*no peer", id="socket"),
        pytest.param(LEAKED_SOCKET, 1, "  gw0: socket: *SOCK_STREAM*", id="socket-xdist"),
        pytest.param(LEAKED_CHILD, 0, "  process: * (parent *): sleep 77", id="child"),
        pytest.param(LEAKED_CHILD, 1, "  gw0: process: * (parent *): sleep 77", id="child-xdist"),
        pytest.param(LEAKED_DAEMON, 0, "  process: * (parent *): sleep 77", id="daemon"),
        pytest.param(LEAKED_DAEMON, 1, "  gw0: process: * (parent *): sleep 77", id="daemon-xdist"),
        pytest.param(LEAKED_FORK, 0, "  process: * (parent *): *", id="fork"),
        pytest.param(LEAKED_FORK, 1, "  gw0: process: * (parent *): *", id="fork-xdist"),
    ],
)
def test_a_leak_fails_the_suite(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    workers: int,
    line: str,
) -> None:
    result = run_suite(pytester, monkeypatch, source, workers, "--leak-grace=0.5")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["LEAKED, *: 1", line])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
