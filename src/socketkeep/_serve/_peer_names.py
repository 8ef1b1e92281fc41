"""Addresses as `socket.socket` has them, from the text that a connection tells.

The text counts, not the descriptor: behind a proxy or TLS that ends in the edge it is the client's.
"""

from __future__ import annotations

import socket
from typing import TypeAlias

from socketkeep._base._address import InetAddress, UnixAddress, parse_bind
from socketkeep._base._errors import AddressError

Name: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | str


def name_of(text: str) -> Name:
    """Return the address that `text` tells, as `accept` would; "" for a client without a name."""
    try:
        address = parse_bind(text)
    except AddressError:
        return ""  # "unix:", or an address that the socket has no more
    if isinstance(address, InetAddress):
        if ":" in address.host:
            return (address.host, address.port, 0, 0)
        return (address.host, address.port)
    if isinstance(address, UnixAddress) and not address.path.startswith("pid="):
        return address.raw
    return ""


def family_of(text: str) -> socket.AddressFamily:
    """Return the address family of what `text` tells."""
    if text.startswith("unix:") or not text:
        return socket.AF_UNIX
    return socket.AF_INET6 if text.startswith("[") else socket.AF_INET
