"""Ending single connections that somebody has asked to end, wherever they are, and seeing it done.

A worker that ends a connection says nothing of it, unless the keeper has a handle: its rows tell.
One that moves meanwhile is asked again where it comes to; until then nobody has it, and it is open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from socketkeep._keeper.connections._connections import Connections
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables._connection_table import ON_ITS_WAY
from socketkeep._keeper.tables._ownership import OwnershipState
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.workers._workers import Worker
from socketkeep._stream import _record as record
from socketkeep._stream._record import Ended
from socketkeep._wire._messages import Disconnect
from socketkeep._wire._scoreboard import id_of, parse_connection_id

#: Seconds between two looks whether a connection has ended.
_LOOK: Final = 0.02
#: How many may be waited for: each is looked for in the rows of the workers.
MOST: Final = 1000
#: Seconds that a worker has to end one by force, where it would be ended itself for that.
_BY_FORCE: Final = 1.0
_WHY: Final = "the server was told to disconnect it"

Outcome: TypeAlias = Literal["disconnected", "not connected", "still open", "busy"]
Told: TypeAlias = Callable[[str, Outcome], None]


class _Place(NamedTuple):
    """A worker that has a connection, under which epoch.

    leaves: it has given it up, and the keeper has not heard that yet.
    """

    worker: Worker
    epoch: int
    leaves: bool


@dataclass(slots=True, eq=False)
class _Request:
    """One that is to end; asked: its place when a worker was last told so."""

    id: str
    force: bool
    since: float
    until: float
    told: Told
    asked: tuple[int, int] | None = None


def _told_already(_name: str, _outcome: Outcome) -> None:
    """Nobody waits for it any more."""


class Disconnecting:
    """Ends connections by their id or name; workers: those that there are; kill: ends one."""

    def __init__(
        self,
        reactor: Reactor,
        connections: Connections,
        workers: Iterable[Worker],
        kill: Callable[[Worker], None],
    ) -> None:
        self._reactor = reactor
        self._connections = connections
        self._workers = workers
        self._kill = kill
        self._requests: list[_Request] = []

    def disconnect(self, what: str, *, force: bool, timeout: float, told: Told) -> None:
        """End the connection of that id, or name, and call `told` with its id and the outcome."""
        if len(self._requests) >= MOST:
            told("", "busy")
            return
        name = what if self._is_there(what) else self._named(what)
        if not name:
            told("", "not connected")
            return
        now = self._reactor.clock()
        request = _Request(name, force, now, now + timeout, told)
        if force:
            self._connections.condemned.add(name)
        self._requests.append(request)
        self._look_at(request)
        self._look_soon()

    def _named(self, name: str) -> str:
        known = self._connections.post.names.named(name)
        return known.id if known is not None and self._is_there(known.id) else ""

    def _is_there(self, name: str) -> bool:
        return self._is_on_its_way(name) or self._place(name) is not None

    def _is_on_its_way(self, name: str) -> bool:
        """Return whether the keeper has it, or it was sent to a worker that may not have it yet."""
        held = self._connections.connection_table.get(name)
        return held is not None and (
            held.ownership.state is not OwnershipState.OWNED or held.row == ON_ITS_WAY
        )

    def _place(self, name: str) -> _Place | None:
        """Return who has the connection; None: nobody yet, or any more."""
        try:
            _, minted_by, number = parse_connection_id(name)
        except ValueError:
            return None
        for worker in self._workers:
            if worker.state is WorkerState.DEAD and not worker.fork_children:
                continue
            for row, found, minted in worker.scoreboard.columns(record.MINTED_BY):
                if (found, minted) != (number, minted_by):
                    continue
                words = worker.scoreboard.record(row)
                ended = words[record.ENDED]
                if id_of(words) == name and ended in (Ended.NOT_YET, Ended.DETACHED):
                    return _Place(worker, words[record.EPOCH], ended == Ended.DETACHED)
        return None

    def _look(self) -> None:
        for request in tuple(self._requests):
            self._look_at(request)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._requests:
            self._reactor.call_later(_LOOK, self._look)

    def _look_at(self, request: _Request) -> None:
        now = self._reactor.clock()
        held, place = self._connections.connection_table.get(request.id), None
        if held is not None and held.ownership.state is not OwnershipState.OWNED:
            self._connections.close_unowned(request.id, _WHY)
        else:
            place = self._place(request.id)
        if place is None and not self._is_on_its_way(request.id):
            self._settle(request, "disconnected")
            return
        if place is not None and not place.leaves:
            self._ask(request, place, now)
        if now < request.until:
            return
        if request.asked is None:  # it is to end all the same, once somebody can be asked
            request.told(request.id, "still open")
            request.told, request.until = _told_already, math.inf
        else:
            self._settle(request, "still open")

    def _ask(self, request: _Request, place: _Place, now: float) -> None:
        worker, epoch, _ = place
        if request.asked != (worker.serial, epoch):
            request.asked = worker.serial, epoch
            worker.link.send(Disconnect(request.id, epoch, request.force))
        elif request.force and worker.model == "prefork" and now >= request.since + _BY_FORCE:
            self._kill(worker)  # it serves this connection and no other

    def _settle(self, request: _Request, outcome: Outcome) -> None:
        self._requests.remove(request)
        if not any(each.id == request.id for each in self._requests):
            self._connections.condemned.discard(request.id)
        request.told(request.id, outcome)
