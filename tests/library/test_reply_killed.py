"""A worker that replies is killed at each of its system calls, before it is made and after.

The kernel's ptrace(2) tells of each.  The next worker, which goes on with what the dead one has
left, may be killed in the same way.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

import pytest

from socketkeep import AsyncConnection, Connection
from tests.harness.seam import KeptRow, Leased, be_handler_of, leased
from tests.library.conftest import tcp_pair

_TRACE_ME: Final = 0
_NEXT_CALL: Final = 24  # PTRACE_SYSCALL
_SET_OPTIONS: Final = 0x4200
_END_WITH_US: Final = 0x100000  # PTRACE_O_EXITKILL

LINES: Final = (b"one", b"two")
ANSWERS: Final = [b"%d %s\n" % (n, line) for n, line in enumerate(LINES, 1)]


Body = Callable[[], None]
#: Makes what a worker has before it gets the connection; what that returns serves.
Serve = Callable[[socket.socket, Leased], Body]


def serve_sync(sock: socket.socket, given: Leased) -> Body:
    return lambda: reply(sock, given, pushes=False)


def serve_with_pushes(sock: socket.socket, given: Leased) -> Body:
    """From elsewhere, after each reply."""
    return lambda: reply(sock, given, pushes=True)


def reply(sock: socket.socket, given: Leased, *, pushes: bool) -> None:
    conn = Connection(sock, **given)
    conn.complete_reply()
    be_handler_of(conn)
    count = conn.state or 0
    while count < len(LINES):
        line = conn.recv_until(b"\n", 100)
        count += 1
        conn.reply(b"%d %s\n" % (count, line), state=count)
        if pushes:
            be_handler_of(None)
            conn.send(b"pushed\n")
            be_handler_of(conn)
    conn.release()


def serve_async(sock: socket.socket, given: Leased) -> Body:
    async def main() -> None:
        conn = AsyncConnection(sock, **given)
        await conn.complete_reply()
        be_handler_of(conn)
        count = conn.state or 0
        while count < len(LINES):
            line = await conn.recv_until(b"\n", 100)
            count += 1
            await conn.reply(b"%d %s\n" % (count, line), state=count)
        await conn.release()

    runner = asyncio.Runner()
    runner.get_loop()

    def serve() -> None:
        with runner:
            runner.run(main())

    return serve


class Killed:
    """A process that goes on until so many of its system calls have begun or ended."""

    def __init__(self, make: Callable[[], Body], stops: int) -> None:
        """ended: it came to its end before."""
        ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self.ended = False
        pid = os.fork()
        if not pid:
            status = 1
            try:
                body = make()
                assert ptrace(_TRACE_ME, 0, None, None) == 0
                os.kill(os.getpid(), signal.SIGSTOP)
                body()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSTOPPED(status), status
        assert ptrace(_SET_OPTIONS, pid, None, _END_WITH_US) == 0
        for _ in range(stops):
            assert ptrace(_NEXT_CALL, pid, None, None) == 0
            _, status = os.waitpid(pid, 0)
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                self.ended = True
                return
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def import_all(serve: Serve) -> None:
    """Have this process do it once, so that its children need not read modules."""
    ours, peer = tcp_pair()
    with ours, peer:
        peer.sendall(b"".join(line + b"\n" for line in LINES))
        serve(ours.dup(), leased(resumable=True, redeliver=True))()


def lifetimes(serve: Serve, stops: int) -> bytes | None:
    """Serve one connection, and kill each of its workers at that call but one that gets to its end.

    Returns what the peer got; None: the first worker came to its end.
    """
    kept = KeptRow()
    ours, peer = tcp_pair()
    with ours, peer:
        peer.sendall(b"".join(line + b"\n" for line in LINES))
        workers = 0
        while True:
            given = kept.after_a_crash() if workers else kept.leased()

            def make(given: Leased = given) -> Body:
                return serve(ours.dup(), given)

            # The third goes on to its end, or none would where each dies early.
            worker = Killed(make, stops if workers < 2 else 1_000_000)
            workers += 1
            if worker.ended:
                break
        ours.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: peer.recv(1000), b""))
        return None if workers == 1 else got


@pytest.mark.parametrize("serve", [serve_sync, serve_async])
def test_whenever_it_is_killed_each_reply_comes_once(serve: Any) -> None:
    import_all(serve)
    stops = 0
    while (got := lifetimes(serve, stops)) is not None:
        assert got == b"".join(ANSWERS), f"killed at stop {stops}"
        stops += 1
    assert stops > 20, "a worker that replies makes more system calls than that"


def test_whenever_it_is_killed_no_push_is_cut_or_comes_twice() -> None:
    import_all(serve_with_pushes)
    stops = 0
    while (got := lifetimes(serve_with_pushes, stops)) is not None:
        for answer in ANSWERS:
            assert got.startswith(answer), f"killed at stop {stops}: {got!r}"
            got = got.removeprefix(answer).removeprefix(b"pushed\n")
        assert not got
        stops += 1
