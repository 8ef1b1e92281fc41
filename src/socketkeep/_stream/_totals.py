"""The bytes that have passed over a connection, by the kernel's counters (tcp(7), TCP_INFO).

They outlive whoever has sent and received, so that after a death they tell what was done last.  A
FIN counts as a byte, in both directions.  Only TCP has them; over the plain end of an edge it is
the edge that counts.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final, Literal, NamedTuple

_INFO_SIZE: Final = 256
#: tcpi_bytes_acked and tcpi_bytes_received, behind the state and much else.
_PASSED: Final = struct.Struct("=QQ")
_PASSED_AT: Final = 120
_FIN_CAME: Final = frozenset((6, 8, 9, 11))  # TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING
_CLOSED: Final = 7
#: The counters are read one after another, and again where they have changed meanwhile.
_MOST_READS: Final = 10_000


class ByteTotals(NamedTuple):
    """The offsets of a connection in what was sent over it and received, since its beginning.

    written: bytes that the kernel has taken.  taken: bytes that have been taken from the kernel.
    waiting: how many more there are.  over: it has ended in both directions, and nothing can be
    sent.
    """

    written: int
    taken: int
    waiting: int
    over: bool = False


def waiting_in(sock: socket.socket) -> int:
    """Return how many bytes have come and are not taken.  Raises OSError."""
    return _count(sock, "FIONREAD")


def totals_of(sock: socket.socket) -> ByteTotals | None:
    """Return the totals of a connection; None where nobody tells.  Raises OSError."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if sock.proto not in (0, socket.IPPROTO_TCP):  # of MPTCP it would be one subflow's
        return None
    before = _passed(sock)
    for _ in range(_MOST_READS):
        queued = _count(sock, "TIOCOUTQ")
        waiting = _count(sock, "FIONREAD")
        now = _passed(sock)
        if now is None:
            return None
        if now == before:
            state, acknowledged, received = now
            received -= state in _FIN_CAME
            return ByteTotals(acknowledged + queued, received - waiting, waiting, state == _CLOSED)
        before = now
    return None


def _passed(sock: socket.socket) -> tuple[int, int, int] | None:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
    if len(info) < _PASSED_AT + _PASSED.size:  # a system that has less of it
        return None
    acknowledged, received = _PASSED.unpack_from(info, _PASSED_AT)
    return info[0], acknowledged, received


def _count(sock: socket.socket, what: Literal["FIONREAD", "TIOCOUTQ"]) -> int:
    import fcntl  # for who asks: what a worker has mapped, each of its forks copies
    import termios

    request = getattr(termios, what)
    return int.from_bytes(fcntl.ioctl(sock, request, bytes(4)), sys.byteorder)
