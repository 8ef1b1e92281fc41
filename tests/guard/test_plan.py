"""The words that a guard is started with, and those that it has for a keeper."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from socketkeep._guard import _program


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Three descriptors."""
    found = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)]
    yield found
    for fd in found:
        os.close(fd)


def test_a_plan_is_read_as_it_was_written(fds: list[int]) -> None:
    plan = _program.Plan()
    plan.keeper, plan.socket, plan.most, plan.soft, plan.starts, plan.ready = 7, fds[0], 9, 10, 2, 1
    plan.directory, plan.cause = "/srv/a b=c", "killed by signal 9"
    plan.passed, plan.stored = {fds[1]: "http=1"}, {"socketkeep.connection.a-1-1.2": fds[2]}
    written = plan.write()
    assert all(os.get_inheritable(fd) for fd in (written, *fds))
    assert vars(_program.Plan.read(written)) == vars(plan)
    assert not any(os.get_inheritable(fd) for fd in fds)


def test_a_keeper_is_told_of_its_guard() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("")
        plan = _program.Plan()
        plan.socket, plan.most, plan.soft, plan.starts = own.fileno(), 9, 1024, 2
        plan.cause = "exit code 1"
        variables = plan.variables(12, 13)
        assert variables["NOTIFY_SOCKET"] == "@" + own.getsockname()[1:].decode()
    assert variables["WATCHDOG_PID"] == "13"
    assert variables["SOCKETKEEP_GUARDED"] == "12 1024 2 exit code 1"


def test_the_guard_reads_nothing_of_the_package() -> None:
    """It must run whatever is installed by then."""
    with open(_program.__file__) as file:
        assert "socketkeep._" not in file.read().replace("socketkeep._guard", "")
