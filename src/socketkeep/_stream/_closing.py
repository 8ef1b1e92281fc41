"""The orderly end of a connection, and the abrupt one.

close(2) with unread bytes in the receive queue makes Linux send RST, and an RST makes the peer's
system throw away the reply that it has not yet read.  So the write side is ended first, and what
the peer still sends is read and discarded, within bounds, until its EOF comes.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from socketkeep._stream._last_words import mark
from socketkeep._stream._waiting import Steps, Want

#: Seconds of silence from the peer after which the drain gives up.
QUIET: Final = 1.0
#: Seconds after which it gives up on a peer that never stops sending.
LINGER: Final = 5.0
#: How much one system call discards.
DISCARD: Final = 262144

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_SOCKADDR_SIZE: Final = 16  # of an all-zero sockaddr: AF_UNSPEC is 0


def end_writing(sock: socket.socket) -> bool:
    """Send FIN; return whether there was still anybody to send it to."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return False  # reset, or never connected: nothing is left to end in an orderly way
    return True


def draining(
    sock: socket.socket, end: float, clock: Callable[[], float] = time.monotonic
) -> Steps[bool]:
    """Discard what the peer sends until its EOF, `QUIET` seconds of silence, or the moment `end`.

    Returns whether the peer has ended.  What is there already is discarded, however late it is.
    """
    while _discard(sock):
        now = clock()
        if now >= end or not (yield Want(sock.fileno(), "read", min(now + QUIET, end))):
            return False
    return True


def _discard(sock: socket.socket) -> bool:
    """Discard one helping of what the peer sent; return False when there is no more to come."""
    try:
        return bool(sock.recv(DISCARD, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def end_for_all(sock: socket.socket) -> None:
    """Close the descriptor of a connection whose writing has ended and which nobody reads any more.

    Another process that holds it too finds EOF; a TCP peer that still sends gets RST.
    """
    try:
        sock.shutdown(socket.SHUT_RD)
    except OSError:
        return  # the peer had ended it
    finally:
        sock.close()


def reset(sock: socket.socket) -> None:
    """Close the descriptor so that the peer gets RST at once, whoever else holds the connection.

    On a Unix socket, which has no RST, the peer gets EOF at once, and can find out that it was no
    orderly one (`_last_words`).
    """
    try:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # By itself it resets only at the last close: it is for where connect(2) is refused.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            _disconnect(sock)
        else:
            mark(sock, "reset")
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended already
    finally:
        sock.close()


def _disconnect(sock: socket.socket) -> None:
    """Dissolve the association: connect(2) with AF_UNSPEC, which `socket.connect` cannot say."""
    import ctypes  # for who aborts

    unspecified = ctypes.create_string_buffer(_SOCKADDR_SIZE)
    if ctypes.CDLL(None, use_errno=True).connect(sock.fileno(), unspecified, _SOCKADDR_SIZE) != 0:
        raise OSError(ctypes.get_errno(), "connect")
