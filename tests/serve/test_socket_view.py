"""A connection as a socket, and its files: what handlers of socketserver call."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator

import pytest

from socketkeep import Connection, HandlerError, WouldBlock
from socketkeep.adapters import ConnectionSocket
from tests.harness.seam import leased


@pytest.fixture
def ends() -> Iterator[tuple[ConnectionSocket, socket.socket]]:
    ours, peer = socket.socketpair()
    peer.settimeout(5)
    view = ConnectionSocket(Connection(ours, **leased(resumable=True)))
    with peer:
        yield view, peer
        view.conn.close(linger=0)


Ends = tuple[ConnectionSocket, socket.socket]


def test_lines_are_cut_at_the_limit_and_at_the_end(ends: Ends) -> None:
    view, peer = ends
    peer.sendall(b"first\nabcdefgh\nxy\r\n\nlast")
    peer.shutdown(socket.SHUT_WR)
    file = view.makefile("rb")
    assert file.readline() == b"first\n"
    assert file.readline(0) == b""
    assert file.readline(1) == b"a"
    assert file.readline(4) == b"bcde"
    assert file.readline(4) == b"fgh\n"
    assert file.readline(4) == b"xy\r\n"
    assert file.readlines() == [b"\n", b"last"]
    assert (file.readline(), file.read(), file.read1(), file.read(3)) == (b"",) * 4


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7, 1000])
@pytest.mark.parametrize("data", [b"", b"\n", b"abc", b"abcd\n", b"abcde\nab", b"\n\nabcdefg"])
def test_lines_are_those_of_a_buffered_reader(data: bytes, limit: int, ends: Ends) -> None:
    view, peer = ends
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    ours, theirs = view.makefile("rb"), io.BufferedReader(io.BytesIO(data))
    for _ in range(len(data) + 1):
        assert ours.readline(limit) == theirs.readline(limit)


def test_reads(ends: Ends) -> None:
    view, peer = ends
    peer.sendall(b"0123456789abcdef")
    file = view.makefile("rb")
    assert file.read(4) == b"0123"
    assert file.read1(2) == b"45"
    into = bytearray(3)
    assert file.readinto(into) == 3
    assert bytes(into) == b"678"
    assert file.readinto1(into) == 3
    peer.shutdown(socket.SHUT_WR)
    assert file.read(100) == b"cdef"
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        file.readline()


def test_an_unbuffered_file_gives_what_has_come(ends: Ends) -> None:
    view, peer = ends
    peer.sendall(b"GET /\nthe rest")
    file = view.makefile("rb", 0)
    assert file.readline() == b"GET /\n"
    assert file.read(100) == b"the rest"


def test_what_is_written_goes_out_before_a_commit(ends: Ends) -> None:
    view, peer = ends
    file = view.makefile("wb", -1)
    file.write(b"an answer")
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(100)
    view.commit(1)
    assert peer.recv(100) == b"an answer"
    assert view.state == 1


def test_the_last_to_close_ends_the_connection(ends: Ends) -> None:
    view, peer = ends
    reads, writes = view.makefile("rb"), view.makefile("wb", 0)
    view.close()
    writes.write(b"late")
    writes.close()
    peer.shutdown(socket.SHUT_WR)
    reads.close()
    assert peer.recv(100) == b"late"
    assert peer.recv(100) == b""


def test_modes_are_timeouts(ends: Ends) -> None:
    view, _ = ends
    assert (view.gettimeout(), view.getblocking()) == (None, True)
    view.settimeout(0)
    assert (view.timeout, view.getblocking()) == (0.0, False)
    with pytest.raises(WouldBlock):
        view.recv(1)
    view.settimeout(0.01)
    assert view.gettimeout() == 0.01
    with pytest.raises(TimeoutError):
        view.recv_into(bytearray(3))
    view.setblocking(True)
    with pytest.raises(BlockingIOError):
        view.recv(1, socket.MSG_DONTWAIT)
    with pytest.raises(BlockingIOError):
        view.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    with pytest.raises(OSError, match="MSG_DONTWAIT"):
        view.recv(1, socket.MSG_OOB)


def test_what_is_peeked_at_stays_unread(ends: Ends) -> None:
    view, peer = ends
    peer.sendall(b"hello")
    assert view.recv(2, socket.MSG_PEEK) == b"he"
    peeked = bytearray(9)
    assert view.recv_into(peeked, 3, socket.MSG_PEEK) == 3
    assert peeked[:3] == b"hel"
    assert view.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"hello"
    assert view.recv(0, socket.MSG_PEEK) == b""
    assert view.recv(100) == b"hello"
    peer.shutdown(socket.SHUT_WR)
    assert view.recv(1, socket.MSG_PEEK) == b""


def test_a_file_that_reads_ahead_is_refused_where_it_would_be_lost(ends: Ends) -> None:
    view, peer = ends
    for mode in ("r", "rw", "rwb"):
        with pytest.raises(HandlerError, match="reads ahead"):
            view.makefile(mode)
    with pytest.raises(ValueError, match="invalid mode"):
        view.makefile("a")
    text = view.makefile("w", encoding="utf-8", newline="\n")
    text.write("grüße\n")
    text.flush()
    assert peer.recv(100) == "grüße\n".encode()


def test_text_and_both_directions_where_nothing_moves() -> None:
    ours, peer = socket.socketpair()
    view = ConnectionSocket(Connection(ours))
    with view.conn, peer:
        peer.sendall(b"a line\nanother\n")
        assert view.makefile().readline() == "a line\n"
        both = view.makefile("rwb")
        both.write(b"to the peer")
        both.flush()
        assert peer.recv(100) == b"to the peer"


@pytest.mark.parametrize(
    ("text", "name", "family"),
    [
        ("10.0.0.7:4242", ("10.0.0.7", 4242), socket.AF_INET),
        ("[::1]:4242", ("::1", 4242, 0, 0), socket.AF_INET6),
        ("unix:/run/app.sock", "/run/app.sock", socket.AF_UNIX),
        ("unix:@name", "\0name", socket.AF_UNIX),
        ("unix:pid=12", "", socket.AF_UNIX),
        ("", "", socket.AF_UNIX),
    ],
)
def test_names_are_those_of_sockets(text: str, name: object, family: socket.AddressFamily) -> None:
    ours, peer = socket.socketpair()
    with Connection(ours, **leased(peer=text)) as conn, peer:
        view = ConnectionSocket(conn)
        assert view.getpeername() == name
        assert view.family is family
