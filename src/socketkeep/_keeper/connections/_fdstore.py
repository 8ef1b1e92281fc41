"""The store of descriptors (FDSTORE in sd_notify(3)): what outlives the keeper.

It is the service manager's, or the guard's (`_guard/_program.py`).

Stored are the listeners, a handle of every connection that the keeper has one of (but for those of
TLS, where edges end with the keeper), with the PROXY header that it began with (`header`), with
what was said of it when no worker has it (`handoff`), with what it is called (`called`), and, where
connections are kept through crashes, the scoreboards of the workers (`board`), in which stands how
far each connection was.  When a worker has died, its scoreboard stays until others have all that
goes on of it: a handoff for each of some thousands would cost more than all else that is to be done
for them.  A guard also has the keeper's end of each edge's channel (`edge`), since edges outlive
the keeper there.  And there are the settings that the keeper goes by (`settings`), for one that
finds a mistake in the settings file.  The names say what is what.  The manager gives all of it to
the next keeper, see `_restoring.py`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from socketkeep._base import _log
from socketkeep._base._passing import sealed_size
from socketkeep._keeper.connections._barrier import Barrier
from socketkeep._keeper.loop._notify import Notifier
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables._connection_table import HeldConnection
from socketkeep._keeper.tables._crash_policy import Policy
from socketkeep._keeper.tables._names import NameTable
from socketkeep._keeper.tables._ownership import OwnershipState
from socketkeep._keeper.tables._state import sealed_memfd
from socketkeep._net._listener import STORED
from socketkeep._wire._descriptors import PLAIN_END, connection_place
from socketkeep._wire._scoreboard import connection_id

LISTENER: Final = STORED + "listener."
BOARD: Final = STORED + "board."
CONNECTION: Final = STORED + "connection."
HANDOFF: Final = STORED + "parcel."  # frozen, as all these names are: versions share a store
HEADER: Final = STORED + "header."
CALLED: Final = STORED + "called."
EDGE: Final = STORED + "edge."
SETTINGS: Final = STORED + "settings."

_RETRY: Final = 0.001  # the kernel lets ten wait, and who stores takes them at once
_PATIENCE: Final = 1.0  # seconds; who stores nothing for so long is not waited for
_LAST: Final = 1.0
_PAUSE: Final = 0.005
_LONGEST: Final = 255
_UNOWNED: Final = (OwnershipState.MOVING, OwnershipState.PARKED)


def listener_name(bound_as: str) -> str:
    """Return the name for the listener that --bind names so; a name must have no colon."""
    import hashlib  # for who has a store alone
    from urllib.parse import quote

    name = LISTENER + quote(bound_as, safe="")
    if len(name) <= _LONGEST:
        return name
    return LISTENER + hashlib.sha256(bound_as.encode()).hexdigest()


def board_name(boot: int, serial: int, policy: Policy) -> str:
    """Return the name for a worker's scoreboard."""
    redeliver = "redeliver" if policy.redeliver else "once"
    return f"{BOARD}{connection_id(boot, serial, 0)}.{policy.on_crash}.{redeliver}"


def settings_number(name: str) -> int:
    """Return the number of stored settings, of which the highest are the latest; -1: of others."""
    number = name.removeprefix(SETTINGS)
    return int(number) if number != name and number.isdecimal() else -1


def stored_settings(passed: Iterable[tuple[str, int]]) -> bytes | None:
    """Return the settings that a keeper before this one went by, of what the store gave back."""
    found = {settings_number(name): fd for name, fd in passed if name.startswith(SETTINGS)}
    fd = found.get(max(found, default=-1), -1)
    try:
        return os.pread(fd, sealed_size(fd, fcntl.F_SEAL_WRITE), 0) if fd >= 0 else None
    except (OSError, ValueError):
        return None


