"""Restoring what the store has, after another keeper of it has been killed.

With the service manager's its workers are dead then, too; with a guard's they may live, and have
been adopted.  What a connection was at stands in the row of the worker that had it last, or, when
none had it, in its handoff; of the two the later epoch counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast, get_args

import msgspec

from socketkeep._base import _log
from socketkeep._base._address import format_address
from socketkeep._base._admission import HEADER_LIMIT
from socketkeep._base._errors import Malformed
from socketkeep._base._passing import sealed_size
from socketkeep._base._process_stat import STATE, has_ended, stat_fields
from socketkeep._base._proxy_header import destination_text, read_header
from socketkeep._base._visibility import exists
from socketkeep._keeper.connections._connections import Connections
from socketkeep._keeper.connections._edges import boot_of
from socketkeep._keeper.connections._fdstore import (
    BOARD,
    CALLED,
    CONNECTION,
    EDGE,
    HANDOFF,
    HEADER,
    LISTENER,
    SETTINGS,
    FdStore,
    listener_name,
)
from socketkeep._keeper.loop._system import System
from socketkeep._keeper.tables._crash_policy import OnCrash, Policy
from socketkeep._keeper.tables._names import SavedName
from socketkeep._keeper.tables._ownership import OwnershipState
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.tables._state import SavedConnection
from socketkeep._keeper.workers._workers import Worker
from socketkeep._stream import _record as record
from socketkeep._stream._record import SENT
from socketkeep._wire._channel import LARGEST
from socketkeep._wire._descriptors import (
    PLAIN_END,
    connection_place,
    listener_place,
    require_line,
)
from socketkeep._wire._scoreboard import (
    LAST_BOOT,
    Scoreboard,
    id_of,
    is_plausible,
    parse_connection_id,
)

_NO_STATE: Final = Policy("close", redeliver=False)


@dataclass(frozen=True, slots=True)
class _Row:
    """worker: one that has been adopted, or the record of one that is dead or on its own.

    alive: whether the process that the row names is.
    """

    epoch: int
    worker: Worker
    number: int
    alive: bool

    @property
    def serves_on(self) -> bool:
        """Return whether a worker that lives was giving it away and has it still.

        No answer has come.
        """
        ended = self.worker.scoreboard.record(self.number)[record.ENDED]
        return self.alive and ended in (record.NOT_YET, record.DETACHED)


@dataclass(slots=True)
class Stored:
    """The descriptors that the store gave back, by their names."""

    names: list[str] = field(default_factory=list)
    _listeners: dict[str, socket.socket] = field(default_factory=dict)
    _boards: dict[str, int] = field(default_factory=dict)
    _connections: dict[str, tuple[str, int]] = field(default_factory=dict)
    _handoffs: dict[str, tuple[str, int]] = field(default_factory=dict)
    _headers: dict[str, tuple[str, int]] = field(default_factory=dict)
    _called: dict[str, tuple[str, int]] = field(default_factory=dict)
    _edges: dict[str, socket.socket] = field(default_factory=dict)

    @classmethod
    def of(cls, passed: Sequence[tuple[str, int]]) -> Stored:
        """Sort what was passed; what has another name is left alone by this version."""
        stored = cls()
        for name, fd in passed:
            os.set_inheritable(fd, False)
            stored.names.append(name)
            try:
                stored._put(name, fd)
            except (ValueError, OSError) as error:
                _log.error("what the store gave back is left alone", name=name, error=error)
                os.close(fd)
        return stored

    def _put(self, name: str, fd: int) -> None:
        """Sort one.  Raises ValueError and OSError, and nothing has been done with it."""
        if name.startswith(LISTENER):
            listener_place(fd)
            self._listeners[name] = socket.socket(fileno=fd)
        elif name.startswith(BOARD):
            Scoreboard(fd, wary=True)
            self._boards[name] = fd
        elif name.startswith(CONNECTION):
            connection_place(fd)
            _put_latest(self._connections, name, fd)
        elif name.startswith(HANDOFF):
            sealed_size(fd, fcntl.F_SEAL_WRITE)
            _put_latest(self._handoffs, name, fd)
        elif name.startswith(HEADER):
            sealed_size(fd, fcntl.F_SEAL_WRITE)
            _put_latest(self._headers, name, fd)
        elif name.startswith(CALLED):
            sealed_size(fd, fcntl.F_SEAL_WRITE)
            _put_latest(self._called, name, fd)
        elif name.startswith(EDGE):
            _serial, _seat, _pid, _born = map(int, name.removeprefix(EDGE).split("."))
            require_line(fd)
            self._edges[name] = socket.socket(fileno=fd)
        else:
            os.close(fd)

    @property
    def latest_boot(self) -> int:
        """The latest boot of which a connection or an edge is; 0: there is none."""
        boots = [parse_connection_id(name)[0] for name in self._connections]
        boots += [boot_of(name) for name in self._edges]
        return max((boot for boot in boots if boot < LAST_BOOT), default=0)

    def take_listener(self, bound_as: str) -> socket.socket | None:
        """Return the listener that --bind names so; it is the caller's from then on."""
        return self._listeners.pop(listener_name(bound_as), None) if self._listeners else None

    def take_edges(self) -> dict[str, socket.socket]:
        """Return the keeper's ends of the edges' channels; they are the caller's from then on."""
        edges, self._edges = self._edges, {}
        return edges

    def restore(
        self,
        connections: Connections,
        store: FdStore,
        listeners: Sequence[str],
        adopted: Iterable[Worker] = (),
        edges: Collection[str] = (),
    ) -> None:
        """Give the connections to the keeper, and have the store keep only what is still held.

        adopted: the workers that an earlier keeper has left, as far as they have come.  edges: the
        names of those that were taken over.
        """
        known = {_inode(worker.memfd): worker for worker in adopted}
        self._fence(known)
        rows = self._rows(known)
        stored, self._connections = self._connections, {}
        for name, (stored_as, fd) in stored.items():
            sock = socket.socket(fileno=fd)
            called_as = self._learn_called(connections, name)
            try:
                self._restore_one(connections, rows.get(name), name, stored_as, sock, listeners)
            except Exception as error:
                # Each by itself: what one of them was at must not cost the others.
                _log.error("cannot restore a connection", id=name, error=repr(error))
                if name not in connections.connection_table:
                    connections.end(sock)
            restored = connections.connection_table.get(name)
            if restored is None:
                connections.post.ended(name)
            else:
                at = restored.ownership
                owner = at.worker if at.state is OwnershipState.OWNED else None
                connections.post.restored(name, owner, at.epoch)
                restored.called_as = called_as
                store.call(restored)
        held = {f"{CONNECTION}{each.id}.{each.stored_as}" for each in connections.connection_table}
        held |= {f"{HANDOFF}{each.id}.{each.parcel_as}" for each in connections.connection_table}
        held |= {f"{HEADER}{each.id}.{each.header_as}" for each in connections.connection_table}
        held |= {f"{CALLED}{each.id}.{each.called_as}" for each in connections.connection_table}
        held |= {worker.board_as for worker in adopted}
        held.update(edges)
        for name in self.names:
            if name not in held and not name.startswith((LISTENER, SETTINGS)):
                store.remove(name)
        for name, sock in self._listeners.items():
            address = format_address(sock.getsockname())
            _log.warning("listener dropped: it is not configured any more", address=address)
            store.remove(name)
        if stored:
            fates: Counter[str] = Counter()
            for dead in {row.worker.serial: row.worker for row in rows.values()}.values():
                fates += dead.take_fates()
            held_now = len(connections.connection_table)
            _log.info("connections restored", connections=held_now, **fates)
        self.close()

    def _restore_one(
        self,
        connections: Connections,
        row: _Row | None,
        name: str,
        stored_as: str,
        sock: socket.socket,
        listeners: Sequence[str],
    ) -> None:
        handoff = self._handoff(name)
        header = self._header(name)[0]
        connections.believe(sock)
        if row is not None and (handoff is None or row.epoch > handoff.epoch or row.serves_on):
            number = _listener_of(sock, header, listeners)
            told = (row.worker, row.number, sock, number, _epoch_of(stored_as), *self._header(name))
            if row.alive and row.worker.adopted is not None:
                connections.restore_living(*told)
            elif row.alive:
                _log.warning("connection left to its worker, which is alive", id=name)
                sock.close()
            else:
                connections.restore_owned(*told)
        elif handoff is not None:
            number = _listener_of(sock, header, listeners)
            handoff.stored_as = _epoch_of(stored_as)
            handoff.parcel_as = _epoch_of(self._handoffs[name][0])
            handoff.header_as = self._header(name)[1]
            connections.restore_unowned(handoff, sock, number)
        else:
            # Its worker had ended it, and only the word of it did not come.
            connections.end(sock)

    def close(self) -> None:
        """Let go of what nobody took."""
        for sock in (*self._listeners.values(), *self._edges.values()):
            sock.close()
        named = self._connections, self._handoffs, self._headers, self._called
        for fd in (*self._boards.values(), *(fd for each in named for _, fd in each.values())):
            os.close(fd)
        self._listeners.clear()
        self._edges.clear()
        self._boards.clear()
        for each in named:
            each.clear()

    def _learn_called(self, connections: Connections, name: str) -> int:
        """Have the post know what a connection is called; return as which version it is stored."""
        if name not in self._called:
            return 0
        stored_as, fd = self._called[name]
        data = os.pread(fd, min(os.fstat(fd).st_size, LARGEST), 0)
        try:
            saved = msgspec.msgpack.decode(data, type=SavedName)
        except ValueError as error:
            _log.error("cannot restore what a connection is called", id=name, error=str(error))
            return 0
        connections.post.learn_stored(saved)
        return _epoch_of(stored_as)

    def _header(self, name: str) -> tuple[bytes, int]:
        """Return a connection's PROXY header, b"" when it has none, and what it is stored as."""
        if name not in self._headers:
            return b"", 0
        stored_as, fd = self._headers[name]
        return os.pread(fd, HEADER_LIMIT, 0), _epoch_of(stored_as)

    def _fence(self, adopted: Container[int]) -> None:
        """End workers that have not come, where one may have been sent what nobody has by its word.

        It would read that some time, and so serve what another has by then.  adopted: inodes of the
        scoreboards of those that have come, and have read all that they were sent.
        """
        if self._is_one_on_its_way:
            for pid in System().end_siblings(self._boards_without(adopted)):
                _log.warning("worker killed: it did not come to be taken over", pid=pid)

    def awaits(self, come: Container[int]) -> bool:
        """Return whether there is a worker that has not come, and would be ended for that.

        come: as `adopted` of `_fence`.
        """
        return self._is_one_on_its_way and bool(System().siblings(self._boards_without(come)))

    @property
    def _is_one_on_its_way(self) -> bool:
        handoffs = [self._handoff(name) for name in self._handoffs]
        if any(each is not None and each.state is OwnershipState.MOVING for each in handoffs):
            return True
        return any(_tells_of_one_on_its_way(fd) for fd in self._boards.values())

    def _boards_without(self, come: Container[int]) -> list[int]:
        return [fd for fd in self._boards.values() if _inode(fd) not in come]

    def _rows(self, adopted: Mapping[int, Worker]) -> dict[str, _Row]:
        """Return the row of each connection's last owner; adopted: by inodes of the scoreboards."""
        found: dict[str, _Row] = {}
        alive: dict[tuple[int, int], bool] = {}
        for index, (name, fd) in enumerate(self._boards.items()):
            try:
                worker = adopted.get(_inode(fd))
                if worker is None:
                    worker = _ghost(index, name, fd)
                else:
                    worker.board_as = name
            except ValueError as error:
                _log.error("what the store gave back is left alone", name=name, error=error)
                continue
            for number, words in worker.scoreboard.taken():
                if not is_plausible(words):
                    continue
                process = words[record.PID], worker.memfd
                if process not in alive:
                    alive[process] = _is_alive(*process)
                row = _Row(words[record.EPOCH], worker, number, alive[process])
                earlier = found.get(id_of(words))
                if not (worker.scoreboard.keeps_states or row.alive):
                    words[record.STATUS] = SENT  # without its state it cannot go on
                if earlier is None or earlier.epoch < row.epoch:
                    found[id_of(words)] = row
        return found

    def _handoff(self, name: str) -> SavedConnection | None:
        if name not in self._handoffs:
            return None
        fd = self._handoffs[name][1]
        data = os.pread(fd, min(os.fstat(fd).st_size, LARGEST), 0)
        try:
            return msgspec.msgpack.decode(data, type=SavedConnection)
        except ValueError as error:
            _log.error("cannot restore a connection", id=name, error=str(error))
            return None


