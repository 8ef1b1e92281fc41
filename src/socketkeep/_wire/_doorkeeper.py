"""Limits by address: whom a server takes, before any handler has the connection.

Workers ask when they accept, and the keeper where it accepts in their place or has waited for a
PROXY header.  Behind a proxy the client's address counts, as its header tells it.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from typing import Final

from socketkeep._base._admission import Refusal
from socketkeep._base._network_set import NetworkSet
from socketkeep._config._address_lists import AddressLists
from socketkeep._config._chosen import names_networks
from socketkeep._config._server_options import ServeConfig, listener_settings
from socketkeep._wire._census import Census, Place

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_MAPPED: Final = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one
_IPV4: Final = 4  # bytes of an address
_OF_A_NETWORK: Final = 8  # bytes of an IPv6 address: who has one has the /64


class Doorkeeper:
    """The questions that one process has for each connection that it accepts.

    census: None where nothing is counted.  lists: of the files of networks.  edge: it is one that
    accepts, and no worker.
    """

    def __init__(
        self,
        config: ServeConfig,
        listeners: int,
        census: Census | None,
        lists: AddressLists,
        *,
        edge: bool = False,
    ) -> None:
        settings = listener_settings(config, listeners)
        self._settings = settings
        self._allow_by_file = bool(config.allow_file)
        self._allowed: list[NetworkSet | None] = []
        self._denied: list[NetworkSet | None] = []
        self.use(lists)
        self._most = [each.max_per_address for each in settings]
        self._census = census
        self._paces = [
            _rate(each.accept_rate) if each.of_edges == edge else None for each in settings
        ]
        self._accounts = [
            Census.account_of(number if each.accepts_alone else None)
            for number, each in enumerate(settings)
        ]
        self._rates = [_rate(each.accept_rate_per_address) for each in settings]
        self._resets = config.over_limit == "reset"

    @staticmethod
    def of(
        config: ServeConfig, listeners: int, census: Census | None, lists: AddressLists
    ) -> Doorkeeper | None:
        """Return the doorkeeper of a process; None where nothing is limited, and nobody asks."""
        if census is None and not names_networks(config, listener_settings(config, listeners)):
            return None
        return Doorkeeper(config, listeners, census, lists)

    def use(self, lists: AddressLists) -> None:
        """Go by what the files have now."""
        sets: dict[tuple[str, ...], NetworkSet] = {}

        def made(own: tuple[str, ...], more: list[str], by_file: bool) -> NetworkSet | None:
            if not (own or more or by_file):
                return None
            if own not in sets:
                sets[own] = NetworkSet([*own, *more])
            return sets[own]

        # An empty file of who is allowed allows nobody: it may have been emptied for that.
        self._allowed = [
            made(each.allow, lists.allow, self._allow_by_file) for each in self._settings
        ]
        sets = {}
        self._denied = [made(each.deny, lists.deny, False) for each in self._settings]

    @property
    def paces(self) -> bool:
        """Return whether it is to be asked, by `wait`, before anything is accepted."""
        return any(self._paces)

    def wait(self, listener: int) -> float:
        """Return in how many seconds it may accept one more, whoever comes; 0.0: now."""
        pace = self._paces[listener]
        if pace is None or self._census is None:
            return 0.0
        return self._census.wait(*pace, time.monotonic_ns(), self._accounts[listener]) / 1e9

    def accepted(self, listener: int) -> None:
        """It has accepted one: `wait` knows of that."""
        pace = self._paces[listener]
        if pace is not None and self._census is not None:
            self._census.accepted(pace[0], time.monotonic_ns(), self._accounts[listener])

    def admit(self, peer: str, listener: int) -> Place | None:
        """Let a connection in, and count it; returns what `leave` is called with at its end.

        peer: its address as text; one that is no IP address has no limit.  Raises Refusal.
        """
        packed = packed_of(peer)
        if packed is None:
            return None
        allowed, denied = self._allowed[listener], self._denied[listener]
        if denied is not None and packed in denied:
            raise Refusal("denied", "its network is denied")
        if allowed is not None and packed not in allowed:
            raise Refusal("denied", "its network is not among those that are allowed")
        most = self._most[listener]
        census = self._census
        if census is None:
            return None
        place = census.place(network_of(packed))
        rate = self._rates[listener]
        if rate is not None and not census.spend(place, *rate, time.monotonic_ns()):
            raise Refusal("rate_per_address", "too many have just come from there")
        if not most:
            return None
        if not census.enter(place, most):
            raise Refusal("max_per_address", f"there are {most} connections from there")
        return place

    def count(self, peer: str, listener: int, lane: int | None = None) -> Place | None:
        """Count a connection that another process has let in; lane: as `Census.add` has it."""
        census = self._census
        if census is None or not self._most[listener] or (packed := packed_of(peer)) is None:
            return None
        place = census.place(network_of(packed))
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


def _rate(text: str) -> tuple[int, int] | None:
    """Return the nanoseconds from one to the next, and how many may come at once."""
    if text == "off":
        return None
    rate, burst = text.split(":")
    return int(1e9 / float(rate)), int(burst)


def network_of(packed: bytes) -> bytes:
    """Return by what an address is counted: itself in IPv4, its network of 64 bits in IPv6."""
    return packed if len(packed) == _IPV4 else packed[:_OF_A_NETWORK]


def packed_of(peer: str) -> bytes | None:
    """Return the IP address of a peer, an IPv4 one that was written as IPv6 as the IPv4 it is.

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
    return packed[12:] if packed.startswith(_MAPPED) else packed
