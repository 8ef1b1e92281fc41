"""Ending single connections that somebody has asked to end, wherever they are, and seeing it done.

A worker that ends a connection says nothing of it, unless the keeper has a handle: its rows tell.
One that moves meanwhile is asked again where it comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from socketkeep._keeper.connections._connections import Connections
from socketkeep._keeper.loop._reactor import Reactor
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
    """A worker that serves a connection, under which epoch, and in which row."""

    worker: Worker
    epoch: int
    row: int


@dataclass(slots=True, eq=False)
class _Request:
    """One that is to end; asked: its place when a worker was last told so."""

    id: str
    force: bool
    since: float
    until: float
    told: Told
    asked: tuple[int, int] | None = None


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
        held = self._connections.connection_table.get(name)
        if held is not None and held.ownership.state is not OwnershipState.OWNED:
            return True
        return self._place(name) is not None

    def _place(self, name: str) -> _Place | None:
        """Return where the connection is served; None: nowhere, or it has ended there."""
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
                if id_of(words) == name and words[record.ENDED] == Ended.NOT_YET:
                    return _Place(worker, words[record.EPOCH], row)
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
        held = self._connections.connection_table.get(request.id)
        place = None
        if held is not None and held.ownership.state is not OwnershipState.OWNED:
            self._connections.close_unowned(request.id, _WHY)
            held = self._connections.connection_table.get(request.id)
        else:
            place = self._place(request.id)
        if place is None and (held is None or held.ownership.state is OwnershipState.OWNED):
            self._settle(request, "disconnected")
            return
        if place is not None:
            self._ask(request, place, now)
        if now >= request.until:
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
