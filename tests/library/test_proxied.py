"""A header taken from a socket: byte for byte, in whatever pieces, and from who is believed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._net._proxied import Arrival, FromEdge, Reception
from socketkeep.proxy import DEFAULT_LIMIT, InetAddress, ProxyHeader

CLIENT, FRONT = InetAddress("192.0.2.7", 40000), InetAddress("192.0.2.1", 443)
HEADERS = (
    ProxyHeader(version=1, source=CLIENT, destination=FRONT),
    ProxyHeader(source=CLIENT, destination=FRONT, authority="chat.example", checksum=True),
    ProxyHeader(local=True),
)
LOOPBACK = ("127.0.0.0/8", "::1/128")
REQUIRED = Reception(required=True, networks=LOOPBACK)
OPTIONAL = Reception(required=False, networks=LOOPBACK)
PROXY, STRANGER = "127.0.0.1:5", "198.51.100.1:5"


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def rest(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


def reason(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(Exception, match=r"^[^\n]+$") as caught:
        call(*arguments)
    said: str = vars(caught.value)["reason"]
    return said


def peer_of(header: ProxyHeader) -> str:
    return "" if header.source is None else str(header.source)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    found = [data[begin:end] for begin, end in pairwise(places)]
    return [piece for piece in found if piece]


@given(st.sampled_from(HEADERS), st.binary(max_size=60), st.lists(st.integers(0, 999), max_size=6))
def test_in_any_pieces(header: ProxyHeader, after: bytes, cuts: list[int]) -> None:
    """The header is found whole, and what follows it is still in the kernel, to the byte."""
    raw = header.encode()
    for reception in (REQUIRED, OPTIONAL):
        with pair() as (ours, theirs):
            first, *others = pieces(raw + after, cuts)
            theirs.sendall(first)
            found: Arrival | bytes | None = reception.begin(ours, PROXY)
            taken = b""
            for piece in others:
                if not isinstance(found, Arrival):
                    found = reception.go_on(ours, PROXY, taken)
                    if isinstance(found, bytes):
                        taken = found
                theirs.sendall(piece)
            if not isinstance(found, Arrival):
                found = reception.go_on(ours, PROXY, taken)
            assert found == Arrival(peer_of(header), raw)
            assert rest(ours) == after


#: How headers begin.  Hypothesis knows the constants of what it tests, and tries these, too.
_STARTS: Final = (b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n")


@given(
    st.binary(min_size=1, max_size=40).filter(lambda data: not data.startswith(_STARTS)),
    st.lists(st.integers(0, 999), max_size=4),
)
def test_what_is_no_header(data: bytes, cuts: list[int]) -> None:
    """It is refused where one must be; else all of it comes to the handler, in its order."""
    with pair() as (ours, theirs):
        taken = b""
        found: Arrival | bytes | None = None
        for piece in pieces(data, cuts):
            theirs.sendall(piece)
            found = OPTIONAL.go_on(ours, PROXY, taken)
            if isinstance(found, Arrival):
                break
            taken = found
        if not isinstance(found, Arrival):
            found = OPTIONAL.late(taken)  # the begin of the begin of a header
        assert found.peer == found.raw.decode() == ""
        assert data.startswith(found.unread + rest(ours))
    if not any(start.startswith(data) for start in _STARTS):
        with pair() as (ours, theirs):
            theirs.sendall(data)
            assert reason(REQUIRED.begin, ours, PROXY) == "missing"


def test_nothing_is_taken_before_the_header_is_whole() -> None:
    """A first look that finds half of it leaves it where it is: another process reads it."""
    with pair() as (ours, theirs):
        raw = HEADERS[1].encode()
        theirs.sendall(raw[:-1])
        assert REQUIRED.begin(ours, PROXY) is None
        assert rest(ours) == raw[:-1]


@pytest.mark.parametrize(
    ("peer", "networks", "believed"),
    [
        ("127.0.0.1:5", LOOPBACK, True),
        ("[::1]:5", LOOPBACK, True),
        ("10.1.2.3:5", LOOPBACK, False),
        ("10.1.2.3:5", ("10.0.0.0/8",), True),
        ("10.1.2.3:5", ("10.1.2.3",), True),
        ("11.1.2.3:5", ("10.0.0.0/8",), False),
        ("[2001:db8::1]:5", ("10.0.0.0/8", "2001:db8::/32"), True),
        ("[2001:db9::1]:5", ("10.0.0.0/8", "2001:db8::/32"), False),
        ("[fe80::1%lo]:5", ("fe80::/10",), True),
        ("10.1.2.3:5", ("0.0.0.0/0", "::/0"), True),
        ("", (), True),
        ("unix:/run/proxy", (), True),
        ("unix:@10.0.0.1:5", ("192.0.2.0/24",), True),
        ("no address:5", ("0.0.0.0/0",), False),
    ],
)
def test_who_is_believed(peer: str, networks: tuple[str, ...], believed: bool) -> None:
    """Sources in the networks, and those of Unix sockets, for which their file says who may."""
    for required in (True, False):
        with pair() as (ours, theirs):
            theirs.sendall(HEADERS[0].encode())
            reception = Reception(required=required, networks=networks)
            if believed:
                found = reception.begin(ours, peer)
                assert found is not None
                assert (found.peer, found.raw) == (peer_of(HEADERS[0]), HEADERS[0].encode())
            else:
                assert reason(reception.begin, ours, peer) == "not_allowed"


def test_a_stranger() -> None:
    """Where headers are optional a stranger without one is served, at once when it speaks."""
    with pair() as (ours, theirs):
        theirs.sendall(b"hello")
        assert OPTIONAL.begin(ours, STRANGER) == Arrival()
        assert rest(ours) == b"hello"
    with pair() as (ours, _):
        assert reason(REQUIRED.begin, ours, STRANGER) == "not_allowed"


def test_its_end_and_its_time() -> None:
    """What ends or is late within a header is refused; without its begin it may be a client."""
    half = HEADERS[0].encode()[:20]
    for taken in (b"", half):
        with pair() as (ours, theirs):
            theirs.shutdown(socket.SHUT_WR)
            assert reason(REQUIRED.go_on, ours, PROXY, taken) == "cut"
        assert reason(REQUIRED.late, taken) == "late"
    with pair() as (ours, theirs):
        theirs.shutdown(socket.SHUT_WR)
        assert OPTIONAL.begin(ours, PROXY) == Arrival()
        assert reason(OPTIONAL.go_on, ours, PROXY, half) == "cut"
    assert OPTIONAL.late(b"PRO") == Arrival(unread=b"PRO")
    assert reason(OPTIONAL.late, half) == "late"


def test_a_reset_is_a_cut() -> None:
    """The proxy has given up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            ours.settimeout(5.0)
            with pytest.raises(ConnectionResetError):
                ours.recv(1)
            assert reason(REQUIRED.begin, ours, PROXY) == "cut"


