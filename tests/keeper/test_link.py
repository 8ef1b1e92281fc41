"""A channel on the reactor."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from socketkeep._keeper.workers._workers import Link
from tests.keeper.fakes import Clock, SteppedReactor
from tests.wire.sending import channel_on, ends_of_a_channel, kind_of, message


class Socket(socket.socket):
    """A socket that counts its sends, and refuses them while `code` is not 0."""

    code = 0
    tried = 0

    def sendmsg(self, *arguments: Any) -> int:
        self.tried += 1
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        return super().sendmsg(*arguments)


class Scene:
    """A link, what has come over it, and its far end."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.reactor = SteppedReactor(self.clock)
        ours, self.far = ends_of_a_channel()
        self.sock = Socket(fileno=os.dup(ours.fileno()))
        ours.close()
        self.got: list[Any] = []
        self.closed = 0
        self.link = Link(self.reactor, channel_on(self.sock), self.got.append, self.note_closed)

    def note_closed(self) -> None:
        self.closed += 1

    def fill(self) -> int:
        """Send until something waits; return how many messages."""
        count = 0
        while not self.link._channel.wants_write:
            self.link.send(message("Seats", count))
            count += 1
        return count

    def read(self) -> list[int]:
        numbers = []
        while (packet := cast("Any", self.far.receive())) is not None:
            assert kind_of(packet.message) == "Seats"
            numbers.append(packet.message.accept_below)
        return numbers


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.link.close()
    made.far.close()
    made.reactor.close()


def test_packets_come_as_calls_and_then_the_end(scene: Scene) -> None:
    scene.far.send_now(message("Seats", 1))
    scene.far.send_now(message("Seats", 2))
    scene.far.close()
    scene.reactor.settle()
    assert [packet.message for packet in scene.got] == [message("Seats", 1), message("Seats", 2)]
    assert scene.closed == 1
    assert not scene.link.open


def test_who_says_much_leaves_others_their_turn(scene: Scene) -> None:
    for number in range(100):
        scene.far.send_now(message("Seats", number))
    scene.reactor.run_once()
    assert 0 < len(scene.got) < 100
    scene.reactor.settle()
    assert [packet.message for packet in scene.got] == [
        message("Seats", number) for number in range(100)
    ]


def test_who_says_one_thing_at_a_time_is_not_asked_for_more(scene: Scene) -> None:
    """To look in vain whether there is more costs as much as to be told of it."""
    looked: list[int] = []
    receive = scene.link._channel.receive

    def counted(express: Any = None) -> Any:
        looked.append(1)
        return receive(express)

    scene.link._channel.receive = counted  # type: ignore[method-assign]
    scene.link._at_once = 1
    for number in range(3):
        scene.far.send_now(message("Seats", number))
    for _ in range(3):
        scene.reactor.run_once()
    assert [packet.message for packet in scene.got] == [
        message("Seats", 0),
        message("Seats", 1),
        message("Seats", 2),
    ]
    scene.reactor.run_once()
    assert len(looked) == 3


def test_the_last_words_are_all_heard_at_once(scene: Scene) -> None:
    for number in range(100):
        scene.far.send_now(message("Seats", number))
    scene.link.drain()
    assert len(scene.got) == 100


def test_what_must_wait_is_sent_when_there_is_room(scene: Scene) -> None:
    count = scene.fill()
    scene.reactor.settle()
    numbers: list[int] = []
    while len(numbers) < count:
        numbers += scene.read()
        scene.reactor.settle()
    assert numbers == list(range(count))
    tried = scene.sock.tried
    scene.reactor.settle()
    assert scene.sock.tried == tried, "nothing is left to be sent"


def test_what_the_system_has_no_room_for_is_sent_later_without_spinning(scene: Scene) -> None:
    scene.sock.code = errno.ETOOMANYREFS
    scene.link.send(message("Seats", 1))
    for _ in range(100):
        scene.reactor.run_once()
    assert scene.sock.tried == 1
    scene.clock.now += 0.2
    scene.reactor.run_once()
    assert scene.sock.tried == 2
    scene.sock.code = 0
    scene.clock.now += 0.2
    scene.reactor.settle()
    assert scene.read() == [1]


def test_nor_does_it_spin_when_it_was_waiting_for_room(scene: Scene) -> None:
    count = scene.fill()
    scene.reactor.settle()
    scene.sock.code = errno.ENOBUFS
    numbers = scene.read()
    tried = scene.sock.tried
    for _ in range(100):
        scene.reactor.run_once()
    assert scene.sock.tried == tried + 1
    scene.sock.code = 0
    scene.clock.now += 0.2
    scene.reactor.settle()
    assert numbers + scene.read() == list(range(count))


def test_a_send_to_a_process_that_has_gone_lets_it_speak_first(scene: Scene) -> None:
    scene.far.send_now(message("Seats", 1))
    scene.far.close()
    scene.link.send(message("Seats", 2))
    assert scene.link.open
    scene.reactor.settle()
    assert [packet.message for packet in scene.got] == [message("Seats", 1)]
    assert scene.closed == 1
    assert not scene.link.open


def test_a_closed_link_closes_the_descriptors_it_was_given(scene: Scene) -> None:
    scene.link.close()
    read, write = os.pipe()
    keep = message("Keep", "1-1-1", 1, 0, 0, "a peer", write)
    scene.link.send(keep, close_after=True)
    assert os.read(read, 1) == b""
    os.close(read)
    assert scene.closed == 0, "who closes it knows it"


def test_a_finished_link_still_hears(scene: Scene) -> None:
    scene.link.finish()
    scene.far.send_now(message("Seats", 1))
    scene.reactor.settle()
    assert [packet.message for packet in scene.got] == [message("Seats", 1)]
    assert scene.link.open
