"""Room for clients of the control socket and the page, and the choice of who goes to make some.

Whoever connects and says nothing, or does not read, must lock nobody out.  So a peer has no more
than its share, who is idle has no right to stay when there is no room, and those whose command or
stream goes on for long leave room for others.  No I/O: closing those who go is the caller's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Guest = TypeVar("Guest", bound=Hashable)


class Full(Exception):
    """There is no room, and nobody is idle."""


class Guests(Generic[Guest]):
    """At most `most`, of one peer `most_of_one`, and `most_busy` that are not idle."""

    def __init__(self, most: int, most_of_one: int, most_busy: int) -> None:
        self.most = most
        self.most_of_one = most_of_one
        self.most_busy = most_busy
        self._peers: dict[Guest, Hashable] = {}
        self._idle: dict[Guest, None] = {}  # the one that has been for longest first

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Guest]:
        return iter(tuple(self._peers))

    def make_room(self, peer: Hashable) -> Guest | None:
        """Return who must go before another of `peer` can come, None when there is room.

        Who has been idle for longest goes: of the peer itself, when it has its share; otherwise of
        the peer that has most.  Raises Full when nobody is idle who could.
        """
        counts = Counter(self._peers.values())
        if counts[peer] >= self.most_of_one:
            who = {peer}
        elif len(self._peers) >= self.most:
            idle = {self._peers[guest] for guest in self._idle}
            most = max((counts[each] for each in idle), default=0)
            who = {each for each in idle if counts[each] == most}
        else:
            return None
        for guest in self._idle:
            if self._peers[guest] in who:
                return guest
        raise Full

    def enter(self, guest: Guest, peer: Hashable) -> None:
        """Count one more, who is idle until told otherwise."""
        self._peers[guest] = peer
        self._idle[guest] = None

    def busy(self, guest: Guest) -> None:
        """It is at work, and stays until it leaves.  Raises Full when too many are."""
        if guest not in self._idle:
            return
        if len(self._peers) - len(self._idle) >= self.most_busy:
            raise Full
        del self._idle[guest]

    def idle(self, guest: Guest) -> None:
        """Nothing is under way for it; it may be made to go."""
        if guest in self._peers:
            self._idle.setdefault(guest)

    def leave(self, guest: Guest) -> None:
        """Count it no more."""
        self._peers.pop(guest, None)
        self._idle.pop(guest, None)
