"""From an address as people write it to the socket addresses to connect to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

from socketkeep._base._address import FdAddress, InetAddress, UnixAddress, parse_bind
from socketkeep._base._errors import AddressError, Unresolved
from socketkeep._base._forking import guard
from socketkeep._net._happy import interleave

#: ``host:port``, ``[::1]:port``, ``unix:/path``, ``unix:@name``; a host and a port; or parsed.
Address: TypeAlias = str | tuple[str, int] | InetAddress | UnixAddress

_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Candidate(NamedTuple):
    """One socket address: what socket.socket and its connect take."""

    family: int
    raw: Any


def parse(address: Address) -> InetAddress | UnixAddress:
    """Return the address of a peer.  Raises AddressError for what can only be listened on."""
    if isinstance(address, tuple):
        address = InetAddress(*address)
    parsed = parse_bind(address) if isinstance(address, str) else address
    match parsed:
        case FdAddress():
            raise AddressError(f"address {str(parsed)!r}: a descriptor is no address to connect to")
        case InetAddress(host="" | "*"):
            raise AddressError(f"address {str(parsed)!r}: the host to connect to is missing")
    return parsed


def host_of(address: InetAddress | UnixAddress) -> str | None:
    """Return whose certificate a peer at the address shows; None for a path."""
    return address.host if isinstance(address, InetAddress) else None


class Resolving:
    """The look-up of an address.  One of a name runs in a thread, for getaddrinfo(3) only blocks.

    `fileno` becomes readable when it is done; `result` is then the candidates, or raises.
    """

    def __init__(self, address: InetAddress | UnixAddress) -> None:
        self._address = address
        self._found: list[Candidate] | None = None
        self._failure: Exception | None = None
        self._done: socket.socket | None = None
        if isinstance(address, UnixAddress):
            self._found = [Candidate(socket.AF_UNIX, address.raw)]
            return
        try:
            self._found = _look_up(address, _NUMERIC)
        except OSError:
            self._done, done = socket.socketpair()
            guard(self._done)
            # A daemon: a name server that does not answer must not keep the program from ending.
            threading.Thread(target=self._run, args=(address, done), daemon=True).start()

    def _run(self, address: InetAddress, done: socket.socket) -> None:
        with done:
            try:
                self._found = _look_up(address, 0)
            except (OSError, UnicodeError) as error:
                self._failure = error
            # A byte, and not EOF alone: a child forked meanwhile holds this end too.
            with suppress(OSError):  # nobody waits for it any more
                done.send(b".")

    def fileno(self) -> int:
        """Return what becomes readable at the end, -1 when there is nothing to wait for."""
        return -1 if self._done is None else self._done.fileno()

    def result(self) -> list[Candidate] | None:
        """Return the candidates, families taking turns; None when they are not known yet.

        Raises Unresolved when the name has none.
        """
        failure = self._failure
        if failure is not None:
            text = getattr(failure, "strerror", None) or str(failure)
            raise Unresolved(
                f"failed: the name cannot be resolved: {text}",
                code=getattr(failure, "errno", None),
                operation="connect",
                peer=str(self._address),
            ) from failure
        return self._found

    def close(self) -> None:
        """Wait for it no longer."""
        if self._done is not None:
            self._done.close()


def _look_up(address: InetAddress, flags: int) -> list[Candidate]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags
    )
    candidates = dict.fromkeys(Candidate(family, raw) for family, _, _, _, raw in found)
    return interleave(candidates, lambda candidate: candidate.family)
