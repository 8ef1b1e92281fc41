"""One connection that a worker serves, with the row that it has on the scoreboard."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from socketkeep._stream._core import Core
from socketkeep._stream._lease import Backup, Hooks, Lease
from socketkeep._stream._record import Record

if TYPE_CHECKING:  # asyncio is for workers that have a loop
    import asyncio

    from socketkeep._stream._shell import Shell
    from socketkeep._wire._census import Place


@dataclass(slots=True, eq=False)
class Entry:
    """One connection in this worker."""

    row: int
    record: Record
    handle: socket.socket | Core  # the socket, or what makes it when it is asked for
    lease: Lease
    hooks: Hooks
    listener: int
    introduced: str = ""  # its peer, where the lease does not tell it
    why: str = ""  # it ended, for the access log
    name: str = ""  # that its handler has given it, likewise
    labels: dict[str, str] | None = None  # likewise
    returns_to: int = 0  # to which of the channel's keepers, once parked, see `give_back`; 0: none
    offer: Backup | None = None  # to be made to the keeper
    header_by: int = 0  # its PROXY header is still to come, as `ConnectionDetached` has it
    counted: Place | None = None  # by its address, until it ends or leaves
    conn: Shell | None = None  # made already, by C or for it
    task: asyncio.Task[None] | None = None  # that serves it, in an async worker

    @property
    def sock(self) -> socket.socket:
        """The socket."""
        handle = self.handle
        return handle if isinstance(handle, socket.SocketType) else handle.sock

    @sock.setter
    def sock(self, sock: socket.socket) -> None:
        self.handle = sock

    @property
    def peer(self) -> str:
        """The peer's address, "" before it is known."""
        return self.introduced or self.lease.peer
