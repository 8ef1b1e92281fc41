"""Handing a connection to the keeper, from a thread or process that blocks meanwhile."""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from socketkeep._worker import _handing, _sync
from tests.harness.seam import Row, handoff, leased
from tests.wire.limits import out_of_descriptors
from tests.wire.sending import CHANNEL_CLOSED, bare, ends_of_a_channel, kind_of, message, socket_of

DETACHED = message("Detached", "1-2-3", 4, 0, "a peer", b"state", b"unread", 5, 6, 7)


class Scene:
    """A connection to hand over, the channel to do it by, and a keeper that plays its part."""

    def __init__(self) -> None:
        self.channel, self.keeper = ends_of_a_channel()
        self.reserve = _handing.Reserve()
        self.peer, sock = socket.socketpair()
        self.handoff = handoff(sock, b"state", b"unread")
        self.offers: list[object] = []
        self._threads: list[threading.Thread] = []

    def keeper_does(self, *answers: Callable[[Any], None]) -> None:
        """Answer the offers in turn, in a thread."""

        def run() -> None:
            for answer in answers:
                assert select.select([self.keeper], [], [], 10)[0]
                packet = self.keeper.receive()
                assert packet is not None
                assert kind_of(packet.message) == "Detached"
                self.offers.append(bare(packet.message))
                answer(packet)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def hand_over(self, seconds: float = 10) -> bool:
        """Hand the connection over; return whether that was done."""
        deadline = time.monotonic() + seconds
        done = _handing.hand_over(self.channel, self.reserve, DETACHED, self.handoff, deadline)
        for thread in self._threads:
            thread.join(10)
        return done

    def close(self) -> None:
        self.channel.close()
        self.reserve.spend()
        self.keeper.close()
        self.peer.close()
        self.handoff.sock.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def take(packet: Any) -> None:
    connection, pipe = packet.descriptors
    os.close(connection)
    os.write(pipe, b"\1")
    os.close(pipe)


def refuse(packet: Any) -> None:
    packet.close()


def test_taken(scene: Scene) -> None:
    held: list[int] = []

    def keep(packet: Any) -> None:
        held.append(os.dup(packet.descriptors[0]))
        take(packet)

    scene.keeper_does(keep)
    before = open_descriptors()
    assert scene.hand_over()
    assert scene.offers == [DETACHED]
    assert scene.handoff.sock.fileno() == -1
    keepers = socket.socket(fileno=held[0])
    scene.peer.send(b"?")
    assert keepers.recv(1) == b"?"
    keepers.close()
    assert set(os.listdir("/proc/self/fd")) < before


def test_the_handle_is_kept_until_the_keeper_has_one(scene: Scene) -> None:
    open_meanwhile: list[bool] = []

    def look(packet: Any) -> None:
        open_meanwhile.append(scene.handoff.sock.fileno() >= 0)
        take(packet)

    scene.keeper_does(look)
    assert scene.hand_over()
    assert open_meanwhile == [True]


def test_not_taken_is_tried_again(scene: Scene) -> None:
    scene.keeper_does(refuse, refuse, take)
    assert scene.hand_over()
    assert scene.offers == [DETACHED] * 3


def test_not_taken_by_the_deadline(scene: Scene) -> None:
    scene.keeper_does(refuse)
    assert not scene.hand_over(seconds=0)
    assert scene.handoff.sock.fileno() >= 0, "it is the caller's to end"


def test_no_keeper(scene: Scene) -> None:
    scene.keeper.close()
    with pytest.raises(CHANNEL_CLOSED):
        scene.hand_over()
    assert scene.handoff.sock.fileno() >= 0


def test_a_keeper_that_dies_with_the_offer_unread(scene: Scene) -> None:
    """The pipe's other end goes with it: the wait ends."""
    scene.keeper_does()
    closing = threading.Timer(0.05, scene.keeper.close)
    closing.start()
    with pytest.raises(CHANNEL_CLOSED):
        scene.hand_over()
    closing.join()
    assert scene.handoff.sock.fileno() >= 0


def open_descriptors() -> set[str]:
    """Return those that are in use; what only waits to be collected, of another test, is closed."""
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


def test_at_the_descriptor_limit_the_reserve_is_used_and_filled_again(scene: Scene) -> None:
    before = open_descriptors()
    # One to spare is too few for a pipe; with the reserve the keeper, in this process, has two.
    with out_of_descriptors(spare=1):
        scene.keeper_does(take)
        assert scene.hand_over()
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1, "but for the connection"


def test_out_of_descriptors_and_of_the_reserve(scene: Scene) -> None:
    scene.reserve.spend()
    before = open_descriptors()
    for spare in (0, 1):
        with out_of_descriptors(spare):
            assert not scene.hand_over(seconds=0)
    assert set(os.listdir("/proc/self/fd")) == before
    assert scene.keeper.receive() is None
    scene.keeper_does(take)
    assert scene.hand_over()


def test_a_keeper_that_has_a_handle_gets_the_message_alone(scene: Scene) -> None:
    """The worker is rid of it at once, and the keeper's answer is not waited for."""
    assert _handing.give_back(scene.channel, DETACHED, scene.handoff, kept_by=1)
    assert scene.handoff.sock.fileno() == -1
    packet = scene.keeper.receive()
    assert packet is not None
    assert (packet.message, packet.descriptors) == (DETACHED, [])


def test_what_needs_a_descriptor_of_its_own_does_not_go_alone(scene: Scene) -> None:
    """The message itself would be lost at a keeper's limit."""
    large = msgspec.structs.replace(DETACHED, unread=bytes(20_000))
    assert not _handing.give_back(scene.channel, large, scene.handoff, kept_by=1)
    assert scene.handoff.sock.fileno() >= 0
    assert scene.keeper.receive() is None


def test_another_keeper_has_no_handle_of_it(scene: Scene) -> None:
    """It may have come while the message was being sent, and knows nothing of the connection."""
    other, theirs = ends_of_a_channel()
    scene.channel.renew(socket_of(other))
    with closing(theirs):
        assert not _handing.give_back(scene.channel, DETACHED, scene.handoff, kept_by=1)
    assert scene.handoff.sock.fileno() >= 0


def test_nothing_goes_to_a_keeper_that_is_gone(scene: Scene) -> None:
    scene.keeper.close()
    assert not _handing.give_back(scene.channel, DETACHED, scene.handoff, kept_by=1)
    assert scene.handoff.sock.fileno() >= 0


def test_a_keeper_that_comes_when_the_other_has_gone_ends_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel is open again by then: the connection is served on, not closed as refused."""
    other, theirs = ends_of_a_channel()

    def gone(*_: object) -> bool:
        scene.channel.renew(socket_of(other))
        raise CHANNEL_CLOSED

    monkeypatch.setattr(_sync, "hand_over", gone)
    environment = SimpleNamespace(channel=scene.channel)
    roster = SimpleNamespace(detached=lambda *_: DETACHED)
    loop = SimpleNamespace(
        environment=environment, roster=roster, reserve=scene.reserve, rejoin=lambda: False
    )
    entry = SimpleNamespace(**leased(), record=Row().words, returns_to=0)
    with closing(theirs):
        assert not _sync._hand_over(cast("Any", loop), cast("Any", entry), scene.handoff)
    assert scene.handoff.sock.fileno() >= 0
