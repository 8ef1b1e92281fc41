"""Connections that C makes when it accepts them, by the pattern of one that was made before.

Entry, lease, hooks and `Connection` of a newcomer are the same as those of the one before it, but
for its row, its name and its peer, and for the header that an edge has sent before it.  To make
them anew in Python takes more than to serve a short connection; C copies them
(`_native/casting.c`).  So it does with one that another worker has had, or the keeper while it was
parked, which differs by its state and its counts, too.  Where more differs, or something is asked
of a connection before it is served, they are made as ever (`Roster.accepted`, `Roster.attached`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from socketkeep import _native
from socketkeep._base._forking import owners_of
from socketkeep._base._originals import Socket
from socketkeep._stream import _record as record
from socketkeep._stream._lease import Lease
from socketkeep._wire._inlets import Inlet
from socketkeep._worker._accepting import Door
from socketkeep._worker._entry import Entry
from socketkeep._worker._roster import Roster

if TYPE_CHECKING:
    from socketkeep._native._core import Caster

#: Of the others the peer's name is the peer's own to choose, or it has none.
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
#: Where a lease has what differs, in the order in which `casting.c` has it.
_DIFFERING: Final = tuple(
    map(Lease._fields.index, ("id", "peer", "turn", "epoch", "attached", "state", "proxy"))
)


def have_cast(
    doors: Iterable[tuple[socket.socket, Door]],
    roster: Roster,
    make: Callable[[Entry], None],
    *,
    owned: bool,
) -> None:
    """Have what comes by these doors be made in C, where there is no more to it than that.

    That includes what the keeper gives of their connections.

    make: gives the entry of the pattern its connection.  owned: each is to be told of forks by
    itself.
    """
    core = _native.core
    if core is None:
        return
    for listener, door in doors:
        headed = type(listener) is Inlet
        plain = listener.family in _FAMILIES and type(listener) is Socket
        if (plain or headed) and roster.has_pattern(door.index):
            caster = _caster(core.Caster, listener, door.index, roster, make, owned)
            if plain:
                roster.attach_by(door.index, caster.attach)
            if roster.makes_alike(door.index) and not roster.asks(door.index, headed=headed):
                door.accept_by(caster.accept)


def _caster(
    kind: type[Caster],
    listener: socket.socket,
    index: int,
    roster: Roster,
    make: Callable[[Entry], None],
    owned: bool,
) -> Caster:
    headed = type(listener) is Inlet
    stream = int(socket.SOCK_STREAM)  # an inlet is of another type
    sock = Socket(listener.family, stream, listener.proto)
    words = memoryview(bytearray(8 * record.WORDS)).cast("Q")
    entry, series, pace = roster.mould(0, words, sock, index)
    make(entry)
    socket.SocketType.close(sock)  # not its own method, which marks it: the mark would be copied
    return kind(
        entry=entry,
        listener=listener.fileno(),
        made=(int(listener.family), stream | socket.SOCK_NONBLOCK, listener.proto),
        series=series,
        pace=pace,
        differing=_DIFFERING,
        headed=headed,
        nodelay=entry.lease.nodelay and not headed,
        owned=owners_of() if owned else (None, None),
        **roster.accounts(index),
    )