def _tells_of_one_on_its_way(memfd: int) -> bool:
    """Return whether a row of a worker that has died is of a connection that it gave up.

    The keeper leaves one so, and stores no handoff, as long as no other worker has the connection.
    """
    alive: dict[int, bool] = {}
    for _, _, pid, ended in Scoreboard(memfd, wary=True).columns(record.PID, record.ENDED):
        if ended == record.DETACHED:
            if pid not in alive:
                alive[pid] = _is_alive(pid, memfd)
            if not alive[pid]:
                return True
    return False


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def _key(name: str) -> str:
    """Return the connection's id in a name of the store: socketkeep.connection.ID.EPOCH.

    Raises ValueError.
    """
    _epoch_of(name)
    _, _, key, _ = name.split(".")
    if parse_connection_id(key)[0] > LAST_BOOT:
        raise ValueError(f"there can be no connection {key}")
    return key


def _put_latest(found: dict[str, tuple[str, int]], name: str, fd: int) -> None:
    """Put what is stored by that name of a connection, unless there is some of a later epoch.

    There are two where a keeper has died that had stored one and not yet removed the other.  Raises
    ValueError.
    """
    key = _key(name)
    earlier = found.get(key)
    if earlier is None or _epoch_of(earlier[0]) < _epoch_of(name):
        found[key] = name, fd
        fd = -1 if earlier is None else earlier[1]
    if fd >= 0:
        os.close(fd)


