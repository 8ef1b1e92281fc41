"""`socketkeep top`: what it draws, and how it leaves the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from socketkeep._admin._feed import Feed
from socketkeep._cli._top_screen import ASCII_MARKS, TopScreen
from tests.admin.web import LIVE, STATUS, connection, worker
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, done
from tests.harness.command import main

BOTH = replace(
    LIVE,
    connections=[
        connection("1-1-1", 71, 0, age=9.0),
        connection("1-1-2", 71, 0, busy=True),
        connection("1-1-3", None, None, state="parked"),
    ],
)


def drawn(lines: list[str]) -> str:
    """Return what is seen of lines: without their colours."""
    return "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines)


def row(text: str, name: str) -> str:
    (found,) = (line for line in text.splitlines() if name in line)
    return found


def test_seats_and_moves() -> None:
    """A dot a connection; one that another worker has now is marked for a while."""
    feed, screen = Feed(), TopScreen(ASCII_MARKS)
    text = drawn(screen.lines(feed.look(BOTH, 0.0), 0.0, 100, 40))
    assert text.startswith("chat  running  generation 1, 3 connections, up 12s")
    assert row(text, "seat 0").endswith(" 2 oO")
    assert ", waited 0.125s at most  lost 0" in row(text, "moved")
    assert row(text, "keeper").endswith(" also held .")
    gone = replace(BOTH, connections=[connection("1-1-1", None, None)])
    screen.lines(feed.look(gone, 1.0), 1.0, 100, 40)
    back = replace(BOTH, connections=[connection("1-1-1", 72, 1), connection("1-1-4", 72, 1)])
    text = drawn(screen.lines(feed.look(back, 2.0), 2.0, 100, 40))
    assert row(text, "seat 1").endswith(" #o")
    text = drawn(screen.lines(feed.look(back, 4.5), 4.5, 100, 40))
    assert row(text, "seat 1").endswith(" oo")


def test_small_windows() -> None:
    """Nothing is wider or higher than the window; what is left out is counted."""
    many = [connection(f"1-1-{n}", 71, 0) for n in range(300)]
    workers = [worker(0, 71, connections=300), *(worker(n, 100 + n) for n in range(1, 30))]
    report = replace(LIVE, workers=workers, connections=many)
    feed, screen = Feed(), TopScreen(ASCII_MARKS)
    frame = feed.look(report, 0.0)
    for width, height in ((80, 24), (20, 5), (1, 1)):
        lines = screen.lines(frame, 0.0, width, height)
        assert len(lines) <= height
        assert all(len(line) <= width for line in drawn(lines).splitlines())
    text = drawn(screen.lines(frame, 0.0, 80, 24))
    assert re.search(r"seat 0 .* o+ \+\d+$", text, re.MULTILINE)
    assert "lines more: make the window higher" in text


def test_hostile_names() -> None:
    """What a path or a name says does not steer the terminal."""
    report = replace(LIVE, status=replace(STATUS, name="a\x1b[2Jb\nc"))
    lines = TopScreen(ASCII_MARKS).lines(Feed().look(report, 0.0), 0.0, 100, 40)
    assert r"a\x1b[2Jb\nc" in drawn(lines)


@pytest.mark.system
def test_without_a_terminal(runtime: Path, cli: Cli) -> None:
    """A line each time, as often as was asked for."""
    with FakeServer(runtime / "chat.sock", [done(msgspec.to_builtins(BOTH))]) as server:
        finished = cli("top", "--name", "chat", "-n", "2", "--interval", "0.1")
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert server.requests == [{"command": "live", "arguments": {"most": 2000}}] * 2
    first, second = finished.stdout.splitlines()
    assert " chat running generation=1 workers=2 connections=3 " in first
    assert second[9:] == first[9:]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (done(exit_code=2, error="no command 'live'"), "the server is of an earlier version"),
        (done(result={}), "the server's answer cannot be read"),
        (b"", "ended before it had answered"),
    ],
)
def test_servers_that_cannot_be_shown(
    runtime: Path, capsys: pytest.CaptureFixture[str], answer: bytes, said: str
) -> None:
    """One line, exit code 1."""
    with FakeServer(runtime / "chat.sock", [answer]):
        assert main(["top"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


class Terminal:
    """A terminal with the command in it."""

    def __init__(self, keyboard: int, process: subprocess.Popen[bytes]) -> None:
        self.keyboard = keyboard
        self.process = process
        self.text = ""

    def read_until(self, wanted: str, timeout: float = 30.0) -> None:
        """Read until it has written `wanted`."""
        deadline = time.monotonic() + timeout
        while wanted not in self.text:
            ready, _, _ = select.select([self.keyboard], [], [], deadline - time.monotonic())
            assert ready, f"no {wanted!r}: {self.text!r}"
            self.text += os.read(self.keyboard, 65536).decode()


@contextmanager
def terminal(*arguments: str) -> Iterator[tuple[Terminal, int]]:
    """Run the command in a terminal; yields it, and the terminal's other side."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "socketkeep", "top", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    try:
        yield Terminal(ours, process), theirs
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


@pytest.mark.system
@pytest.mark.parametrize("how", ["q", "signal", "the server goes"])
def test_in_a_terminal(runtime: Path, how: str) -> None:
    """It takes a screen of its own, and gives the terminal back as it was, however it ends."""
    server = FakeServer(runtime / "chat.sock", [done(msgspec.to_builtins(BOTH))])
    with server, terminal("--interval", "0.1") as (shown, side):
        before = termios.tcgetattr(side)
        shown.read_until("●")
        assert "\x1b[?1049h" in shown.text
        if how == "q":
            os.write(shown.keyboard, b"q")
        elif how == "signal":
            shown.process.send_signal(signal.SIGINT)
        else:
            server.pieces = []
        shown.read_until("\x1b[?25h\x1b[?1049l")
        if how == "the server goes":
            shown.read_until("socketkeep: error: the server at")
        assert shown.process.wait(30) == (1 if how == "the server goes" else 0)
        assert termios.tcgetattr(side) == before
