"""Handing a detached connection to the keeper, for workers whose handlers block."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Final

from socketkeep._base import _log
from socketkeep._base._passing import SURELY_INLINE
from socketkeep._base._structs import replace
from socketkeep._stream._lease import Handoff
from socketkeep._wire._channel import Channel, ChannelClosed
from socketkeep._wire._messages import ConnectionDetached

# A pipe, and the memfd of a message that does not fit a packet.
_KEPT: Final = 3
_RETRY: Final = 0.1


class Reserve:
    """Holds places in the process's table of descriptors.

    To hand a connection over takes a descriptor or more, and only handing it over frees one:
    without a reserve a process at its limit would keep all of its connections to the deadline.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: list[int] = []
        self.refill()

    def spend(self) -> bool:
        """Free the places, for the caller to try again; return whether there were any."""
        with self._lock:
            places, self._places = self._places, []
        for fd in places:
            os.close(fd)
        return bool(places)

    def refill(self) -> None:
        """Take the places again, as far as there are any."""
        with self._lock, suppress(OSError):
            while len(self._places) < _KEPT:
                self._places.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def give_back(
    channel: Channel, detached: ConnectionDetached | bytes, handoff: Handoff, kept_by: int
) -> bool:
    """Hand the connection to the keeper that has a handle of it, the channel's `kept_by`-th.

    Without a descriptor, and without waiting for an answer: nothing of it can be missing there.
    Returns False, and the connection is still here, when it does not go like that.

    detached: the message, or its payload.
    """
    if isinstance(detached, ConnectionDetached):
        size = len(detached.unread) + len(detached.state or b"") + len(detached.proxy)
        if size > SURELY_INLINE or detached.groups or detached.labels:
            return False  # a memfd it would be, which a keeper at its limit does not get
    try:
        if isinstance(detached, bytes):
            channel.send_payload_now(detached, [])
        else:
            channel.send_now(detached)
    except (ChannelClosed, OSError):
        return False
    if channel.keepers != kept_by:
        return False  # another one may have got it, which knows nothing of the connection
    handoff.sock.close()
    return True


def hand_over(
    channel: Channel,
    reserve: Reserve,
    detached: ConnectionDetached,
    handoff: Handoff,
    deadline: float,
) -> bool:
    """Give the connection to the keeper and close this handle once the keeper holds it.

    The answer comes over a pipe of its own, since several threads or processes share the channel.
    Tried again while the keeper, or this process, is out of descriptors.  Returns False when the
    keeper did not take it before `deadline`, and raises ChannelClosed when it has gone; the
    connection is then still open here.
    """
    while True:
        try:
            if _offer(channel, detached, handoff.sock.fileno()):
                handoff.sock.close()
                reserve.refill()
                return True
        except OSError as error:
            if reserve.spend():
                continue
            _log.debug("cannot hand over yet", id=detached.id, error=error.strerror)
        if time.monotonic() >= deadline:
            return False
        time.sleep(_RETRY)


def _offer(channel: Channel, detached: ConnectionDetached, fd: int) -> bool:
    answer, ours = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            channel.send_now(replace(detached, connection=fd, answer=ours))
        finally:
            os.close(ours)
        # EOF without a byte: the descriptors did not arrive.
        return os.read(answer, 1) != b""
    finally:
        os.close(answer)
