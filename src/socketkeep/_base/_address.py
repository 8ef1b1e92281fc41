"""Addresses: the ones a server is told to bind, and the ones people read in logs."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from socketkeep._base._errors import AddressError
from socketkeep._base._printable import printable_name

# sizeof(sockaddr_un.sun_path) is 108 on Linux; the last byte is the terminating NUL.
_UNIX_PATH_MAX: Final = 107
_CREDENTIALS: Final = struct.Struct("3i")
_FORMS: Final = "host:port, [ipv6]:port, :port, unix:/path or fd://N"


@dataclass(frozen=True, slots=True)
class InetAddress:
    """A host and a port.

    Attributes:
        host: A name or an IP address; "" means every interface, by IPv6 and IPv4.
        port: The port, 0 for a free one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The address of a Unix socket.

    Attributes:
        path: A path in the file system, or with a leading "@" a name in Linux's abstract namespace.
    """

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def abstract(self) -> bool:
        return self.path.startswith("@")

    @property
    def raw(self) -> str:
        """Return what socket.bind and socket.connect take."""
        return "\0" + self.path[1:] if self.abstract else self.path


@dataclass(frozen=True, slots=True)
class FdAddress:
    """A descriptor that the process inherited and that already listens."""

    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


BindAddress: TypeAlias = InetAddress | UnixAddress | FdAddress


def parse_bind(text: str) -> BindAddress:
    """Return the address that `text` names.

    Forms: ``host:port``, ``[::1]:port``, ``:port`` (every interface, IPv6 and IPv4),
    ``unix:/path``, ``unix:@name`` (abstract), ``fd://N``.
    Raises AddressError, a ValueError, which says what is wrong.
    """
    if text.startswith("fd://"):
        return FdAddress(_number(text, text[5:], "a descriptor's number", 2**31 - 1))
    if text.startswith("unix:"):
        return _unix(text, text[5:])
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif text.startswith("[") or text.endswith("]"):
        raise AddressError(f"address {text!r}: the port is missing, as in [::1]:7000")
    elif ":" in host:
        raise AddressError(f"address {text!r}: write an IPv6 address in brackets, as in [::1]:7000")
    elif not colon:
        hint = f":{text}" if text.isdecimal() else f"{text}:7000"
        raise AddressError(f"address {text!r}: the port is missing, as in {hint}; forms: {_FORMS}")
    if any(c.isspace() or c == "/" for c in host):
        raise AddressError(f"address {text!r}: not a host name; forms: {_FORMS}")
    return InetAddress(host, _number(text, port, "a port", 65535))


def _unix(text: str, path: str) -> UnixAddress:
    if not path or path == "@":
        raise AddressError(f"address {text!r}: the path is missing, as in unix:/run/app.sock")
    if "\0" in path:
        raise AddressError(f"address {text!r}: a path has no NUL in it")
    size = len(path.encode("utf-8", "surrogateescape"))
    if size > _UNIX_PATH_MAX:
        raise AddressError(
            f"address {text!r}: the path has {size} bytes, a Unix socket's at most {_UNIX_PATH_MAX}"
        )
    return UnixAddress(path)


def _number(text: str, digits: str, what: str, most: int) -> int:
    if not (digits.isascii() and digits.isdecimal()) or int(digits) > most:
        raise AddressError(f"address {text!r}: {digits!r} is not {what} (0 to {most})")
    return int(digits)


def format_address(raw: Any) -> str:
    """Return a socket address, as getsockname and accept give it, in the form people read.

    ``127.0.0.1:7000``, ``[::1]:7000``, ``unix:/path``, ``unix:@name``, ``unix:`` when it has no
    name.  An IPv4 peer of an IPv6 listener is written as IPv4.  A Unix name, which a peer chooses
    freely, is written so that it can be printed, and encoded: see `printable_name`.
    """
    if type(raw) is tuple and type(raw[0]) is str:  # at each accept, and `match` takes long
        host, port = raw[0], raw[1]
        if ":" not in host:
            return f"{host}:{port}"
        if host.startswith("::ffff:") and "." in host:
            return f"{host[7:]}:{port}"
        return f"[{host}]:{port}"
    match raw:
        case bytes():
            return (
                f"unix:@{printable_name(raw[1:])}"
                if raw[:1] == b"\0"
                else f"unix:{printable_name(raw)}"
            )
        case str():
            return f"unix:{printable_name(raw)}"
        case _:
            return str(raw)


def local_text(sock: socket.socket) -> str:
    """Return this side's address as text, "" when the socket has none any more."""
    try:
        return format_address(sock.getsockname())
    except OSError:
        return ""


def peer_text(sock: socket.socket) -> str:
    """Return the peer's address as text, "" when it is gone.

    A Unix client usually has no name; then its process is named: ``unix:pid=1234``.
    """
    try:
        raw = sock.getpeername()
        if raw or sock.family != socket.AF_UNIX:
            return format_address(raw)
        return f"unix:pid={credentials_of(sock)[0]}"
    except OSError:
        return ""


def credentials_of(sock: socket.socket) -> tuple[int, int]:
    """Return the pid and the uid of who has connected to a Unix socket.  Raises OSError."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid, uid
