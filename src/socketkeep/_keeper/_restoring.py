"""What a keeper gets back from the service manager's store, after another of it has been killed.

Its workers are dead then, too.  What a connection was at stands in the row of the worker that had
it last, or, when none had it, in its parcel; of the two the later epoch counts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec

from socketkeep import _log
from socketkeep._address import format_address
from socketkeep._keeper._connections import Connections
from socketkeep._keeper._fdstore import BOARD, CONNECTION, LISTENER, PARCEL, FdStore, listener_name
from socketkeep._keeper._state import SavedConnection
from socketkeep._keeper._verdict import OnCrash, Policy
from socketkeep._keeper._workers import Worker, WorkerState
from socketkeep._stream import _record as record
from socketkeep._stream._record import SENT
from socketkeep._visibility import exists
from socketkeep._wire._scoreboard import Scoreboard, id_of, parse_connection_id

_NO_STATE: Final = Policy("close", redeliver=False)


@dataclass(frozen=True, slots=True)
class _Row:
    epoch: int
    ghost: Worker
    number: int


@dataclass(slots=True)
class Stored:
    """The descriptors that the store gave back, by their names."""

    names: list[str] = field(default_factory=list)
    _listeners: dict[str, socket.socket] = field(default_factory=dict)
    _boards: dict[str, int] = field(default_factory=dict)
    _connections: dict[str, tuple[str, socket.socket]] = field(default_factory=dict)
    _parcels: dict[str, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, passed: Sequence[tuple[str, int]]) -> Stored:
        """Sort what was passed; what has another name is left alone by this version."""
        stored = cls()
        for name, fd in passed:
            os.set_inheritable(fd, False)
            stored.names.append(name)
            if name.startswith(LISTENER):
                stored._listeners[name] = socket.socket(fileno=fd)
            elif name.startswith(BOARD):
                stored._boards[name] = fd
            elif name.startswith(CONNECTION):
                stored._connections[_id(name)] = name, socket.socket(fileno=fd)
            elif name.startswith(PARCEL):
                stored._parcels[_id(name)] = name, fd
            else:
                os.close(fd)
        return stored

    @property
    def latest_boot(self) -> int:
        """The latest boot of which a connection is; 0: there is none."""
        return max((parse_connection_id(name)[0] for name in self._connections), default=0)

    def take_listener(self, bound_as: str) -> socket.socket | None:
        """Return the listener that --bind names so; it is the caller's from then on."""
        return self._listeners.pop(listener_name(bound_as), None) if self._listeners else None

    def restore(self, connections: Connections, store: FdStore, listeners: Sequence[str]) -> None:
        """Give the connections to the keeper, and have the store keep only what is still held."""
        rows = self._rows()
        for name, (stored_as, sock) in self._connections.items():
            row = rows.get(name)
            parcel = self._parcel(name)
            if row is not None and (parcel is None or row.epoch > parcel.epoch):
                if _is_alive(row.ghost.scoreboard.record(row.number)[record.PID]):
                    _log.warning("connection left to its worker, which is alive", id=name)
                    sock.close()
                else:
                    number = _listener_of(sock, listeners)
                    epoch = int(stored_as.rpartition(".")[2])
                    connections.restore_owned(row.ghost, row.number, sock, number, epoch)
            elif parcel is not None:
                number = _listener_of(sock, listeners)
                parcel.stored_as = int(stored_as.rpartition(".")[2])
                parcel.parcel_as = int(self._parcels[name][0].rpartition(".")[2])
                connections.restore_unowned(parcel, sock, number)
            else:
                # Its worker had ended it, and only the word of it did not come.
                connections.end(sock)
        held = {f"{CONNECTION}{each.id}.{each.stored_as}" for each in connections.custody}
        held |= {f"{PARCEL}{each.id}.{each.parcel_as}" for each in connections.custody}
        for name in self.names:
            if name not in held and not name.startswith(LISTENER):
                store.remove(name)
        for name, sock in self._listeners.items():
            address = format_address(sock.getsockname())
            _log.warning("listener dropped: it is not configured any more", address=address)
            store.remove(name)
        if self._connections:
            _log.info("connections restored", connections=len(connections.custody))
        self.close()

    def close(self) -> None:
        """Let go of what nobody took."""
        for sock in self._listeners.values():
            sock.close()
        for fd in (*self._boards.values(), *(fd for _, fd in self._parcels.values())):
            os.close(fd)
        self._listeners.clear()
        self._boards.clear()
        self._parcels.clear()

    def _rows(self) -> dict[str, _Row]:
        """Return the row of each connection's last owner."""
        found: dict[str, _Row] = {}
        for index, (name, fd) in enumerate(self._boards.items()):
            ghost = _ghost(index, name, fd)
            for number, words in ghost.scoreboard.taken():
                row = _Row(words[record.EPOCH], ghost, number)
                earlier = found.get(id_of(words))
                if not ghost.scoreboard.keeps_states:
                    words[record.STATUS] = SENT  # without its state it cannot go on
                if earlier is None or earlier.epoch < row.epoch:
                    found[id_of(words)] = row
        return found

    def _parcel(self, name: str) -> SavedConnection | None:
        if name not in self._parcels:
            return None
        fd = self._parcels[name][1]
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        try:
            return msgspec.msgpack.decode(data, type=SavedConnection)
        except ValueError as error:
            _log.error("cannot restore a connection", id=name, error=str(error))
            return None


def _id(name: str) -> str:
    """Return the connection's id in a name of the store: socketkeep.connection.ID.EPOCH."""
    return name.split(".")[2]


def _ghost(index: int, name: str, fd: int) -> Worker:
    """Return the record of the dead worker whose scoreboard that is."""
    _, _, _, on_crash, redeliver = name.split(".")
    scoreboard = Scoreboard(fd)
    policy = Policy(cast("OnCrash", on_crash), redeliver == "redeliver")
    return Worker(
        serial=-1 - index,
        slot=0,
        generation=0,
        model="fork",
        resumable=True,
        policy=policy if scoreboard.keeps_states else _NO_STATE,
        scoreboard=scoreboard,
        memfd=fd,
        wake=-1,
        started_at=0.0,
        state=WorkerState.DEAD,
    )


def _listener_of(sock: socket.socket, listeners: Sequence[str]) -> int:
    """Return the number of the listener that accepted the connection, or of one like it."""
    own = format_address(sock.getsockname())
    if own in listeners:
        return listeners.index(own)
    port = own.rpartition(":")[2]
    return next((n for n, text in enumerate(listeners) if text.endswith(f":{port}")), 0)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            stat = file.read()
    except OSError:
        return exists(pid)  # /proc may hide it (hidepid)
    return stat.rpartition(")")[2].split()[0] not in "ZX"