def test_the_longest() -> None:
    """A header of the greatest length is taken, one byte more is refused before it has come."""
    fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    room = DEFAULT_LIMIT - 16
    body = bytes(12) + b"\xe1" + (room - 15).to_bytes(2, "big") + bytes(room - 15)
    with pair() as (ours, theirs):
        theirs.sendall(fixed + room.to_bytes(2, "big") + body + b"after")
        found = REQUIRED.begin(ours, PROXY)
        assert found is not None
        assert len(found.raw) == DEFAULT_LIMIT
        assert rest(ours) == b"after"
    with pair() as (ours, theirs):
        theirs.sendall(fixed + (room + 1).to_bytes(2, "big"))
        assert reason(REQUIRED.begin, ours, PROXY) == "malformed"


def test_what_an_edge_passes_on() -> None:
    """Its header has come before; what has none, or is more than one, is no edge's."""
    for client in (CLIENT, InetAddress("2001:db8::7", 40000)):
        front = InetAddress("::1", 443) if ":" in client.host else FRONT
        header = ProxyHeader(source=client, destination=front, authority="chat.example")
        with pair() as (ours, theirs):
            theirs.sendall(header.encode() + b"more")
            found = FromEdge().begin(ours, "")
            assert found == Arrival(peer_of(header), header.encode())
            assert rest(ours) == b"more"
    for data, refused in ((b"", "cut"), (b"GET / HTTP/1.1", "missing")):
        with pair() as (ours, theirs):
            theirs.sendall(data)
            assert reason(FromEdge().begin, ours, "") == refused
    for header in HEADERS:
        with pair() as (ours, theirs):
            theirs.sendall(header.encode())
            found = FromEdge().begin(ours, "")
            assert found == Arrival(peer_of(header), header.encode())
