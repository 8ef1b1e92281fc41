"""The connections that the keeper has a handle of, and who each belongs to: a store, no decisions.

A connection is held from its worker's `ConnectionDetached` until the next worker's `Attached`,
while it is parked and served after that, while it is being closed, and,
with ``--keep crash``, all the time that workers serve it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, Protocol

from socketkeep._keeper.tables._ownership import Ownership, OwnershipState
from socketkeep._keeper.tables._packing import pack, unpack
from socketkeep._keeper.tables._records import ConnectionRecord, carried
from socketkeep._keeper.tables._state import KeepOpen, SavedConnection
from socketkeep._wire._census import Place
from socketkeep._wire._doorkeeper import Doorkeeper
from socketkeep._wire._messages import ConnectionDetached, decode, encode
from socketkeep._wire._parcels import is_parcel

#: In place of its row: it was sent to its owner, and is taken to have arrived.
ON_ITS_WAY: Final = -2


@dataclass(slots=True, eq=False)
class HeldConnection(ConnectionRecord):
    """One connection that the keeper has a handle of.

    handoff: what its last owner said of it; of an owned connection only what never changes counts.
    """

    _handoff: ConnectionDetached | bytes
    sock: socket.socket
    ownership: Ownership
    inode: int = (
        0  # of the socket, by which one connection is told to be another; see `ConnectionTable`
    )
    counted: Place | None = None  # by its address, as long as no worker has it
    unsent: bytes = b""  # of a push, while it is parked
    told: Callable[[bool], None] | None = None  # whether that has gone
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.handoff.id

    @property
    def handoff(self) -> ConnectionDetached:
        handoff = self._handoff
        return unpack(handoff) if isinstance(handoff, bytes) else handoff

    @handoff.setter
    def handoff(self, handoff: ConnectionDetached) -> None:
        self._handoff = handoff

    @property
    def parcel(self) -> bytes | None:
        """The handoff as the message by which it came, where that says no more than most do."""
        handoff = self._handoff
        return handoff if type(handoff) is bytes and is_parcel(handoff) else None

    @parcel.setter
    def parcel(self, parcel: bytes) -> None:
        self._handoff = parcel

    @property
    def proxy(self) -> bytes:
        """The PROXY header that it began with."""
        return b"" if self.parcel is not None else self.handoff.proxy

    @property
    def unread_size(self) -> int:
        """Return how many bytes came with it that no worker has dealt with."""
        return 0 if isinstance(self._handoff, bytes) else len(self._handoff.unread)

    def pack(self) -> None:
        """Keep the handoff as few bytes.

        One that has unread bytes is about to be given to a worker.
        """
        handoff = self._handoff
        if not isinstance(handoff, bytes) and not handoff.unread:
            self._handoff = pack(handoff)

    def unpack(self) -> None:
        """Have the handoff at hand again."""
        self._handoff = self.handoff

    def snapshot(self, keep: KeepOpen) -> SavedConnection:
        """Return what the next version of the keeper knows it by."""
        owner = self.ownership
        return SavedConnection(
            **carried(self, ConnectionRecord),
            parcel=encode(self.handoff),
            fd=keep(self.sock.fileno()),
            state=owner.state,
            epoch=owner.epoch,
            worker=owner.worker,
            unsent=self.unsent,
        )

    @classmethod
    def restored(cls, saved: SavedConnection, sock: socket.socket | None = None) -> HeldConnection:
        """Make the record anew; sock: the connection, if it is not at the descriptor it was at."""
        handoff = decode(saved.parcel)
        assert isinstance(handoff, ConnectionDetached)
        return cls(
            handoff,
            sock or socket.socket(fileno=saved.fd),
            Ownership(saved.state, saved.epoch, saved.worker),
            unsent=saved.unsent,
            **carried(saved, ConnectionRecord),
        )

    @property
    def label(self) -> dict[str, object]:
        """The fields by which log lines name it."""
        return {"id": self.handoff.id, "peer": self.handoff.peer}


class Close(Protocol):
    """Ends a connection that no worker has, counts it, and says why in the access log."""

    def __call__(
        self, held: HeldConnection, counted: Literal["closed", "lost"], why: str
    ) -> None: ...


class Store(Protocol):
    """Keeps copies of the handles where they outlive the keeper."""

    def put(self, held: HeldConnection, *, told: bool = False) -> None:
        """Told: what is said of it stands elsewhere in the store."""

    def woken(self, held: HeldConnection) -> None: ...
    def call(self, held: HeldConnection) -> None: ...
    def forget(self, held: HeldConnection) -> None: ...
    def when_sent(self, call: Callable[[], None]) -> None: ...


class ConnectionTable:
    """All that the keeper holds, by id, and what of it each worker owns."""

    def __init__(self, doorkeeper: Doorkeeper | None = None) -> None:
        self._doorkeeper = doorkeeper
        self.store: Store | None = None
        #: All of them, to be looked into.
        self.held: Final[dict[str, HeldConnection]] = {}
        self._owned: dict[int, dict[str, HeldConnection]] = {}
        self._inodes: set[int] = set()
        #: Of those that go on after a death, by id: what is done when the row of the dead owner
        #: need not be read any more.
        self._told_by_rows: dict[str, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[HeldConnection]:
        return iter(tuple(self.held.values()))

    def __contains__(self, name: str) -> bool:
        return name in self.held

    def get(self, name: str) -> HeldConnection | None:
        """Return the connection of that id."""
        return self.held.get(name)

    def has_socket(self, fd: int) -> bool:
        """Return whether `fd` is of a connection that is held, under whatever id.

        Without this a worker could have one connection held under as many ids as it likes.
        """
        return os.fstat(fd).st_ino in self._inodes

    def owned_by(self, serial: int) -> list[HeldConnection]:
        """Return what a worker serves and the keeper has a handle of, too."""
        return list(self._owned.get(serial, {}).values())

    def use(self, doorkeeper: Doorkeeper | None) -> None:
        """Count by this one from now on, those that are here included."""
        self._doorkeeper = doorkeeper
        if doorkeeper is not None:
            for held in self:
                self._count(held, doorkeeper)

    def put(self, held: HeldConnection) -> None:
        """Hold a connection, or note that its owner has changed."""
        if held.id not in self.held:
            held.inode = os.fstat(held.sock.fileno()).st_ino
            self._inodes.add(held.inode)
        self.held[held.id] = held
        owner = held.ownership.worker
        if held.ownership.state is OwnershipState.OWNED and owner is not None:
            self._owned.setdefault(owner, {})[held.id] = held
        begun = held.parcel is not None or not held.handoff.header_by
        if self.store is not None and begun:
            self.store.put(held, told=held.id in self._told_by_rows)
        if self._told_by_rows and held.ownership.state is not OwnershipState.MOVING:
            self._is_told(held.id)
        if self._doorkeeper is not None:
            self._count(held, self._doorkeeper)

    def give(self, held: HeldConnection, serial: int) -> None:
        """Note that a worker owns a connection that is held, and neither stored nor counted."""
        owned = self._owned.get(serial)
        if owned is None:
            owned = self._owned[serial] = {}
        owned[held.id] = held
        if self._told_by_rows:
            self._is_told(held.id)

    def tell_by_row(self, held: HeldConnection, done: Callable[[], None]) -> None:
        """Note that the row which its dead owner has left says how far it is, and is stored.

        `done` is called when it has another owner, has ended, or is stored itself.
        """
        self._told_by_rows[held.id] = done

    def store_told(self) -> None:
        """Store what rows of dead owners say, and need these no more."""
        for name in tuple(self._told_by_rows):
            if self.store is not None:
                self.store.put(self.held[name])
            self.when_stored(partial(self._is_told, name))

    def _is_told(self, name: str) -> None:
        done = self._told_by_rows.pop(name, None)
        if done is not None:
            done()

    def woken(self, held: HeldConnection) -> None:
        """Note that one that was parked is to be sent to a worker."""
        if self.store is not None:
            self.store.woken(held)

    def when_stored(self, call: Callable[[], None]) -> None:
        """Call it when all that was said here so far has been stored, where it is stored."""
        if self.store is None:
            call()
        else:
            self.store.when_sent(call)

    def _count(self, held: HeldConnection, doorkeeper: Doorkeeper) -> None:
        """Count by its address what no worker has: workers count what they serve."""
        if held.ownership.state is OwnershipState.OWNED:
            self._uncount(held)
        elif held.counted is None and not held.handoff.header_by:  # else it has not been let in
            held.counted = doorkeeper.count(held.handoff.peer, held.handoff.listener)

    def _uncount(self, held: HeldConnection) -> None:
        if held.counted is not None and self._doorkeeper is not None:
            self._doorkeeper.leave(held.counted)
            held.counted = None

    def disown(self, held: HeldConnection, serial: int) -> None:
        """Note that the worker does not own it any more."""
        owned = self._owned.get(serial)
        if owned is not None:
            owned.pop(held.id, None)
            if not owned:
                del self._owned[serial]

    def forget(self, held: HeldConnection) -> None:
        """Hold it no longer; whoever has its socket closes it."""
        if self.store is not None:
            self.store.forget(held)
        if self._told_by_rows:
            self._is_told(held.id)
        self._uncount(held)
        del self.held[held.id]
        self._inodes.discard(held.inode)
