"""`serve_forking`: a process a connection, by a real program, seen by its clients."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from socketkeep import Connection, ForkingServer, HandlerError, Listener, Released
from tests.forking.support import PATIENCE, child, finished, program


class Server:
    """A running program that serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().rpartition(":")
        assert port, process.stderr.read() if process.stderr else ""
        self._address = host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=PATIENCE)

    def ask(self, sock: socket.socket, line: bytes = b"hello\n") -> bytes:
        sock.sendall(line)
        with sock.makefile("rb") as file:
            return file.readline()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def children(self) -> list[int]:
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            return [int(pid) for pid in file.read().split()]

    def wait_until_it_accepts_no_more(self) -> None:
        """Connect until nobody answers; who does answer had not heard the signal yet."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with self.connect() as late:
                late.sendall(b"late\n")
                late.settimeout(0.2)
                try:
                    late.recv(100)
                except TimeoutError:
                    return
        raise AssertionError("it still accepts")

    def wait_for_children(self, count: int) -> None:
        end = time.monotonic() + PATIENCE
        while len(self.children()) != count:
            assert time.monotonic() < end, f"{self.children()}, not {count} children"
            time.sleep(0.005)

    def finished(self) -> tuple[str, str]:
        return finished(self.process)


@contextmanager
def serving(what: str) -> Iterator[Server]:
    with program("serve", what) as process:
        yield Server(process)


def test_each_connection_has_a_process_and_none_is_left() -> None:
    """Children are reaped as they end; the peer sees EOF though siblings live."""
    with serving("echo") as server:
        first, second = server.connect(), server.connect()
        with first, second:
            pids = {int(server.ask(sock).split()[0]) for sock in (first, second)}
            assert len(pids) == 2
            assert server.process.pid not in pids
            assert set(server.children()) == pids
            first.shutdown(socket.SHUT_WR)
            assert first.recv(1) == b""
            server.wait_for_children(1)
            assert server.ask(second).endswith(b" hello\n")
        server.wait_for_children(0)
        server.signal(signal.SIGTERM)
        output, errors = server.finished()
    assert output == "ended, 0 children\n"
    assert errors == ""


def test_at_the_limit_connections_wait_and_children_are_reaped() -> None:
    with serving("two") as server:
        socks = [server.connect() for _ in range(3)]
        try:
            for sock in socks[:2]:
                server.ask(sock)
            socks[2].sendall(b"waits\n")
            socks[2].settimeout(0.2)
            with pytest.raises(TimeoutError):
                socks[2].recv(100)
            assert len(server.children()) == 2
            socks[0].close()
            socks[2].settimeout(PATIENCE)
            assert socks[2].recv(100).endswith(b" waits\n")
            assert len(server.children()) == 2
        finally:
            for sock in socks:
                sock.close()


def test_a_connection_in_work_ends_by_itself() -> None:
    """Graceful: after SIGTERM the open connection is still served, and no new one is."""
    with serving("echo") as server:
        with server.connect() as sock:
            server.ask(sock)
            server.signal(signal.SIGTERM)
            assert server.ask(sock).endswith(b" hello\n")
            server.wait_until_it_accepts_no_more()
            assert server.ask(sock).endswith(b" hello\n")
        output, _ = server.finished()
    assert output == "ended, 0 children\n"


def test_at_the_deadline_the_peer_sees_eof() -> None:
    """Orderly, not a reset; and the signal to the child itself does nothing."""
    with serving("two") as server, server.connect() as sock:
        pid = int(server.ask(sock).split()[0])
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        assert server.ask(sock).startswith(b"%d " % pid)
        server.signal(signal.SIGTERM)
        assert sock.recv(1) == b""
        sock.close()
        output, errors = server.finished()
    assert output == "ended, 0 children\n"
    assert errors == ""


def test_a_resumable_handler_ends_where_it_waits() -> None:
    """Long before the deadline: nothing is uncommitted."""
    with serving("resumable") as server, server.connect() as sock:
        assert server.ask(sock) == b"hello\n"
        server.signal(signal.SIGINT)
        assert sock.recv(1) == b""
        sock.close()
        output, _ = server.finished()
    assert output == "ended, 0 children\n"


def test_a_second_signal_ends_it_now() -> None:
    with serving("stuck") as server, server.connect() as sock:
        assert sock.recv(100) == b"stuck\n"
        server.signal(signal.SIGTERM)
        server.wait_until_it_accepts_no_more()
        server.signal(signal.SIGTERM)
        assert sock.recv(1) == b""
        output, errors = server.finished()
    assert output == "ended, 0 children\n"
    assert "died: killed by SIGKILL" in errors


def test_a_killed_child_is_told_of() -> None:
    with serving("echo") as server:
        with server.connect() as sock:
            pid = int(server.ask(sock).split()[0])
            os.kill(pid, signal.SIGKILL)
            assert sock.recv(1) == b""
        server.wait_for_children(0)
        server.signal(signal.SIGTERM)
        _, errors = server.finished()
    assert "WARNING the process of 127.0.0.1:" in errors
    assert "died: killed by SIGKILL" in errors


def test_a_failing_handler_is_logged_and_the_peer_sees_eof() -> None:
    with serving("failing") as server:
        with server.connect() as sock:
            sock.sendall(b"go\n")
            assert sock.recv(1) == b""
        server.wait_for_children(0)
        server.signal(signal.SIGTERM)
        _, errors = server.finished()
    assert "ERROR the handler of 127.0.0.1:" in errors
    assert "LookupError: a fault of the handler's" in errors


def test_a_client_that_resets_is_no_fault_of_the_handlers() -> None:
    with serving("echo") as server:
        with server.connect() as sock:
            server.ask(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.wait_for_children(0)
        server.signal(signal.SIGTERM)
        _, errors = server.finished()
    assert errors == ""


def test_a_child_holds_its_connection_and_nothing_else() -> None:
    """No listener, no sibling's connection, no pidfd: the eventfd is for the order to end."""
    with serving("holding") as server, server.connect() as first, server.connect() as second:
        for sock in (first, second):
            held = server.ask(sock).decode().split()
            assert [word.partition(":")[0] for word in held] == ["anon_inode", "socket"]
            assert held[0] == "anon_inode:[eventfd]"


