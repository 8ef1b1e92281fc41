"""Limits by address: whom a server takes, before any handler has the connection.

Workers ask when they accept, and the keeper where it accepts in their place or has waited for a
PROXY header.  Behind a proxy the client's address counts, as its header tells it.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Final

from socketkeep._base._admission import Refusal
from socketkeep._config._server_options import ServeConfig, listener_settings
from socketkeep._wire._census import Census, Place

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_MAPPED: Final = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one
_OF_A_NETWORK: Final = 8  # bytes of an IPv6 address: who has one has the /64


def counts_by_address(config: ServeConfig, listeners: int) -> bool:
    """Whether connections are counted by address, so that a census is needed."""
    return any(each.max_per_address for each in listener_settings(config, listeners))


class Doorkeeper:
    """What one process asks of each connection that it accepts.

    census: None where nothing is counted.
    """

    def __init__(self, config: ServeConfig, listeners: int, census: Census | None) -> None:
        settings = listener_settings(config, listeners)
        self._most = [each.max_per_address for each in settings]
        self._census = census
        self._resets = config.over_limit == "reset"

    @staticmethod
    def of(config: ServeConfig, listeners: int, census: Census | None) -> Doorkeeper | None:
        """Return the doorkeeper of a process; None where nothing is limited, and nobody asks."""
        return None if census is None else Doorkeeper(config, listeners, census)

    def admit(self, peer: str, listener: int) -> Place | None:
        """Let a connection in, and count it; returns what `leave` is called with at its end.

        peer: its address as text; one that is no IP address has no limit.  Raises Refusal.
        """
        most = self._most[listener]
        census = self._census
        if census is None or not most or (address := network_of(peer)) is None:
            return None
        place = census.place(address)
        if not census.enter(place, most):
            raise Refusal("max_per_address", f"there are {most} connections from there")
        return place

    def count(self, peer: str, listener: int, lane: int | None = None) -> Place | None:
        """Count a connection that another process has let in; lane: as `Census.add` has it."""
        census = self._census
        if census is None or not self._most[listener] or (address := network_of(peer)) is None:
            return None
        place = census.place(address)
        census.add(place, 1, lane)
        return place

    def leave(self, place: Place) -> None:
        """A connection that was counted has ended, or is another process's."""
        assert self._census is not None
        self._census.add(place, -1)

    def turn_away(self, sock: socket.socket) -> None:
        """Close a connection that was refused, as the options say, without waiting for its peer."""
        with suppress(OSError):  # the peer has ended it
            if self._resets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            else:
                sock.shutdown(socket.SHUT_WR)  # with bytes unread its close would be a reset
        sock.close()


def network_of(peer: str) -> bytes | None:
    """Return by what a peer is counted: its IPv4 address, or its IPv6 network of 64 bits.

    peer: as `format_address` has it.  None: it has no such address.
    """
    host, colon, _ = peer.rpartition(":")
    if not colon:
        return None
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        packed = socket.inet_pton(socket.AF_INET6, host.strip("[]").partition("%")[0])
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed[:_OF_A_NETWORK]
