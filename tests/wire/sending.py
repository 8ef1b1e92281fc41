"""Messages by their names on the wire, and sending as a process does that may send anything."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import msgspec

from socketkeep._base import _passing
from socketkeep._wire import _channel, _messages

#: The number of a descriptor that a message does not have, and that another process cannot know.
ABSENT: Final = _messages.ABSENT
#: The names of all messages.
KINDS: Final = sorted(_messages.TAGS)
#: A longer payload goes in a memfd.
LARGE: Final = _passing.PAYLOAD_LIMIT
send_packet: Final = _passing.send
receive_packet: Final = _passing.receive
SEALS: Final = _passing._SEALS
CHANNEL_CLOSED: Final = _channel.ChannelClosed
#: What who is wary raises of what is no message.
GARBLED: Final = _channel.Garbled

_KIND_OF: Final = {kind.__struct_config__.tag: kind for kind in _messages.Message.__subclasses__()}


def message(kind: str, *fields: Any, **more: Any) -> Any:
    """Return a message, by its name on the wire, which two versions have in common."""
    return _KIND_OF[kind](*fields, **more)


def kind_of(message: object) -> str | None:
    """Return the name on the wire of a message; None, where a packet had none that can be read."""
    return None if message is None else str(type(message).__struct_config__.tag)  # type: ignore[attr-defined]


def fields_of(message: object) -> tuple[Any, ...]:
    """Return all fields of a message, in their order."""
    return msgspec.structs.astuple(message)  # type: ignore[arg-type]


def changed(message: Any, **fields: Any) -> Any:
    """Return a message like this one but for these fields."""
    return msgspec.structs.replace(message, **fields)


def letter(
    number: int, to: str, data: bytes, until: int, *, group: bool = False, asks: bool = False
) -> Any:
    """Return one push, as several go in a message; asks: who is there, and nothing is pushed."""
    return _messages.Letter(number, to, data, until, group=group, asks=asks)


def letter_told(number: int, outcome: int, *more: Any, **named: Any) -> Any:
    """Return what has become of one push, as several go in a message."""
    return _messages.LetterTold(number, outcome, *more, **named)


def presence_told(node: str, name: str, *more: Any) -> Any:
    """Return a connection, as an answer has it to who asks who is there."""
    return _messages.PresenceTold(node, name, *more)


def descriptors_in(message: Any) -> list[int]:
    """Return the descriptors that a message takes along."""
    return _messages.descriptors_of(message)


def encoded(message: Any) -> bytes:
    """Return the payload of a message that is small."""
    return b"\0" + _messages.encode(message)


def decoded(payload: bytes, descriptors: Sequence[int] = ()) -> Any:
    """Return the message of a payload that is small."""
    return _messages.decode(payload[1:], descriptors)


def channel_on(sock: socket.socket, *, wary: bool = False) -> _channel.Channel:
    """Return a channel's end that has this socket.  wary: it believes nothing, as the keeper's."""
    return _channel.Channel(sock, wary=wary)


def sockets_of_a_channel() -> tuple[socket.socket, socket.socket]:
    """Return the sockets of both ends of a channel."""
    return _channel.channel_pair()


def socket_of(channel: _channel.Channel) -> socket.socket:
    """Return the socket of a channel that is used no more."""
    return channel._sock


def packet_of(descriptors: list[int], message: Any = None) -> _channel.Packet:
    """Return what has arrived that has these descriptors, without a message that can be read."""
    return _channel.Packet(message, descriptors, False)


def ends_of_a_channel(*, wary: bool = False) -> tuple[_channel.Channel, _channel.Channel]:
    """Return two ends of a channel.  wary: the second believes nothing, as the keeper's."""
    ours, theirs = _channel.channel_pair()
    return channel_on(ours), channel_on(theirs, wary=wary)


def send_raw(channel: _channel.Channel, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    _passing.send(channel._sock, payload, descriptors)


def send_with(channel: _channel.Channel, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Send `message` with these descriptors, however many it takes."""
    if not descriptors:
        channel.send_now(message)
        return
    send_body(channel, _messages.encode(message), descriptors)


def send_body(channel: _channel.Channel, body: bytes, descriptors: Sequence[int]) -> None:
    """Send what may be no message, of any size, as one is sent."""
    payload, fds = _passing.pack(body, descriptors)
    send_raw(channel, payload, fds)
    if _passing.in_memfd(payload):
        os.close(fds[-1])


def bare(message: Any) -> Any:
    """Return `message` without its descriptors, whose numbers another process has not."""
    absent = {name: ABSENT for name in ("connection", "answer") if hasattr(message, name)}
    return msgspec.structs.replace(message, **absent)


@contextmanager
def overheard(
    sent: Callable[[Any, Any], object], received: Callable[[Any, Any], object]
) -> Iterator[None]:
    """Tell of all that goes over channels of this process, each with its channel.

    sent: of messages.  received: of the packets that whoever is wary gets, as the keeper is.
    """
    kind = _channel.Channel
    enqueue, send_payload, receive = kind.enqueue, kind.send_payload, kind.receive

    def enqueued(channel: Any, message: Any, *, close_after: bool = False) -> None:
        sent(channel, message)
        enqueue(channel, message, close_after=close_after)

    def payload_sent(channel: Any, payload: bytes, descriptor: int) -> bool:
        sent(channel, decoded(payload, (descriptor,)))
        return send_payload(channel, payload, descriptor)

    def taken(channel: Any, express: Any = None) -> Any:
        def passed(payload: bytes, descriptors: list[int]) -> bool:
            before = list(descriptors)
            if not express(payload, descriptors):
                return False
            if channel._wary:
                received(channel, packet_of(before, decoded(payload, before)))
            return True

        packet = receive(channel, passed if express else None)
        if packet is not None and packet is not _channel.PASSED and channel._wary:
            received(channel, packet)
        return packet

    with (
        patch.object(kind, "enqueue", enqueued),
        patch.object(kind, "send_payload", payload_sent),
        patch.object(kind, "receive", taken),
    ):
        yield
