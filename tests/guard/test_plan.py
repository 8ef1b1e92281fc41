"""What a guard is told, and what it tells a keeper."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator

import pytest

from socketkeep._guard import _program
from socketkeep._guard._becoming import store_room
from socketkeep._guard._terms import GuardTerms, guard_of_this
from socketkeep._net import _listener


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


def test_a_keeper_knows_the_guard_that_is_its_parent() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("")
        plan = _program.Plan()
        plan.socket, plan.most, plan.soft, plan.starts = own.fileno(), 9, 1024, 2
        plan.cause = "exit code 1"
        variables = plan.variables(12, 13)
        assert variables["NOTIFY_SOCKET"] == "@" + own.getsockname()[1:].decode()
    assert variables["WATCHDOG_PID"] == "13"
    assert GuardTerms.of(variables) == GuardTerms(12, 1024, 2, "exit code 1")
    assert GuardTerms.of({}) is None


def test_a_guard_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, is_guard in ((os.getppid(), True), (os.getpid(), False), (1 << 22, False)):
        monkeypatch.setenv(_program.GUARDED, f"{pid} 1024 0 ")
        assert guard_of_this() == (GuardTerms(pid, 1024) if is_guard else None)


@pytest.mark.parametrize("text", ["", "12", "12 1 1", "a b c d", "12 1 x "])
def test_what_is_no_guards_word_is_none(text: str) -> None:
    assert GuardTerms.of({_program.GUARDED: text}) is None


def test_a_store_has_room_for_what_may_be_open() -> None:
    assert store_room(5) == 5
    assert 0 < store_room(0) < 1 << 20 or store_room(0) == 1 << 20


@pytest.mark.parametrize("given", [[], ["http"]])
def test_names_that_are_in_a_descriptor(
    monkeypatch: pytest.MonkeyPatch, given: list[str], fds: list[int]
) -> None:
    """They are of those behind it, and a store's alone are no listeners."""
    assert _listener._NAMES == _program.NAMES
    stored = [f"socketkeep.connection.a-1-{n}.1" for n in range(5000)]
    memfd = os.memfd_create("names")
    os.write(memfd, "\0".join(stored).encode())
    # In a row, where nobody has a number.
    before = fcntl.fcntl(fds[0], fcntl.F_DUPFD_CLOEXEC, 900)
    names = fcntl.fcntl(memfd, fcntl.F_DUPFD_CLOEXEC, before + 1)
    os.close(memfd)
    assert names == before + 1
    monkeypatch.setattr(_listener, "_FIRST_INHERITED", names - len(given))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(len(given) + 1 + len(stored)))
    monkeypatch.setenv("LISTEN_FDNAMES", ":".join([*given, _program.NAMES]))
    assert _listener.listeners_are_passed() == bool(given)
    passed = _listener.passed_descriptors()
    assert [name for name, _ in passed] == given + stored
    assert [fd for _, fd in passed[len(given) :]] == list(range(names + 1, names + 5001))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(names)
    os.close(before)


def test_who_looks_what_is_passed_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "http")
    assert _listener.listeners_passed() == [("http", 3)]
    assert _listener.listeners_passed() == _listener.passed_descriptors()
    assert _listener.passed_descriptors() == []


def test_the_guard_reads_nothing_of_the_package() -> None:
    """It must run whatever is installed by then."""
    with open(_program.__file__) as file:
        assert "socketkeep._" not in file.read().replace("socketkeep._guard", "")
