"""PROXY headers at the begin of connections that are accepted: from whom, whole, and how long.

A header is taken from the socket byte for byte, and what follows it stays in the kernel: it is the
handler's, whatever process that runs in.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from socketkeep._base._admission import HEADER_LIMIT, HEADER_TIME, Reason, Refusal
from socketkeep._base._errors import Malformed
from socketkeep._base._proxy_header import begins_header, read_header, source_of, source_text

_LOOK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection whose begin is known: with its header, or, where that is optional, without.

    peer: the client's address as text, "" where the header does not tell it.  raw: the header as it
    came.  unread: bytes that were taken from the socket and are no header.
    """

    peer: str = ""
    raw: bytes = b""
    unread: bytes = b""


class Reception:
    """The reception of one listener's connections.

    required: each must have a header; else those without one are served as they are.
    networks: the sources whose headers are believed, in CIDR notation.  A Unix socket's peers are
    believed: its file says who may connect.
    """

    def __init__(self, *, required: bool, networks: Iterable[str]) -> None:
        self._required = required
        self._networks = tuple(ip_network(text) for text in networks)

    def begin(self, sock: socket.socket, peer: str) -> Arrival | None:
        """Look at a connection that has just been accepted; None: more of it must come first.

        peer: its address as text, "" or "unix:…" on a Unix socket.  The socket is non-blocking
        afterwards; nothing is taken from it but a header that is whole.  Raises Refusal.
        """
        sock.setblocking(False)
        if self._required and not self._believes(peer):
            raise Refusal("not_allowed", "no PROXY header is taken from there")
        found = self._look(sock, peer, b"")
        return found if isinstance(found, Arrival) else None

    def go_on(self, sock: socket.socket, peer: str, taken: bytes) -> Arrival | bytes:
        """Look again, when something has come; return what was taken so far while more must come.

        taken: what an earlier call returned.  Raises Refusal.
        """
        found = self._look(sock, peer, taken)
        if not isinstance(found, Arrival) and len(found) > len(taken):
            _take(sock, len(found) - len(taken))
        return found

    def late(self, taken: bytes) -> Arrival:
        """Return what becomes of a connection that has had its time.  Raises Refusal."""
        if self._required or begins_header(taken):
            raise Refusal("late", f"its PROXY header was not whole within {HEADER_TIME:g} s")
        return Arrival(unread=taken)

    def _look(self, sock: socket.socket, peer: str, taken: bytes) -> Arrival | bytes:
        try:
            seen = sock.recv(HEADER_LIMIT + 1, _LOOK)
        except BlockingIOError:
            return taken
        except OSError as error:
            raise Refusal("cut", f"it ended before its header: {error.strerror}") from None
        if not seen:
            return self._ended(taken)
        data = taken + seen
        begins = begins_header(data)
        if begins is False and not self._required:
            return Arrival(unread=taken)
        if begins and not self._believes(peer):
            raise Refusal("not_allowed", "no PROXY header is taken from there")
        try:
            found = read_header(data, limit=HEADER_LIMIT)
        except Malformed as error:
            reason: Reason = "malformed" if begins else "missing"
            raise Refusal(reason, str(error).removeprefix("failed: ")) from None
        if found is None:
            return data
        header, size = found
        _take(sock, size - len(taken))
        return Arrival(source_text(header), data[:size])

    def _ended(self, taken: bytes) -> Arrival:
        if self._required or begins_header(taken):
            raise Refusal("cut", "it ended before its PROXY header was whole")
        return Arrival(unread=taken)

    def _believes(self, peer: str) -> bool:
        host, colon, _ = peer.rpartition(":")
        if not colon or peer.startswith("unix:"):
            return True
        try:
            return _is_in(host, self._networks)
        except ValueError:
            return False  # a worker says who the peer is, and it says what is no address


class FromEdge(Reception):
    """The reception of connections that an edge passes on: it has sent their header before."""

    def __init__(self) -> None:
        super().__init__(required=True, networks=())

    def begin(self, sock: socket.socket, peer: str) -> Arrival | None:
        """Look at it; see `Reception`.  Nothing is read of the header but the client's address."""
        try:
            data = sock.recv(HEADER_LIMIT, _LOOK)
        except OSError as error:
            raise Refusal("cut", f"it came without a header: {error.strerror}") from None
        found = source_of(data)
        if found is None:
            return super().begin(sock, peer)
        client, size = found
        _take(sock, size)
        return Arrival(client, data[:size])


@lru_cache(maxsize=1024)
def _is_in(host: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    address = ip_address(host.strip("[]").partition("%")[0])
    return any(address in network for network in networks)


def _take(sock: socket.socket, count: int) -> None:
    """Take bytes that were looked at."""
    while count > 0:
        count -= len(sock.recv(count))
