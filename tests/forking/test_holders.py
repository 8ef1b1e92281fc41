"""`holders` and `handles`: who has a descriptor of a socket."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from socketkeep import Closed, Connection, Holder, Holders, Listener
from tests.forking.conftest import Pair
from tests.forking.support import Gate, child


def test_each_descriptor_in_each_process(pair: Pair, gate: Gate, ready: Gate) -> None:
    conn = Connection(pair[0], inherit=True)
    alone = conn.holders()
    assert [(row.pid, row.fd) for row in alone] == [(os.getpid(), conn.fileno())]
    assert conn.handles == len(alone) == 1

    def hold() -> None:
        ready.open()
        gate.wait()

    copy = os.dup(conn.fileno())
    with child(hold) as forked:
        ready.wait()
        rows = conn.holders().holders
        expected = [(pid, fd) for pid in (os.getpid(), forked.pid) for fd in (conn.fileno(), copy)]
        assert [(row.pid, row.fd) for row in rows] == sorted(expected)
        assert conn.handles == 4
        gate.open()
    os.close(copy)
    assert conn.handles == 1
    conn.abort()
    with pytest.raises(Closed, match="holders"):
        conn.holders()


def test_the_command_is_said(pair: Pair) -> None:
    conn = Connection(pair[0])
    fd = conn.fileno()
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fd]
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        rows = [row for row in conn.holders() if row.pid == running.pid]
        running.communicate()
    text = " ".join(command)
    assert rows == [Holder(running.pid, fd, text if len(text) <= 60 else f"{text[:57]}...")]
    conn.abort()


def test_a_listener(gate: Gate) -> None:
    with Listener.bind("127.0.0.1:0") as listener:
        assert [row.fd for row in listener.holders()] == [listener.fileno()]


def test_what_may_not_be_read_is_counted(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir

    def protected(path: str) -> list[str]:
        if path == "/proc/1/fd":
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    conn = Connection(pair[0])
    monkeypatch.setattr(os, "listdir", protected)
    assert conn.holders().unreadable == 1
    monkeypatch.undo()
    conn.abort()


def test_they_read_well() -> None:
    held = Holders((Holder(7, 3, "app"),), 2)
    assert str(held) == (
        "process 7 (app) by descriptor 3\n2 processes could not be looked into: that takes "
        "CAP_SYS_PTRACE, which root has outside of containers and sandboxes"
    )


def test_a_command_is_one_printable_line(pair: Pair) -> None:
    """A process cannot break the message by its command line."""
    conn = Connection(pair[0])
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        [*command, "\x1b[31m" + "x" * 100],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[conn.fileno()],
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        (row,) = (row for row in conn.holders() if row.pid == running.pid)
        running.communicate()
    assert row.command.isprintable()
    assert len(row.command) == 60
    conn.abort()
