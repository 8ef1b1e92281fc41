"""The client as a proxy in front tells of it, by X-Forwarded-For and X-Forwarded-Proto."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from socketkeep._base._network_set import NetworkSet


class TrustedProxies:
    """The proxies that are believed."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Take networks in CIDR notation, addresses, "*" for everyone or "none" for nobody."""
        self._everyone = "*" in networks
        self._networks = NetworkSet(each for each in networks if each not in ("*", "none"))

    def __contains__(self, host: str) -> bool:
        """Return whether the proxy with this address is believed; "" is one on a Unix socket."""
        if self._everyone:
            return True
        if not host:
            return bool(self._networks)
        packed = _packed(host)
        return packed is not None and packed in self._networks

    def client(self, forwarded_for: bytes) -> str:
        """Return the client that the proxies tell, "" where they tell none.

        Each has appended whom it has got the request from.  Read from the end, the first that is
        no proxy of ours is the client: what stands before, it may have made up.
        """
        hosts = [_host(part) for part in forwarded_for.decode("latin-1").split(",")]
        for host in reversed(hosts):
            if host not in self or not host:
                return host
        return hosts[0]


def scheme(forwarded_proto: bytes) -> str:
    """Return the scheme that a proxy tells, "" where it is none of HTTP's."""
    last = forwarded_proto.rpartition(b",")[2].strip().lower()
    return {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}.get(last, "")


def _packed(host: str) -> bytes | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, host)
        except OSError:
            continue
        # An IPv4 client of a socket for both, ::ffff:10.0.0.7, is the IPv4 client.
        return packed[12:] if packed.startswith(b"\0" * 10 + b"\xff\xff") else packed
    return None


def _host(text: str) -> str:
    """Return the host of an entry, which may have a port."""
    text = text.strip()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
