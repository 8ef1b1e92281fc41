"""Nobody reads the log: nothing waits for it, what was dropped is counted and said."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from socketkeep._base import _log_sink
from tests.harness import connect, read_reply, write_handler, write_source
from tests.server.support import accepts, seats


class Unread:
    """A server whose standard error is `stderr`, which is read when the test does so."""

    def __init__(
        self,
        directory: Path,
        stderr: int,
        *options: str,
        is_async: bool = False,
        target: str = "",
    ) -> None:
        self.directory = directory
        self.bind = f"unix:{directory}/listener"
        if not target:
            target = write_handler(directory, "v0", "drained counter", is_async=is_async)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "socketkeep", "serve", target, "--bind", self.bind),
                *("--control", str(directory / "control.sock"), "--log-format", "json"),
                *("--access-log", "--guard", "off", *options),
            ],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
        self.process.wait()

    def serve(self, times: int) -> None:
        """Be so many clients that are answered, one after another."""
        for _ in range(times):
            with connect(self.bind) as peer:
                peer.sendall(b"1\n")
                assert read_reply(peer) == b"1 1 v0"


def wait_accepting(server: Unread) -> None:
    with connect_when_there(server.bind):
        pass


def connect_when_there(bind: str) -> socket.socket:
    """Connect, once somebody listens."""
    step = threading.Event()
    for _ in range(1500):
        if accepts(bind):
            return connect(bind)
        step.wait(0.02)
    raise TimeoutError(f"nobody listens at {bind}")


class Reader:
    """Reads the lines of a descriptor in a thread of its own."""

    def __init__(self, fd: int) -> None:
        self.lines: list[bytes] = []
        self._changed = threading.Condition()
        self._file = os.fdopen(fd, "rb")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._file:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def wait_dropped(self, wanted: Callable[[int], bool]) -> None:
        """Wait until a process of a pid that is wanted has said how many lines it dropped."""

        def found() -> bool:
            told = [json.loads(line) for line in self.lines if b"log lines dropped" in line]
            return any(line["lines"] > 0 and wanted(line["pid"]) for line in told)

        with self._changed:
            assert self._changed.wait_for(found, 20), self.lines[-3:]

    def end(self) -> None:
        self._thread.join(10)
        self._file.close()


def test_a_pipe_that_nobody_reads(tmp_path: Path, model: str) -> None:
    """Serving, commands and the end go on; once it is read, each process says what is missing.

    And the pipe's writing end, which a shell would share, still waits for its other writers.
    """
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    options = seats(model, 1)
    with Unread(tmp_path, write, *options, is_async=model == "async") as server:
        wait_accepting(server)
        server.serve(60)
        command = [sys.executable, "-m", "socketkeep", "reload", "--control", "control.sock"]
        for _ in range(2):
            subprocess.run(command, cwd=tmp_path, check=True, timeout=20, capture_output=True)
        server.serve(5)
        assert not fcntl.fcntl(write, fcntl.F_GETFL) & os.O_NONBLOCK
        os.close(write)
        reader = Reader(read)
        reader.wait_dropped(server.process.pid.__eq__)  # unasked
        server.serve(1)
        if model != "fork":  # where each connection's process has a line, and an end, of its own
            reader.wait_dropped(server.process.pid.__ne__)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        reader.end()
    assert all(isinstance(json.loads(line), dict) for line in reader.lines)


def test_quit_is_heard(tmp_path: Path) -> None:
    """A socket that nobody reads, as a collector's that hangs: QUIT ends the server."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        with theirs:
            options = ("-k", "prefork", "-w", "2")
            server = Unread(tmp_path, theirs.fileno(), *options)
        with server:
            wait_accepting(server)
            server.serve(60)
            server.process.send_signal(signal.SIGQUIT)
            assert server.process.wait(10) == 0


def test_a_start_that_fails_ends(tmp_path: Path) -> None:
    """With its exit code, though there is no room for the reason."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    fill(write)
    done = subprocess.run(
        [sys.executable, "-m", "socketkeep", "serve", "missing.py:handle", "--bind", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "SOCKETKEEP_RUNTIME_DIR": str(tmp_path)},
        stderr=write,
        timeout=20,
        check=False,
    )
    assert done.returncode == 4
    os.close(read)
    os.close(write)


_OTHERS = """
import logging

