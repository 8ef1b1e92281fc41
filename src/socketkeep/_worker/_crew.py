"""Processes of the `fork` model that are given more than the connection they were forked for.

With ``--child-requests`` a child serves several connections in turn, with ``--spare`` children wait
before there is one.  The worker accepts, as ever, and gives what it has accepted to a child that
waits: its row on the scoreboard and its descriptor, in a packet.  The child says with a byte that
the connection has ended, and waits for the next.

Nothing is lost with a child that dies: what it has not taken stays in the packet, since the worker
has both ends of the pair.  A child whose worker dies sees that nobody has the other end.

Children that wait for one connection alone C forks and gives to in the same way, where it accepts:
`_native/fork.c`.
"""

from __future__ import annotations

import _socket
import select
import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from socketkeep._base import _passing
from socketkeep._base._originals import socket_of
from socketkeep._net._children import Child
from socketkeep._worker._entry import Entry

#: Seconds that a child which has served waits for the next connection.
IDLE: Final = 1.0

_HEAD: Final = struct.Struct("=IHH")  # row, listener, how long the peer's address is
_MOST: Final = _HEAD.size + 65536  # behind it the address and the PROXY header
_DONE: Final = b"\0"


class Given(NamedTuple):
    """A connection as a child takes it."""

    row: int
    listener: int
    peer: str
    proxy: bytes
    fd: int


@dataclass(slots=True, eq=False)
class Hand:
    """The task of a forked child, and what it is given.

    entry: what it serves; None: it waits.  ours, theirs: the ends of its pair; None: it serves one
    connection.  left: how many more it may be given.
    """

    entry: Entry | None
    left: int = 0
    ours: socket.socket | None = None
    theirs: socket.socket | None = None

    def close(self) -> None:
        """Have the child leave when it has nothing to serve."""
        for end in (self.ours, self.theirs):
            if end is not None:
                end.close()
        self.ours = self.theirs = None
        self.left = 0

    # For the worker.

    def give(self, entry: Entry) -> None:
        """Send a connection.  Raises OSError, and the connection is the caller's still."""
        assert self.ours is not None
        peer = entry.lease.peer.encode()
        head = _HEAD.pack(entry.row, entry.listener, len(peer))
        _passing.send(self.ours, head + peer + entry.lease.proxy, (entry.sock.fileno(),))
        self.entry = entry
        self.left -= 1

    def is_done(self) -> bool:
        """Return whether the child has said that its connection has ended."""
        assert self.ours is not None
        with suppress(BlockingIOError):
            return self.ours.recv(1) == _DONE
        return False

    def untaken(self) -> int:
        """Return the descriptor that a child which has died had not taken; -1: there is none."""
        if self.theirs is None:
            return -1
        try:
            received = _passing.receive(self.theirs, _MOST)
        except BlockingIOError:
            return -1
        return received.descriptors[0] if received.descriptors else -1

    # For the child.

    def say_done(self) -> None:
        """Say that the connection has ended."""
        assert self.theirs is not None
        with suppress(OSError):  # there is no worker
            self.theirs.send(_DONE)

    def take(self, seconds: float | None) -> Given | None:
        """Wait for a connection; None: there is none in that time, or the child is to leave."""
        assert self.theirs is not None
        poll = select.poll()
        poll.register(self.theirs.fileno(), select.POLLIN)
        if not poll.poll(None if seconds is None else seconds * 1000):
            return None
        received = _passing.receive(self.theirs, _MOST)
        if not received.descriptors:
            return None
        row, listener, size = _HEAD.unpack_from(received.data)
        end = _HEAD.size + size
        peer, proxy = received.data[_HEAD.size : end].decode(), received.data[end:]
        return Given(row, listener, peer, proxy, received.descriptors[0])


class Crew:
    """The children of a worker that wait.

    spare: so many wait before there is a connection.  requests: so many a child serves in turn.
    """

    def __init__(self, spare: int, requests: int) -> None:
        self.spare = spare
        self.requests = requests
        self._waiting: deque[Child[Hand]] = deque()

    @property
    def is_wanted(self) -> bool:
        """Return whether any child is to serve more than what it was forked for."""
        return self.spare > 0 or self.requests > 1

    @property
    def missing(self) -> int:
        """Return how many more are to wait."""
        return self.spare - len(self._waiting)

    def hand(self, entry: Entry | None) -> Hand:
        """Return what a child is to be forked with.

        Without a pair where there is no descriptor for one: it serves its connection then.  Raises
        OSError where it was to wait.
        """
        left = self.requests - (entry is not None)
        if left == 0:
            return Hand(entry)
        try:
            ours, theirs = _socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            if entry is None:
                raise
            return Hand(entry)
        return Hand(entry, left, socket_of(ours.detach()), socket_of(theirs.detach()))

    def wait(self, child: Child[Hand]) -> None:
        """Note that a child waits."""
        self._waiting.append(child)

    def gone(self, child: Child[Hand]) -> bool:
        """Note that a child has ended; return whether it has waited."""
        with suppress(ValueError):
            self._waiting.remove(child)
            return True
        return False

    def give(self, entry: Entry) -> Child[Hand] | None:
        """Give a connection to a child that waits; None: there is none.

        To the one that has waited for the shortest time, so that the others may leave.
        """
        if not self._waiting:
            return None
        child = self._waiting.pop()
        try:
            child.work.give(entry)
        except OSError:  # too many descriptors are on their way
            self._waiting.append(child)
            return None
        return child

    def dismiss(self) -> list[Child[Hand]]:
        """Return those that waited, who are to leave."""
        waited, self._waiting = self._waiting, deque()
        return list(waited)
