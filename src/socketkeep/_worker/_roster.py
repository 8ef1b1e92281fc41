"""The connections that a worker serves: their rows, ids and assignments, and their accounts."""

from __future__ import annotations

import itertools
import os
import socket
import time
from dataclasses import dataclass

from socketkeep import _log
from socketkeep import _record as record
from socketkeep._assignment import Assignment, Handover, Retirement
from socketkeep._record import Ended
from socketkeep._wire import _scoreboard as scoreboard
from socketkeep._wire._messages import Attach, Detached
from socketkeep._worker._environment import Environment


@dataclass(slots=True, eq=False)
class Entry:
    """One connection in this worker."""

    row: int
    record: memoryview
    sock: socket.socket
    assignment: Assignment
    listener: int
    peer: str = ""
    why: str = ""  # it ended, for the access log


class Roster:
    """Makes an entry of each connection accepted or attached, and settles it at its end."""

    def __init__(self, environment: Environment, retirement: Retirement | None) -> None:
        self._environment = environment
        self._retirement = retirement
        self._numbers = itertools.count(1)

    def accepted(self, sock: socket.socket, listener: int) -> Entry | None:
        """Enter a new connection; None when the scoreboard is full."""
        environment = self._environment
        row = environment.scoreboard.claim()
        if row is None:
            return None
        number = next(self._numbers)
        words = environment.scoreboard.record(row)
        words[record.BOOT] = environment.boot
        words[record.MINTED_BY] = environment.serial
        words[record.ACCEPTED_AT] = time.monotonic_ns()
        words[record.EPOCH] = 1
        name = scoreboard.connection_id(environment.boot, environment.serial, number)
        assignment = self._assignment(name, listener, words)
        environment.scoreboard.add(scoreboard.ACCEPTED)
        return self._enter(row, words, number, sock, assignment, listener)

    def attached(self, message: Attach, sock: socket.socket) -> Entry | None:
        """Enter a connection that another worker detached; None when there is no room."""
        environment = self._environment
        row = environment.scoreboard.claim()
        if row is None:
            return None
        boot, minted_by, number = scoreboard.parse_connection_id(message.id)
        words = environment.scoreboard.record(row)
        words[record.BOOT] = boot
        words[record.MINTED_BY] = minted_by
        words[record.ACCEPTED_AT] = message.accepted_at
        words[record.EPOCH] = message.epoch
        words[record.BYTES_IN] = message.bytes_in
        words[record.BYTES_OUT] = message.bytes_out
        assignment = self._assignment(message.id, message.listener, words)
        assignment.epoch = message.epoch
        assignment.attached = message.attached
        assignment.state = message.state
        assignment.unread = message.unread
        environment.scoreboard.add(scoreboard.ATTACHED_RELOAD)
        return self._enter(row, words, number, sock, assignment, message.listener)

    def introduce(self, entry: Entry, peer: str) -> None:
        """Show who serves the entry and who its peer is; called in the process that serves it."""
        entry.peer = peer
        entry.record[record.PID] = os.getpid()
        self._environment.scoreboard.set_peer(entry.row, peer)

    def parcel(self, entry: Entry, handover: Handover) -> Detached:
        """Return what is sent to the keeper with the connection's descriptor."""
        words = entry.record
        return Detached(
            id=entry.assignment.id,
            epoch=entry.assignment.epoch,
            listener=entry.listener,
            peer=entry.peer,
            state=handover.state,
            unread=handover.unread,
            accepted_at=words[record.ACCEPTED_AT],
            bytes_in=words[record.BYTES_IN],
            bytes_out=words[record.BYTES_OUT],
        )

    def log_end(self, entry: Entry) -> None:
        """Write the access log's line; called in the process that served the entry."""
        if self._environment.config.access_log:
            words = entry.record
            _log.info(
                "connection",
                id=entry.assignment.id,
                peer=entry.peer,
                listener=entry.assignment.listener,
                duration=(time.monotonic_ns() - words[record.ACCEPTED_AT]) / 1e9,
                bytes_in=words[record.BYTES_IN],
                bytes_out=words[record.BYTES_OUT],
                ended=Ended(words[record.ENDED]).name.lower(),
                why=entry.why,
            )

    def settle(self, entry: Entry) -> None:
        """Count how the entry ended and free its row."""
        self._environment.scoreboard.release(entry.row)

    def _assignment(self, name: str, listener: int, words: memoryview) -> Assignment:
        environment = self._environment
        config = environment.config
        return Assignment(
            id=name,
            epoch=1,
            listener=environment.listener_names[listener],
            resumable=environment.handler.resumable and config.keep != "none",
            state_type=environment.handler.state_type,
            idle_timeout=config.idle_timeout or None,
            replay_limit=config.replay_limit,
            record=words,
            retirement=self._retirement,
        )

    def _enter(
        self,
        row: int,
        words: memoryview,
        number: int,
        sock: socket.socket,
        assignment: Assignment,
        listener: int,
    ) -> Entry:
        words[record.LISTENER] = listener
        words[record.PID] = os.getpid()
        words[record.NUMBER] = number  # last: a row with a number is one that the keeper reads
        return Entry(row, words, sock, assignment, listener)
