"""The kernel's table of sockets, over netlink (sock_diag(7)).

It sees the sockets of this network namespace alone.  A sandbox may forbid netlink: then every
function here raises OSError.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from typing import Final

from msgspec import Struct

from socketkeep._base._netlink import attributes, query

_INET_REQUEST: Final = struct.Struct("=BBBxI48s")  # inet_diag_req_v2
# inet_diag_msg, without the interface; its ports are in network order.
_INET_ANSWER: Final = struct.Struct("=BBBBHH16s16s4xQIIIII")
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr
_INET_DIAG_REQ_BYTECODE: Final = 1
_INSTRUCTION: Final = struct.Struct("=BBH")  # inet_diag_bc_op
_JUMP: Final = 1
_LOCAL_PORT_IS: Final = 11
_PEER_PORT_IS: Final = 12
_INET_DIAG_INFO: Final = 2
_INET_DIAG_SHUTDOWN: Final = 8
_SHUTDOWN_HEADER: Final = _ATTRIBUTE.pack(_ATTRIBUTE.size + 1, _INET_DIAG_SHUTDOWN)
_UNIX_REQUEST: Final = struct.Struct("=BBxxIIIII")  # unix_diag_req
_UNIX_ANSWER: Final = struct.Struct("=BBBxIQ")  # unix_diag_msg
_UDIAG_SHOW: Final = 0x1 | 0x4 | 0x10 | 0x40  # name, peer, queues, uid
_UNIX_DIAG_NAME: Final = 0
_UNIX_DIAG_PEER: Final = 2
_UNIX_DIAG_RQLEN: Final = 4
_UNIX_DIAG_SHUTDOWN: Final = 6
_UNIX_DIAG_UID: Final = 7
_NO_COOKIE: Final = 0xFFFFFFFF

ESTABLISHED: Final = 1
SYN_SENT: Final = 2
SYN_RECV: Final = 3
FIN_WAIT1: Final = 4
FIN_WAIT2: Final = 5
TIME_WAIT: Final = 6
CLOSE: Final = 7
CLOSE_WAIT: Final = 8
LAST_ACK: Final = 9
LISTEN: Final = 10
CLOSING: Final = 11
_NEW_SYN_RECV: Final = 12
_ALL_STATES: Final = 0xFFFFFFFF


class InetSocket(Struct, frozen=True, gc=False):
    """One TCP or UDP socket.

    inode: 0 when no process has it: it waits to be accepted, or its process has closed it.
    receive_queue, send_queue: bytes; of a listener the connections that wait, and their bound.
    timer: 0 none, 1 retransmission, 2 keepalive, 3 TIME_WAIT, 4 zero-window probe; `expires` in
    milliseconds, `retransmits` how often it has fired in vain.
    shutdown: 1 receiving, 2 sending.  info: the bytes of `struct tcp_info`, where asked for.
    """

    family: int
    protocol: int
    state: int
    host: str
    port: int
    peer_host: str
    peer_port: int
    uid: int
    inode: int
    cookie: int
    receive_queue: int
    send_queue: int
    timer: int
    retransmits: int
    expires: int
    shutdown: int
    info: bytes


class UnixSocket(Struct, frozen=True, gc=False):
    """One Unix socket; name "" for none, "@..." in the abstract namespace.

    queued, backlog: of a listener; of others the bytes to read, and the memory of what the peer has
    not read.  None where the kernel does not say, as `uid`.  peer: the inode of the other end, 0
    for none.
    """

    kind: int
    state: int
    name: str
    inode: int
    cookie: int
    peer: int
    queued: int | None
    backlog: int | None
    shutdown: int
    uid: int | None


def inet_sockets(
    protocol: int = socket.IPPROTO_TCP,
    *,
    port: int = 0,
    either_port: int = 0,
    inodes: Container[int] | None = None,
    listening: bool = False,
    info: bool = False,
) -> Iterator[InetSocket]:
    """Yield the sockets of IPv4 and IPv6; raises OSError.

    port: only those with this port; either_port: with it at one of the two ends; 0 for all.
    inodes, listening: only those.  info: with their `struct tcp_info`.
    """
    wanted = 1 << (_INET_DIAG_INFO - 1) if info else 0
    # The kernel filters a dump by the port of the request (be16, first in the id).
    identity = struct.pack("!H", port) + bytes(46)
    # No process has what is in TIME_WAIT, and of that there may be more than of all the others.
    states = _ALL_STATES if inodes is None else _ALL_STATES & ~(1 << TIME_WAIT)
    if listening:
        states = 1 << LISTEN
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _INET_REQUEST.pack(family, protocol, wanted, states, identity)
        if either_port:
            request += _filter_of_either_port(either_port)
        for found in _read(query(request, dump=True), protocol, inodes):
            if not port or found.port == port:
                yield found


def tcp_sockets(port: int) -> list[InetSocket]:
    """Return the TCP sockets whose local port is `port` and that are in its way; raises OSError."""
    return [found for found in inet_sockets(port=port) if found.state != TIME_WAIT]


def tcp_socket(host: str, port: int, peer_host: str, peer_port: int) -> InetSocket | None:
    """Return the IPv4 socket with these two ends, None when there is none; raises OSError.

    Of a listener the peer is ``0.0.0.0`` and 0.  It costs microseconds, where a dump goes over the
    whole table.
    """
    ends = struct.pack("!HH", port, peer_port)
    hosts = (socket.inet_aton(each).ljust(16, b"\0") for each in (host, peer_host))
    identity = ends + b"".join(hosts) + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    request = _INET_REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, _ALL_STATES, identity)
    try:
        (found,) = _read(query(request, dump=False), socket.IPPROTO_TCP, None)
    except FileNotFoundError:
        return None
    # For ends that are gone the kernel gives the listener that a packet to them would come to.
    return found if found.peer_port == peer_port else None


def unix_socket(inode: int) -> UnixSocket | None:
    """Return the Unix socket of that inode, None when there is none; raises OSError."""
    try:
        payloads = list(query(_unix_request(inode), dump=False))
    except FileNotFoundError:
        return None
    return _unix_socket(payloads[0]) if payloads else None


def unix_sockets() -> Iterator[UnixSocket]:
    """Yield every Unix socket; raises OSError."""
    return map(_unix_socket, query(_unix_request(0), dump=True))


def _unix_request(inode: int) -> bytes:
    return _UNIX_REQUEST.pack(
        socket.AF_UNIX, 0, _ALL_STATES, inode, _UDIAG_SHOW, _NO_COOKIE, _NO_COOKIE
    )


def _filter_of_either_port(port: int) -> bytes:
    """Return the attribute of a request that is a program, run by the kernel on each socket.

    An instruction says how many bytes further the next one stands when it holds, and when it does
    not; a port is an instruction of its own.  At its very end a program has let the socket pass,
    beyond it has not.
    """
    operand = _INSTRUCTION.pack(0, 0, port)
    program = (
        _INSTRUCTION.pack(_LOCAL_PORT_IS, 8, 12)
        + operand
        + _INSTRUCTION.pack(_JUMP, 4, 12)
        + _INSTRUCTION.pack(_PEER_PORT_IS, 8, 12)
        + operand
    )
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(program), _INET_DIAG_REQ_BYTECODE) + program


def _read(
    answers: Iterable[bytes], protocol: int, inodes: Container[int] | None
) -> Iterator[InetSocket]:
    """Yield the sockets that the kernel answers with; of these inodes alone, where given."""
    ntohs, unpack = socket.ntohs, _INET_ANSWER.unpack_from
    # Where the last socket that had both attributes had them: so have nearly all after it.
    shutdown_at = info_at = info_end = 0
    info_header = b""
    for answer in answers:
        # In one piece: to cut the tuple takes longer than to make it.
        (
            family, state, timer, retransmits, port, peer_port, source, destination,
            cookie, expires, receive_queue, send_queue, uid, inode,
        ) = unpack(answer)  # fmt: skip
        if inodes is not None and inode not in inodes:
            continue
        if answer.startswith(_SHUTDOWN_HEADER, shutdown_at) and answer.startswith(
            info_header, info_at
        ):
            shutdown, info = answer[shutdown_at + 4], answer[info_at + 4 : info_end]
        else:
            found = _attributes_at(answer)
            shutdown_found, info_found = found.get(_INET_DIAG_SHUTDOWN), found.get(_INET_DIAG_INFO)
            shutdown = answer[shutdown_found[0] + 4] if shutdown_found else 0
            info = answer[info_found[0] + 4 : info_found[1]] if info_found else b""
            if shutdown_found and info_found:
                shutdown_at, (info_at, info_end) = shutdown_found[0], info_found
                info_header = answer[info_at : info_at + 4]
        yield InetSocket(
            family,
            protocol,
            SYN_RECV if state == _NEW_SYN_RECV else state,
            _host(family, source),
            ntohs(port),
            _host(family, destination),
            ntohs(peer_port),
            uid,
            inode,
            cookie,
            receive_queue,
            send_queue,
            timer,
            retransmits,
            expires,
            shutdown,
            info,
        )


def _attributes_at(answer: bytes) -> dict[int, tuple[int, int]]:
    """Return where each attribute begins, with its header, and where it ends."""
    places = {}
    offset, size = _INET_ANSWER.size, len(answer)
    while offset < size:
        length, kind = _ATTRIBUTE.unpack_from(answer, offset)
        places[kind] = (offset, offset + length)
        offset += (length + 3) & ~3 or size
    return places


@lru_cache(maxsize=4096)
def _host(family: int, packed: bytes) -> str:
    return socket.inet_ntop(family, packed[:4] if family == socket.AF_INET else packed)


def _unix_socket(payload: bytes) -> UnixSocket:
    _family, kind, state, inode, cookie = _UNIX_ANSWER.unpack_from(payload)
    found = dict(attributes(payload, _UNIX_ANSWER.size))
    name = found.get(_UNIX_DIAG_NAME, b"")
    if name.startswith(b"\0"):
        name = b"@" + name[1:]
    lengths = found.get(_UNIX_DIAG_RQLEN)
    queued, backlog = struct.unpack("=II", lengths) if lengths else (None, None)
    return UnixSocket(
        kind,
        state,
        os.fsdecode(name.rstrip(b"\0")),
        inode,
        cookie,
        _number(found.get(_UNIX_DIAG_PEER)) or 0,
        queued,
        backlog,
        found.get(_UNIX_DIAG_SHUTDOWN, b"\0")[0],
        _number(found.get(_UNIX_DIAG_UID)),
    )


def _number(content: bytes | None) -> int | None:
    if content is None:
        return None
    value: int = struct.unpack("=I", content)[0]
    return value
