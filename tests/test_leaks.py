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

# The shell starts a sleep in a session of its own and goes; and one is forked twice without exec,
# as daemons are.
LEAKY = """
import os, socket, subprocess, time

kept = []

def test_socket():
    kept.append(socket.create_server(("127.0.0.1", 0)))

def test_child():
    kept.append(subprocess.Popen(["sleep", "71"]))

def test_daemon():
    subprocess.run(["sh", "-c", "setsid sleep 72 >/dev/null 2>&1 &"], check=True)

def test_fork():
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(73)
        os._exit(0)
    os.wait()
"""
LEAKED = (
    "{}socket: *SOCK_STREAM*'127.0.0.1'*no peer",
    "{}process: * (parent *): sleep 71",
    "{}process: * (parent *): sleep 72",
    "{}process: * (parent *): *pytest*",
)


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


@pytest.mark.parametrize(("workers", "where"), [(0, "  "), (1, "  gw0: ")])
def test_leaks_fail_the_suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: int, where: str
) -> None:
    """Though every test of it passes; and each of them is named."""
    result = run_suite(pytester, monkeypatch, LEAKY, workers, "--leak-grace=0.5")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(["LEAKED, *: 4", *(line.format(where) for line in LEAKED)])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
