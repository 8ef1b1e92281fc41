"""Sending as a process does that may send anything: a message with whatever descriptors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from socketkeep._base import _passing
from socketkeep._wire._channel import Channel
from socketkeep._wire._messages import ABSENT, Message, encode

M = TypeVar("M", bound=Message)


def send_raw(channel: Channel, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    _passing.send(channel._sock, payload, descriptors)


def send_with(channel: Channel, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send `message` with these descriptors, however many it takes."""
    if not descriptors:
        channel.send_now(message)
        return
    payload, fds = _passing.pack(encode(message), descriptors)
    send_raw(channel, payload, fds)
    if _passing.in_memfd(payload):
        os.close(fds[-1])


def bare(message: M) -> M:
    """Return `message` without its descriptors, whose numbers another process has not."""
    absent = {name: ABSENT for name in ("connection", "answer") if hasattr(message, name)}
    return msgspec.structs.replace(message, **absent)