def _epoch_of(name: str) -> int:
    return int(name.rpartition(".")[2])


def _ghost(index: int, name: str, fd: int) -> Worker:
    """Return the record of the dead worker whose scoreboard that is."""
    _, _, _, on_crash, redeliver = name.split(".")
    if on_crash not in get_args(OnCrash):
        raise ValueError(f"there is no way {on_crash!r} to deal with a crash")
    scoreboard = Scoreboard(fd, wary=True)
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


def _listener_of(sock: socket.socket, header: bytes, listeners: Sequence[str]) -> int:
    """Return the number of the listener that accepted the connection, or of one like it.

    Of a plain end, which has no address, the edge's header tells it.
    """
    own = format_address(sock.getsockname())
    if connection_place(sock.fileno()) == PLAIN_END:
        with contextlib.suppress(Malformed):
            found = read_header(header, limit=HEADER_LIMIT)
            own = destination_text(found[0]) if found is not None else own
    if own in listeners:
        return listeners.index(own)
    port = own.rpartition(":")[2]
    return next((n for n, text in enumerate(listeners) if text.endswith(f":{port}")), 0)


def _is_alive(pid: int, memfd: int) -> bool:
    """Return whether the process that a row names is alive, and is one of the scoreboard's."""
    if not System().has_mapped(pid, memfd, child=True):
        return False
    try:
        return not has_ended(stat_fields(pid)[STATE])
    except OSError:
        return exists(pid)  # /proc may hide it (hidepid)