async def handle(conn):
    async for line in conn.lines():
        logging.getLogger("some.library").error("%s", "x" * 70_000)
        await conn.send(line + b"\\n")
"""


def test_what_libraries_log(tmp_path: Path) -> None:
    """Where the code has configured no logging it goes to standard error, and waits for nobody."""
    target = write_source(tmp_path, _OTHERS)
    read, write = os.pipe()
    with Unread(tmp_path, write, "-k", "async", target=target) as server:
        wait_accepting(server)
        with connect(server.bind) as peer:
            for _ in range(3):
                peer.sendall(b"1\n")
                assert read_reply(peer) == b"1"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    os.close(read)
    os.close(write)


def fill(fd: int) -> None:
    """Leave no room in what a descriptor writes to, by a description of one's own."""
    own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        while True:
            os.write(own, b"x")
    except BlockingIOError:
        pass
    finally:
        os.close(own)


@pytest.fixture(params=["pipe", "terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """What is read from and written to, of each kind."""
    ours, theirs = os.pipe() if request.param == "pipe" else os.openpty()
    if request.param == "pipe":
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_a_full_one_has_no_room(ends: tuple[int, int]) -> None:
    """And writing says so at once, however often."""
    _, theirs = ends
    fill(theirs)
    sink = _log_sink.descriptor_sink(theirs)
    for _ in range(3):
        with pytest.raises(_log_sink.NoRoom):
            sink.write(b"a line\n")
    sink.close()


def test_without_a_description_of_its_own(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it wait where the output cannot be opened anew, as after rights were dropped."""
    ours, theirs = ends

    def refused(*_: object, **__: object) -> int:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr("os.open", refused)
        sink = _log_sink.descriptor_sink(theirs)
    sink.write(b"a line\n")
    assert os.read(ours, 100).rstrip() == b"a line"
    fill(theirs)
    with pytest.raises(_log_sink.NoRoom):
        sink.write(b"a line\n")
    sink.close()


def test_the_rest_of_a_line_goes_first() -> None:
    """A long line of which a part found room is whole in the end, and no other is in it."""
    read, write = os.pipe()
    size = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    sink = _log_sink.descriptor_sink(write)
    long = b"a" * (size + 100) + b"\n"
    sink.write(long)
    with pytest.raises(_log_sink.NoRoom):
        sink.write(b"dropped\n")
    text = os.read(read, size)
    sink.write(b"b\n")
    os.close(write)
    sink.close()
    with os.fdopen(read, "rb") as file:
        assert text + file.read() == long + b"b\n"


def test_at_the_descriptor_limit(ends: tuple[int, int]) -> None:
    """What has to be said then is said by the descriptor that was passed, and waits no more."""
    ours, theirs = ends
    sink = _log_sink.borrowed_sink(theirs)
    sink.write(b"a line\n")
    assert os.read(ours, 100).rstrip() == b"a line"
    fill(theirs)
    with pytest.raises(_log_sink.NoRoom):
        sink.write(b"a line\n")
    sink.close()
    os.fstat(theirs)


def test_room_for_a_burst() -> None:
    """A pipe of the usual size is made to take more, and one of another size is left alone."""
    for size, then in ((65536, 1 << 20), (4096, 4096), (1 << 17, 1 << 17)):
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, size)
        _log_sink.descriptor_sink(write).close()
        assert fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) == then
        os.close(read)
        os.close(write)


def test_a_number_that_was_closed_and_given_away() -> None:
    """User code closes all descriptors: the next connection has the number, and gets no log."""
    read, write = os.pipe()
    sink = _log_sink.descriptor_sink(write)
    number = sink._fd
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(theirs.fileno(), number)
        assert not sink.lives
        sink.close()
        os.write(number, b"still open")
        assert ours.recv(100) == b"still open"
    for fd in (read, write, number):
        os.close(fd)