class FdStore:
    """The store as it is now.  The loop never waits for it: without room it is sent later.

    What is still to be sent dies with the keeper.  So what promises that it is stored, and what
    lets others act on that, is said when it has been sent (`when_sent`).
    """

    def __init__(
        self,
        reactor: Reactor,
        notifier: Notifier,
        boot: int,
        most: int,
        names: Iterable[str],
        manager: str = "service manager",
        edges_stay: bool = False,
        passes_on: bool = False,
    ) -> None:
        """manager: whose store it is, for the log.  edges_stay: whether they outlive the keeper.

        passes_on: whether who stores it passes it on, and may die together with the keeper.
        """
        self._reactor = reactor
        self._notifier = notifier
        self._boot = boot
        self.most: Final = most
        self._manager = manager
        self.edges_stay: Final = edges_stay
        self.names_of: NameTable | None = None  # what connections are called
        self._names = set(names)
        # To be sent, in order: a name, and its descriptor, a copy; -1: to be removed.
        self._queue: deque[tuple[str, int]] = deque()
        self._flushing = False
        self._sent = 0  # of what was in the queue
        self._progress_at = 0.0  # when the last of it was sent, or the first came to wait
        self._sending = False
        self._barrier = Barrier(reactor, notifier) if passes_on else None
        self._gathering = False  # until who stores begins with what is in the queue
        # Who is to be called, and after how much of it was sent.
        self._calls: deque[tuple[int, Callable[[], None]]] = deque()
        self._unheld: dict[str, HeldConnection] = {}  # connections that have found no room
        self._throttle = _log.Throttle()

    def __len__(self) -> int:
        """Return how many descriptors are stored, or on their way there."""
        return len(self._names)

    @property
    def unheld(self) -> int:
        """Return how many connections are not stored, for want of room."""
        return len(self._unheld)

    @property
    def names(self) -> list[str]:
        """The names of all that is stored, or on its way there."""
        return sorted(self._names)

    def add(self, name: str, fd: int) -> bool:
        """Store `fd`, unless something is stored by that name; return whether something is."""
        if name in self._names:
            return True
        if len(self._names) >= self.most:
            self._throttle.warning(
                "the guard's store is full"
                if self._manager == "guard"
                else "the service manager's store is full",
                most=self.most,
            )
            return False
        self._names.add(name)
        if not self._send_queued() or not self._send_add(name, fd):
            self._defer(name, fd)
        return name in self._names

    def remove(self, name: str) -> None:
        """Store it no longer."""
        if name not in self._names:
            return
        self._names.discard(name)
        if not self._send_queued() or not self._send_remove(name):
            self._wait(name, -1)

    def remove_all(self, prefix: str) -> None:
        """Store nothing any longer whose name begins so."""
        for name in [name for name in self._names if name.startswith(prefix)]:
            self.remove(name)

    def when_sent(self, call: Callable[[], None]) -> None:
        """Call it once all that was given so far has been sent: at once if nothing waits.

        And in any case when nothing was sent for a second: a store that is stopped keeps nobody
        waiting.
        """
        if self._queue:
            self._calls.append((self._sent + len(self._queue), call))
        elif self._barrier is not None:
            self._barrier.when_passed(call)
        else:
            call()

    def settle(self) -> None:
        """Send what is left, for a moment at most, and call who waits for that."""
        deadline = time.monotonic() + _LAST
        while not self._send_queued() and time.monotonic() < deadline:
            time.sleep(_PAUSE)  # the loop does not run, and nothing else tells of room
        self._call_all()

    def close(self) -> None:
        """Send what is left, for a moment at most, and then no more."""
        self._calls.clear()
        if self._barrier is not None:
            self._barrier.drop()
        self.settle()
        self._clear_queue()

    # A guard that begins with what there is to be stored, and one that has gone.

    def gather(self) -> None:
        """Send nothing: another guard is started, and begins with what is given until then."""
        self._gathering = True

    @property
    def gathered(self) -> dict[str, int]:
        """The descriptors that the guard is to begin with, by names; they stay this store's."""
        found: dict[str, int] = {}
        for name, fd in self._queue:
            if fd < 0:
                found.pop(name, None)
            else:
                found[name] = fd
        return found

    def begun(self) -> None:
        """The guard has begun with that; it is sent the rest, for which there was no descriptor."""
        self._gathering = False
        self._sent += len(self._queue)
        self._clear_queue()
        while self._calls:
            self._call_first()
        self._fill()

    def abandon(self) -> None:
        """Nobody stores this any more: send nothing, and call who waits."""
        self._gathering = False
        self._clear_queue()
        self._names.clear()
        self._unheld.clear()
        self._call_all()

    def _clear_queue(self) -> None:
        for _, fd in self._queue:
            if fd >= 0:
                os.close(fd)
        self._queue.clear()

    def put_settings(self, data: bytes, earlier: int = 0) -> int:
        """Store the settings that are gone by, in the place of those of before.

        earlier: the number of those that a store before this one had.  Returns theirs.
        """
        before = [name for name in self._names if name.startswith(SETTINGS)]
        number = 1 + max((settings_number(name) for name in before), default=earlier)
        try:
            memfd = sealed_memfd("socketkeep-settings", data)
        except OSError as error:
            self._throttle.warning("cannot store a descriptor", error=error.strerror)
            return earlier
        stored = self.add(f"{SETTINGS}{number}", memfd)
        os.close(memfd)
        for name in before if stored else ():
            self.remove(name)
        return number

    def add_board(self, serial: int, policy: Policy, memfd: int) -> None:
        """Store the scoreboard of a worker."""
        self.add(board_name(self._boot, serial, policy), memfd)

    def remove_board(self, serial: int, policy: Policy) -> None:
        """The worker has ended, and what it left has been judged."""
        self.remove(board_name(self._boot, serial, policy))

    # What the connection table tells.

    def has_board(self, serial: int, policy: Policy) -> bool:
        """Return whether the scoreboard of that worker is stored."""
        return board_name(self._boot, serial, policy) in self._names

    def put(self, held: HeldConnection, *, told: bool = False) -> None:
        """The keeper has a handle of a connection, or its owner has changed.

        told: a row of a scoreboard that is stored says how far it is, so that it needs no handoff.
        """
        if held.proxy and self._ends_with_edge(held):
            return
        if self._put_whole(held, told):
            self._unheld.pop(held.id, None)
        else:
            self._unstore(held)
            self._unheld[held.id] = held

    def put_anew(self, held: HeldConnection) -> None:
        """Store a connection as `put` does, by the names that an earlier guard had it by.

        By these a sidecar may have it still, which then needs room for it once.
        """
        connection, header, handoff = held.stored_as, held.header_as, held.parcel_as
        held.stored_as = held.header_as = held.parcel_as = held.called_as = 0
        if connection and self.add(f"{CONNECTION}{held.id}.{connection}", held.sock.fileno()):
            held.stored_as = connection
            if header:
                self._store_header(held, header)
            if _tells(held, handoff):
                self._store_handoff(held, handoff)
        self.put(held)

    def _put_whole(self, held: HeldConnection, told: bool) -> bool:
        """Store all that belongs to a connection; return whether there was room for it."""
        epoch = held.ownership.epoch
        if not held.stored_as and self.add(f"{CONNECTION}{held.id}.{epoch}", held.sock.fileno()):
            held.stored_as = epoch
        if held.stored_as and held.proxy and not held.header_as:
            self._store_header(held, epoch)
        if not held.stored_as or (held.proxy and not held.header_as):
            return False
        self.call(held)
        unowned = held.ownership.state in _UNOWNED and not told
        if held.parcel_as and (told or not _tells(held, held.parcel_as)):
            self._remove_handoff(held)
        if unowned and not held.parcel_as:
            self._store_handoff(held, epoch)
        # Without its handoff it would go on from where it was before.
        return not unowned or bool(held.parcel_as)

    def call(self, held: HeldConnection) -> None:
        """Store anew what a connection is called, which may have changed."""
        known = None if self.names_of is None else self.names_of.get(held.id)
        version = 0 if known is None else known.version
        before = held.called_as
        if version == before or not held.stored_as:
            return
        name = f"{CALLED}{held.id}.{version}"
        stored = known is not None and self._store_data(
            held, name, msgspec.msgpack.encode(known.saved)
        )
        held.called_as = version if stored else 0
        if before:  # what it was called before is worse than nothing
            self.remove(f"{CALLED}{held.id}.{before}")

    def woken(self, held: HeldConnection) -> None:
        """A parked connection is to be sent to a worker: its handoff says so before it is.

        For the next keeper, which has then to do with who may have been sent it and has not read
        that.  Another is stored before this one is removed, so that there is one at any moment.
        """
        before = held.parcel_as
        if before:
            self._store_handoff(held, held.ownership.next_epoch)
            if held.parcel_as != before:
                self.remove(f"{HANDOFF}{held.id}.{before}")

    def forget(self, held: HeldConnection) -> None:
        """The keeper lets go of its handle; another may have its room."""
        self._unheld.pop(held.id, None)
        self._unstore(held)
        if self._unheld:
            self._reactor.call_soon(self._fill)

    def _fill(self) -> None:
        """Store what had found no room, as far as there is some now."""
        for held in tuple(self._unheld.values()):
            if len(self._names) >= self.most:
                return
            self.put(held)

    def _unstore(self, held: HeldConnection) -> None:
        if held.stored_as:
            self.remove(f"{CONNECTION}{held.id}.{held.stored_as}")
            held.stored_as = 0
        if held.header_as:
            self.remove(f"{HEADER}{held.id}.{held.header_as}")
            held.header_as = 0
        if held.called_as:
            self.remove(f"{CALLED}{held.id}.{held.called_as}")
            held.called_as = 0
        self._remove_handoff(held)

    def _ends_with_edge(self, held: HeldConnection) -> bool:
        """Return whether it does not outlive this process: its edge is of the same unit."""
        return not self.edges_stay and connection_place(held.sock.fileno()) == PLAIN_END

    def _remove_handoff(self, held: HeldConnection) -> None:
        if held.parcel_as:
            self.remove(f"{HANDOFF}{held.id}.{held.parcel_as}")
            held.parcel_as = 0

    def _store_handoff(self, held: HeldConnection, epoch: int) -> None:
        handoff = held.snapshot(_as_is)
        # The row of a worker that it has been sent to is to count, as soon as there is one.
        handoff.epoch, handoff.worker = held.ownership.given_up_at, None
        data = msgspec.msgpack.encode(handoff)
        if self._store_data(held, f"{HANDOFF}{held.id}.{epoch}", data):
            held.parcel_as = epoch

    def _store_header(self, held: HeldConnection, epoch: int) -> None:
        """Store what stands in no row of a scoreboard; it stays the same, whoever has it."""
        if self._store_data(held, f"{HEADER}{held.id}.{epoch}", held.proxy):
            held.header_as = epoch

    def _store_data(self, held: HeldConnection, name: str, data: bytes) -> bool:
        try:
            memfd = sealed_memfd(f"socketkeep-{name.split('.')[1]}", data)
        except OSError as error:
            self._throttle.warning("cannot store a connection", error=error.strerror, **held.label)
            return False
        stored = self.add(name, memfd)
        os.close(memfd)
        return stored

    # Sending.

    def _send_add(self, name: str, fd: int) -> bool:
        words = ("FDSTORE=1", "FDPOLL=0", f"FDNAME={name}")
        return self._notifier.send(*words, descriptors=(fd,), again=True)

    def _send_remove(self, name: str) -> bool:
        return self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={name}", again=True)

    def _defer(self, name: str, fd: int) -> None:
        try:
            copy = os.dup(fd)
        except OSError as error:
            self._names.discard(name)
            self._throttle.warning("cannot store a descriptor", error=error.strerror)
            return
        self._wait(name, copy)

    def _wait(self, name: str, fd: int) -> None:
        if not self._queue:
            self._progress_at = self._reactor.clock()
        self._queue.append((name, fd))
        self._flush_later()

    def _flush_later(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._reactor.call_later(_RETRY, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self._send_queued():
            self._flush_later()
            if self._calls and self._reactor.clock() - self._progress_at >= _PATIENCE:
                left = len(self._queue)
                self._throttle.warning("what is to be stored is not taken", waiting=left)
                self._call_all()

    def _call_first(self) -> None:
        _, call = self._calls.popleft()
        if self._barrier is not None:
            self._barrier.when_passed(call)
        else:
            self._reactor.attempt(call)  # a mistake in it keeps nothing from being sent

    def _call_all(self) -> None:
        """Call who waits, whatever has been sent or passed on."""
        while self._calls:
            self._call_first()
        if self._barrier is not None:
            self._barrier.give_up()

    def _send_queued(self) -> bool:
        """Send what there is room for, and call who waits for that; return whether that was all."""
        if self._gathering:
            return False
        if self._sending:  # by one of these calls
            return not self._queue
        self._sending = True
        try:
            while self._queue:
                name, fd = self._queue[0]
                if not (self._send_remove(name) if fd < 0 else self._send_add(name, fd)):
                    return False
                self._queue.popleft()
                self._sent += 1
                self._progress_at = self._reactor.clock()
                if fd >= 0:
                    os.close(fd)
                while self._calls and self._calls[0][0] <= self._sent:
                    self._call_first()
        finally:
            self._sending = False
        return True


def _tells(held: HeldConnection, epoch: int) -> bool:
    """Return whether a handoff stored as of that epoch says how far the connection is."""
    at = held.ownership
    return at.state in _UNOWNED and epoch in (at.epoch, at.next_epoch)


def _as_is(fd: int) -> int:
    return fd
