"""A connection that is made before it is there, for the children that C forks.

To make the entry, the lease and the `Connection` of a connection touches 230 pages, each of which
is copied for the child.  So the worker makes them once for each listener, on a socket that is not
connected and a row that is not used, and C has them be those of a child's connection: it puts the
descriptor under that socket's number, and writes row and names to the objects that are there.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple
from weakref import ref

from socketkeep._base._forking import Forkable, disown, exempt
from socketkeep._base._originals import Socket
from socketkeep._stream._connection import Connection
from socketkeep._stream._core import Core
from socketkeep._stream._lease import Lease
from socketkeep._worker._entry import Entry
from socketkeep._worker._roster import Roster

#: Where a lease has what differs from one connection to the next.
DIFFERING: Final = tuple(map(Lease._fields.index, ("id", "peer", "turn")))


class Mould(NamedTuple):
    """The connection of one listener, as `_native/fork.c` takes it."""

    fd: int
    nodelay: bool
    entry: Entry
    conn: Connection
    core: Core
    record: memoryview
    lease: Lease
    owned: ref[Forkable]
    series: str  # the id without its number
    pace: float


def make_mould(
    roster: Roster, listener: socket.socket, index: int, row: int, words: memoryview
) -> Mould:
    """Make the connection of a listener.  Raises OSError when there is no descriptor for it.

    row, words: of the scoreboard, in use for nothing else.
    """
    sock = Socket(listener.family, listener.type, listener.proto)
    try:
        exempt(sock)  # what is closed at a fork is no socket any more
        entry, series, pace = roster.mould(row, words, sock, index)
        lease = entry.lease
        entry.hooks.backup = entry.offer
        conn = entry.conn = Connection(sock, lease=lease, hooks=entry.hooks)
        owned = disown(conn)  # it is nothing to let go of, until a child has it
    except BaseException:
        sock.close()
        raise
    nodelay = lease.nodelay and listener.family in (socket.AF_INET, socket.AF_INET6)
    return Mould(sock.fileno(), nodelay, entry, conn, conn.core, words, lease, owned, series, pace)
