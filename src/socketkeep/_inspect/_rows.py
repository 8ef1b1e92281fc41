"""From what the kernel says of a socket to what people are told of it."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Final

from socketkeep._base._address import format_address
from socketkeep._inspect._processes import user_name
from socketkeep._inspect._results import HeldSocket, SocketHolder, TcpFacts, Timer
from socketkeep._inspect._sock_diag import (
    CLOSE,
    CLOSE_WAIT,
    ESTABLISHED,
    LISTEN,
    SYN_RECV,
    SYN_SENT,
    TIME_WAIT,
    InetSocket,
    UnixSocket,
)

STATES: Final = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSED",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
}
_TIMERS: Final = {
    1: "retransmission",
    2: "keepalive",
    3: "time-wait",
    4: "zero-window probe",
}
_SHUT: Final = ("", "receive", "send", "both")
_KINDS: Final = {int(socket.IPPROTO_TCP): "tcp", int(socket.IPPROTO_UDP): "udp"}
# Of struct tcp_info (linux/tcp.h), in its order: last_data_sent, last_data_recv, rtt,
# total_retrans, bytes_acked, bytes_received, notsent_bytes, data_segs_in, data_segs_out,
# bytes_sent, snd_wnd.
_TCP_INFO: Final = struct.Struct("=44xI4xI12xI28xI16xQQ8xI4xII40xQ20xI")
#: In these no connection has been made, or nothing of it is left to be counted.
_NO_CONNECTION: Final = frozenset({SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE, LISTEN})

IN_FLIGHT: Final = (
    "held by no process: on its way from one to another (SCM_RIGHTS), or being closed"
)
UNSEEN: Final = (
    "cannot be seen from here: held by a process that could not be looked into, or by none: on its "
    "way from one to another (SCM_RIGHTS) or being closed"
)
NOT_ACCEPTED: Final = "in a listener's queue: no process has accepted it yet"
HANDSHAKE: Final = "the kernel's: the handshake is not done, no process can accept it yet"
CLOSED_BY_PROCESS: Final = "closed by its process: the kernel brings the connection to its end"


@lru_cache(maxsize=4096)
def _host(host: str) -> str:
    """Return what stands before the port."""
    return format_address((host, 0))[:-1]


def tcp_facts(found: InetSocket) -> tuple[TcpFacts | None, float | None]:
    """Return the counts of a TCP connection, and its age where the kernel still has it."""
    info = found.info
    if len(info) < _TCP_INFO.size or found.state in _NO_CONNECTION:
        return None, None
    (
        since_sent, since_received, rtt, retransmitted, acknowledged, received,
        unsent, segments_in, segments_out, sent, window,
    ) = _TCP_INFO.unpack_from(info)  # fmt: skip
    facts = TcpFacts(
        sent,
        received,
        acknowledged,
        unsent,
        retransmitted,
        window,
        rtt / 1e6,
        since_sent / 1e3,
        since_received / 1e3,
    )
    # The clocks of data start with the connection.
    if not segments_in:
        return facts, since_received / 1e3
    return facts, None if segments_out else since_sent / 1e3


def inet_row(
    found: InetSocket,
    holders: tuple[SocketHolder, ...],
    nonblocking: bool | None,
    facts: TcpFacts | None,
    age: float | None,
    unseen: bool,
) -> HeldSocket:
    """Return the row of a TCP or UDP socket.  unseen: some processes could not be looked into."""
    timer = None
    if found.timer:
        kind = _TIMERS.get(found.timer, str(found.timer))
        timer = Timer(kind, found.expires / 1e3, found.retransmits)
    if holders:
        note = ""
    elif found.inode:
        note = UNSEEN if unseen else IN_FLIGHT
    elif found.state in (ESTABLISHED, CLOSE_WAIT):
        note = NOT_ACCEPTED
    else:
        note = HANDSHAKE if found.state == SYN_RECV else CLOSED_BY_PROCESS
    return HeldSocket(
        _KINDS[found.protocol],
        STATES.get(found.state) or str(found.state),
        f"{_host(found.host)}{found.port}",
        f"{_host(found.peer_host)}{found.peer_port}" if found.peer_port else "",
        found.receive_queue,
        found.send_queue,
        timer,
        nonblocking,
        age,
        _SHUT[found.shutdown & 3],
        user_name(found.uid) if found.inode else "",
        found.inode,
        found.cookie,
        facts,
        holders,
        note,
    )


def unix_row(
    found: UnixSocket,
    names: dict[int, str],
    holders: tuple[SocketHolder, ...],
    nonblocking: bool | None,
    unseen: bool,
) -> HeldSocket:
    """Return the row of a Unix socket.  names: of all of them, by inode."""
    peer = ""
    if found.peer:
        peer = f"unix:{names.get(found.peer) or f'inode={found.peer}'}"
    note = "" if holders else UNSEEN if unseen else IN_FLIGHT
    return HeldSocket(
        "unix",
        STATES.get(found.state, str(found.state)),
        f"unix:{found.name}",
        peer,
        found.queued,
        found.backlog,
        None,
        nonblocking,
        None,
        _SHUT[found.shutdown & 3],
        "" if found.uid is None else user_name(found.uid),
        found.inode,
        found.cookie,
        None,
        holders,
        note,
    )


def other_row(
    kind: str,
    inode: int,
    holders: tuple[SocketHolder, ...],
    nonblocking: bool | None,
    note: str,
) -> HeldSocket:
    """Return the row of a socket that is not in this system's tables, or of another kind."""
    return HeldSocket(
        *(kind, "", "", "", None, None, None, nonblocking, None, "", "", inode, 0, None),
        holders,
        note,
    )
