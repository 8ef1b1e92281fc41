"""The server's edge, had by a worker to begin TLS on a connection that began in plain text."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable

from socketkeep._stream import _record as record
from socketkeep._wire._channel import ChannelClosed
from socketkeep._wire._messages import StartTls
from socketkeep._worker._entry import Entry
from socketkeep._worker._environment import Environment
from socketkeep._worker._handle_backup import HandleBackup


class EdgeOf:
    """The edge, for one connection; a `Front`.

    offered: called with the entry when the keeper is to be given a handle of it.
    """

    __slots__ = ("_entry", "_environment", "_offered")

    def __init__(
        self, environment: Environment, entry: Entry, offered: Callable[[Entry], None]
    ) -> None:
        self._environment = environment
        self._entry = entry
        self._offered = offered

    def ask(self, sock: socket.socket, plain: socket.socket, unread: bytes) -> None:
        """Have the edge shake hands; see `Front`."""
        entry = self._entry
        # The keeper lets go of its handle, and is not to be given this one again.
        entry.record[record.KEEP] = record.NOT_KEPT
        lease = entry.lease
        message = StartTls(
            lease.id,
            lease.epoch,
            entry.listener,
            entry.peer,
            unread,
            lease.proxy,
            sock.fileno(),
            plain.fileno(),
        )
        try:
            self._environment.channel.send_now(message)
        except ChannelClosed:
            raise OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)) from None

    def done(self, plain: socket.socket, header: bytes) -> None:
        """Go on with the connection as one whose TLS was in the edge from the beginning."""
        entry = self._entry
        entry.sock = plain
        entry.lease = entry.lease._replace(proxy=header)
        entry.returns_to = 0
        entry.record[record.KEEP] = record.NOT_OFFERED
        if entry.hooks.shelf is not None:
            at = time.monotonic() + self._environment.config.keep_after
            entry.offer = HandleBackup(self._environment.channel, entry, at)
            self._offered(entry)
