"""The subject of an inspection: an address, a process, or one of its descriptors."""

from __future__ import annotations

import os
import socket
from typing import Final, TypeAlias

from msgspec import Struct

from socketkeep._base._address import FdAddress, InetAddress, UnixAddress, parse_bind
from socketkeep._base._errors import AddressError
from socketkeep._inspect._results import HeldSocket

#: No Linux system has a pid beyond this (PID_MAX_LIMIT).
_MAX_PID: Final = 2**22
_FORMS: Final = (
    "an address (127.0.0.1:7000, :7000, [::1]:7000, unix:/path, unix:@name), a pid, or pid:fd"
)


class ProcessSockets(Struct, frozen=True):
    """The sockets of a process; with `fd` the one of that descriptor."""

    pid: int
    fd: int | None = None

    def __str__(self) -> str:
        where = f"process {self.pid}"
        return where if self.fd is None else f"descriptor {self.fd} of {where}"


What: TypeAlias = InetAddress | UnixAddress | ProcessSockets


def parse_what(text: str) -> What:
    """Return what `text` means.  Raises AddressError, a ValueError, which says what is wrong."""
    pid, colon, fd = text.partition(":")
    if _is_number(pid):
        if not colon:
            return ProcessSockets(_pid(pid))
        if _is_number(fd):
            return ProcessSockets(_pid(pid), int(fd))
    try:
        address = parse_bind(text)
    except AddressError as error:
        raise AddressError(f"{text!r} is not {_FORMS}: {error}") from None
    if isinstance(address, FdAddress):
        raise AddressError(f"{text!r} is not {_FORMS}: whose descriptor? write pid:{address.fd}")
    if isinstance(address, InetAddress) and not address.port:
        raise AddressError(f"{text!r}: no socket has port 0; give the port it listens on")
    return address


def own_ends(what: What, sockets: tuple[HeldSocket, ...]) -> tuple[HeldSocket, ...]:
    """Return those that have the address as their own, or else all: those whose peer has it."""
    if isinstance(what, InetAddress):
        port = f":{what.port}"
        return tuple(held for held in sockets if held.local.endswith(port)) or sockets
    if isinstance(what, UnixAddress):
        paths = {what.path} if what.abstract else {what.path, os.path.abspath(what.path)}
        names = {f"unix:{path}" for path in paths}
        return tuple(held for held in sockets if held.local in names)
    return sockets


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _pid(digits: str) -> int:
    if not 0 < int(digits) <= _MAX_PID:
        raise AddressError(f"{digits!r} is not a pid; a port is written :{digits}")
    return int(digits)


def hosts_of(address: InetAddress) -> frozenset[str] | None:
    """Return the numeric hosts that `address` means, None for any.

    Raises AddressError when its name does not resolve.
    """
    if not address.host:
        return None
    try:
        found = socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise AddressError(f"{str(address)!r}: the host does not resolve: {error}") from None
    return frozenset(str(info[4][0]).removeprefix("::ffff:") for info in found)
