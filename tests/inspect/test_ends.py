"""`fin` and `abort`: connections of other processes are ended, and their peers see it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from socketkeep._inspect import _borrowing
from socketkeep.inspect import HeldSocket, Outcome, abort, choose, fin, holders
from tests.inspect.support import HOST, Actor, acting, wait_for


@pytest.fixture
def actor() -> Iterator[Actor]:
    with acting() as made:
        yield made


@pytest.fixture
def client(actor: Actor) -> Iterator[socket.socket]:
    """A connection to the actor, whose end of it is `conn`; it goes on listening."""
    port = actor.listen()
    with socket.create_connection((HOST, port), timeout=10, source_address=(HOST, 0)) as made:
        actor.do("conn, _ = listener.accept()")
        yield made


def end_of(actor: Actor, name: str = "conn") -> HeldSocket:
    (held,) = holders(f"{actor.pid}:{actor.do(f'out = {name}.fileno()')}")
    return held


def test_fin_after_all_that_was_sent(actor: Actor, client: socket.socket) -> None:
    """Whoever holds it: a forked child's handle does not hinder it.  The process can receive."""
    actor.do("fork_holder()\nconn.sendall(b'all of it')")
    outcome = fin(end_of(actor))
    assert outcome == Outcome(
        "{}:{} with {}:{}".format(*client.getpeername(), *client.getsockname()), True
    )
    assert client.recv(100) == b"all of it"
    assert client.recv(100) == b""
    client.sendall(b"still")
    assert actor.do("out = conn.recv(5).decode()") == "still"
    assert actor.do(
        "signal.signal(signal.SIGPIPE, signal.SIG_IGN)\n"
        "try:\n    conn.send(b'x')\nexcept OSError as error:\n    out = error.errno"
    ) == (errno.EPIPE)


def test_abort_resets(actor: Actor, client: socket.socket) -> None:
    """The peer gets RST at once, though a forked child has a handle, too."""
    actor.do("fork_holder()")
    assert abort(end_of(actor)).done
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    received = "try:\n    conn.recv(1)\nexcept OSError as error:\n    out = error.errno"
    assert actor.do(received) == errno.ECONNRESET


def test_abort_ends_what_lingers(actor: Actor, client: socket.socket) -> None:
    """A connection in FIN_WAIT2, whose peer does not close."""
    actor.do("conn.shutdown(socket.SHUT_WR)")
    wait_for(lambda: end_of(actor).state == "FIN_WAIT2", "our FIN acknowledged")
    assert fin(end_of(actor)).reason == "its FIN has been sent already"
    assert abort(end_of(actor)).done
    assert end_of(actor).state in ("CLOSED", "")
    (mine,) = holders(f"{os.getpid()}:{client.fileno()}")
    assert mine.state in ("CLOSED", "")  # before it was CLOSE_WAIT


@pytest.mark.parametrize("verb", [fin, abort])
def test_unix_sockets(actor: Actor, verb: Callable[[HeldSocket], Outcome]) -> None:
    name = f"\0socketkeep-test-{os.getpid()}"
    actor.do(
        f"listener = socket.socket(socket.AF_UNIX)\nlistener.bind({name!r})\nlistener.listen()"
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
        actor.do("conn, _ = listener.accept()")
        chosen = choose(f"unix:@{name[1:]}", "fin")
        assert [held.inode for held in chosen.sockets] == [end_of(actor).inode]
        assert verb(chosen.sockets[0]).done
        client.settimeout(10)
        assert client.recv(1) == b""


def test_the_mode_of_the_holder_is_not_touched(actor: Actor, client: socket.socket) -> None:
    """A default timeout of this process would make the borrowed socket non-blocking for all."""
    socket.setdefaulttimeout(5)
    try:
        assert fin(end_of(actor)).done
    finally:
        socket.setdefaulttimeout(None)
    assert end_of(actor).nonblocking is False


def test_what_is_chosen(actor: Actor, client: socket.socket) -> None:
    """Connections that have the address as their own, not their peers, and never a listener."""
    address = "{}:{}".format(*client.getpeername())
    with socket.create_connection(client.getpeername()):
        chosen = choose(address, "fin")
        assert [held.inode for held in chosen.sockets] == [end_of(actor).inode]
        assert sorted(left.reason.partition(":")[0] for left in chosen.left) == [
            "it is a listener, and would end for every process that has it",
            "no handle can be borrowed",
        ]
    mine = choose("{}:{}".format(*client.getsockname()), "fin")
    assert [held.holders[0].pid for held in mine.sockets] == [os.getpid()]


def test_another_socket_under_the_same_number(actor: Actor, client: socket.socket) -> None:
    """What was looked at is gone, and its number is another's now: that one is left alone."""
    before = end_of(actor)
    actor.do("fd = conn.fileno()\nother, end = socket.socketpair()\nos.dup2(other.fileno(), fd)")
    assert abort(before) == Outcome(
        "{}:{} with {}:{}".format(*client.getpeername(), *client.getsockname()),
        False,
        "no process holds it any more",
    )
    assert actor.do("end.send(b'x')\nout = other.recv(1).decode()") == "x"
    actor.do("os.dup2(end_read, fd)")
    assert abort(before).reason == "no process holds it any more"


def test_without_the_right(
    actor: Actor, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int, fd: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(_borrowing, "_get", refused)
    outcome = fin(end_of(actor))
    assert not outcome.done
    assert outcome.reason.startswith(f"no right to trace process {actor.pid} (")
