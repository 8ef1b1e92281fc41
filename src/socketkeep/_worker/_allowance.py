"""How many connections a worker may accept."""

from __future__ import annotations

from socketkeep._wire._messages import Seats
from socketkeep._wire._scoreboard import ACCEPTS_NO_MORE, DETACHED, REFUSED, Scoreboard


class Allowance:
    """What the keeper said last, and what has changed in this worker since.

    With --max-connections a connection that is parked goes on counting, so that its seat is not
    for a new one: from its leaving on, and not only when the keeper's next word arrives.
    """

    def __init__(self, scoreboard: Scoreboard, max_connections: int) -> None:
        self._scoreboard = scoreboard
        self._limited = bool(max_connections)
        self._seats = Seats(0)

    def told(self, seats: Seats) -> None:
        """Take the keeper's word."""
        self._seats = seats
        if seats.serial:
            self._scoreboard.hear(seats.serial)

    def refuse(self) -> None:
        """Note, before the keeper is told, that one which it has sent is refused.

        It comes again: the seat that was for it is not for a new one.
        """
        self._scoreboard.add(REFUSED)

    def accept_no_more(self) -> None:
        """Show that nothing is accepted from here on."""
        self._scoreboard.hear(ACCEPTS_NO_MORE)

    def permits(self, serving: int) -> bool:
        """Whether one more may be accepted beside those that are served."""
        if self._limited:
            return serving < self._limit()
        return serving < self._seats.accept_below

    def room(self, serving: int) -> int:
        """Return how many more may be accepted beside those that are served, 0 or less: none."""
        return self._limit() - serving

    def wants_room(self, serving: int) -> bool:
        """Whether a seat that became free would be for a new connection."""
        return not self._seats.full and serving >= self._limit() > 0

    def _limit(self) -> int:
        limit = self._seats.accept_below
        if self._limited:
            left = self._scoreboard[DETACHED] + self._scoreboard[REFUSED]
            limit -= left - self._seats.departures
        return limit