def test_with_guarded_forks() -> None:
    """The accepted socket is given to its child, the listener is not."""
    with serving("guarded") as server, server.connect() as sock:
        assert server.ask(sock).endswith(b" hello\n")


def test_the_programs_other_children_are_left_alone() -> None:
    """No waitpid(-1): who started a process gets its status."""
    with serving("other children") as server:
        with server.connect() as sock:
            server.ask(sock)
        server.wait_for_children(1)
        server.signal(signal.SIGTERM)
        output, _ = server.finished()
    assert output.splitlines()[-1] == "the other: 7"


def test_a_fork_that_fails_loses_no_connection() -> None:
    with serving("no process") as server:
        with server.connect() as sock:
            assert server.ask(sock).endswith(b" hello\n")
        server.signal(signal.SIGTERM)
        _, errors = server.finished()
    assert errors.count("accepting again when there is room") == 1


def test_no_descriptor_for_a_connection() -> None:
    """It waits in the kernel's queue, without a spin, until there is one."""
    with serving("no descriptor") as server, server.connect() as sock:
        sock.sendall(b"hello\n")
        assert server.process.stderr is not None
        assert "out of file descriptors" in server.process.stderr.readline()
        server.signal(signal.SIGUSR1)
        assert sock.recv(100).endswith(b" hello\n")
        server.signal(signal.SIGTERM)
        sock.close()
        server.finished()


def test_stopped_by_another_thread() -> None:
    with serving("thread") as server:
        with server.connect() as sock:
            server.ask(sock)
        output, _ = server.process.communicate("stop\n", timeout=PATIENCE)
    assert output == "ended, 0 children\n"


def test_an_interrupt_stops_it_gracefully_and_is_raised() -> None:
    with serving("interrupt") as server:
        with server.connect() as sock:
            server.ask(sock)
            server.signal(signal.SIGINT)
            assert server.ask(sock).endswith(b" hello\n")
        output, _ = server.finished()
    assert output == "interrupted, 0 children\n"


def test_what_cannot_be_served() -> None:
    async def handler(conn: Connection) -> None:
        raise AssertionError

    with Listener.bind("127.0.0.1:0") as listener:
        with pytest.raises(HandlerError, match="is async"):
            ForkingServer(listener, handler)
        with pytest.raises(ValueError, match="max_children is at least 1, not 0"):
            ForkingServer(listener, print, max_children=0)
        with ForkingServer(listener, print) as server:
            assert server.children == 0
            server.stop()
            with pytest.raises(RuntimeError, match="runs once"):
                server.run()
        server.close()
        server.stop()

        def in_child() -> None:
            with pytest.raises(Released, match="forked by"):
                listener.serve_forking(print)

        with child(in_child):
            pass
