"""The end of a connection in its worker: its line in the log, its account, and its row."""

from __future__ import annotations

import time
from contextlib import suppress

from socketkeep._base import _log
from socketkeep._stream import _record as record
from socketkeep._stream._record import Ended
from socketkeep._wire._channel import ChannelClosed
from socketkeep._wire._messages import ConnectionEnded as EndedMessage
from socketkeep._wire._messages import Free, Orphaned
from socketkeep._worker._entry import Entry
from socketkeep._worker._environment import Environment


class Settlement:
    """Settles the entries that a `Roster` has made."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def settle(self, entry: Entry) -> None:
        """Count how the entry ended and free its row."""
        environment = self._environment
        registered = entry.hooks.registered
        if not (entry.counted or registered) and environment.scoreboard.places.settle(entry.row):
            return
        words = entry.record
        left = words[record.ENDED] in (record.DETACHED, record.TAKEN)
        told = words[record.KEEP] != record.NOT_OFFERED or registered
        if told and not left:
            name, epoch = entry.lease.id, entry.lease.epoch
            with suppress(ChannelClosed):
                environment.channel.send_now(EndedMessage([(name, epoch)]))
        environment.scoreboard.release(entry.row)
        if entry.counted is not None and environment.doorkeeper is not None:
            environment.doorkeeper.leave(entry.counted)
            entry.counted = None
        if environment.scoreboard.crowded and not left:  # of which the keeper has been told
            with suppress(ChannelClosed):
                environment.channel.send_now(Free())

    def log_end(self, entry: Entry) -> None:
        """Write the access log's line; called in the process that served the entry.

        That it goes on in another worker is no end: a reload would write a line for each.
        """
        if self._environment.access_log:
            words = entry.record
            moves = words[record.ENDED] in (record.DETACHED, record.TAKEN)
            log = _log.debug if moves else _log.info
            log(
                "connection",
                id=entry.lease.id,
                peer=entry.peer,
                listener=entry.lease.listener,
                duration=(time.monotonic_ns() - words[record.ACCEPTED_AT]) / 1e9,
                bytes_in=words[record.BYTES_IN],
                bytes_out=words[record.BYTES_OUT],
                ended=Ended(words[record.ENDED]).name.lower(),
                why=entry.why,
                **({"name": entry.name} if entry.name else {}),
                **({"labels": entry.labels} if entry.labels else {}),
            )

    def orphan(self, entry: Entry) -> None:
        """Tell the keeper that the process which served the entry has died without ending it."""
        words = entry.record
        if words[record.KEEP] == record.NOT_OFFERED:
            return
        with suppress(ChannelClosed, OSError):
            self._environment.channel.send_now(
                Orphaned(
                    entry.lease.id,
                    entry.lease.epoch,
                    words[record.STATUS],
                    self._environment.scoreboard.state(entry.row),
                    words[record.BYTES_IN],
                    words[record.BYTES_OUT],
                    self._environment.scoreboard.reply(entry.row),
                    record.deadline_in(words),
                )
            )
            words[record.ENDED] = Ended.DETACHED  # what becomes of it the keeper says
