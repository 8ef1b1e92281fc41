"""A channel carries messages whole, in order, and with their descriptors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.lines import listening_to_the_log
from tests.wire.limits import out_of_descriptors
from tests.wire.sending import (
    ABSENT,
    CHANNEL_CLOSED,
    GARBLED,
    SEALS,
    bare,
    changed,
    channel_on,
    encoded,
    kind_of,
    message,
    send_body,
    send_raw,
    send_with,
    sockets_of_a_channel,
)

Ends = tuple[Any, Any]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = sockets_of_a_channel()
    a, b = channel_on(ours), channel_on(theirs)
    yield a, b
    a.close()
    b.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A descriptor to be passed."""
    fd = os.open(tmp_path / "passed", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def detached(size: int, name: str = "1-1-1", *fds: int) -> Any:
    """Return a message whose encoding is a little larger than `size`."""
    whole = message("Detached", name, 1, 0, "peer", b"s" * size, b"", 0, 0, 0)
    return changed(whole, **dict(zip(("connection", "answer"), fds, strict=False)))


def keep(fd: int) -> Any:
    """Return a message that `fd` rides along with."""
    return message("Keep", "1-1-1", 1, 0, 0, "peer", fd)


def seats(count: int) -> Any:
    return message("Seats", count)


def send(channel: Any, sent: Any, close_after: bool = False) -> None:
    """Send as the keeper does."""
    channel.enqueue(sent, close_after=close_after)
    channel.flush()


def receive(channel: Any) -> Any:
    packet = channel.receive()
    assert packet is not None
    return packet


def same_file(a: int, b: int) -> bool:
    return os.path.samestat(os.fstat(a), os.fstat(b))


def is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def fill(channel: Any, size: int = 16000) -> int:
    """Send until something has to wait; return how many messages were sent or queued."""
    count = 0
    while not channel.wants_write:
        send(channel, detached(size, str(count)))
        count += 1
    return count


def test_messages_arrive_in_order_both_ways(ends: Ends) -> None:
    a, b = ends
    for number in range(20):
        send(a, seats(number))
        send(b, message("Forked", number, 1))
    assert [receive(b).message for _ in range(20)] == [seats(number) for number in range(20)]
    assert [receive(a).message for _ in range(20)] == [
        message("Forked", number, 1) for number in range(20)
    ]


def test_nothing_there_is_none(ends: Ends) -> None:
    assert ends[0].receive() is None


@pytest.mark.parametrize("size", [0, 30_000, 40_000, 1_000_000])
def test_a_message_of_any_size_arrives_whole(ends: Ends, size: int) -> None:
    a, b = ends
    send(a, detached(size))
    packet = receive(b)
    assert (packet.message, packet.descriptors) == (detached(size), [])
    assert not packet.truncated


def test_a_large_message_travels_in_a_sealed_memfd_and_leaves_no_descriptor() -> None:
    ours, theirs = sockets_of_a_channel()
    before = set(os.listdir("/proc/self/fd"))
    with ours, theirs:
        send(channel_on(ours), detached(100_000))
        data, ancillary, _, _ = theirs.recvmsg(100_000, socket.CMSG_SPACE(16))
        assert len(data) == 1
        memfd = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        assert fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        os.close(memfd)
        assert set(os.listdir("/proc/self/fd")) <= before


def test_reading_a_large_message_leaves_no_descriptor(ends: Ends) -> None:
    before = set(os.listdir("/proc/self/fd"))
    send(ends[0], detached(100_000))
    receive(ends[1])
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [10, 100_000])
def test_descriptors_arrive_in_order_and_close_on_exec(ends: Ends, file: int, size: int) -> None:
    a, b = ends
    os.set_inheritable(file, True)
    send(a, detached(size, "1-1-1", file, a.fileno()))
    packet = receive(b)
    assert packet.message == detached(size, "1-1-1", *packet.descriptors)
    assert len(packet.descriptors) == 2
    assert same_file(packet.descriptors[0], file)
    assert same_file(packet.descriptors[1], a.fileno())
    assert not any(os.get_inheritable(fd) for fd in packet.descriptors)
    taken = packet.take(packet.descriptors[0])
    others = list(packet.descriptors)
    packet.close()
    assert is_open(taken), "it is its taker's"
    assert not any(is_open(fd) for fd in others)
    os.close(taken)


def test_as_many_descriptors_as_the_kernel_passes_at_once(ends: Ends, file: int) -> None:
    a, b = ends
    send(a, message("Load", b"", 1, 1, [], [file] * 253))
    packet = receive(b)
    assert len(packet.descriptors) == 253
    assert not packet.truncated
    packet.close()


def test_the_sender_keeps_its_descriptor_unless_it_says_otherwise(ends: Ends, file: int) -> None:
    a, b = ends
    given = os.dup(file)
    send(a, keep(file))
    send(a, keep(given), close_after=True)
    assert is_open(file)
    assert not is_open(given)
    receive(b).close()
    receive(b).close()


def test_what_the_other_end_does_not_read_is_queued_and_flushed_later(
    ends: Ends, file: int
) -> None:
    a, b = ends
    count = fill(a)
    given = os.dup(file)
    send(a, keep(given), close_after=True)
    send(a, detached(100_000))
    assert is_open(given), "it has not gone yet"
    names = []
    while (packet := b.receive()) is not None:
        assert kind_of(packet.message) in ("Detached", "Keep")
        names.append(bare(packet.message))
        packet.close()
        a.flush()
    assert not a.wants_write
    assert not is_open(given)
    expected = [detached(16000, str(number)) for number in range(count)]
    assert names == [*expected, keep(ABSENT), detached(100_000)]


def test_closing_closes_what_was_queued_and_owned(file: int) -> None:
    ours, theirs = sockets_of_a_channel()
    before = set(os.listdir("/proc/self/fd"))
    channel = channel_on(ours)
    with theirs:
        fill(channel)
        given = os.dup(file)
        send(channel, keep(given), close_after=True)
        send(channel, detached(100_000))
        send(channel, keep(file))
        channel.close()
        assert not is_open(given)
        assert is_open(file)
        assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.process
@pytest.mark.parametrize("blocking", [True, False])
def test_send_now_waits_for_room(ends: Ends, blocking: bool) -> None:
    a, b = ends
    os.set_blocking(a.fileno(), blocking)  # uvloop makes it non-blocking under us
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER, str(b.fileno())],
        pass_fds=[b.fileno()],
        stdout=subprocess.PIPE,
    )
    for number in range(100):
        a.send_now(detached(30_000, str(number)))
    a.send_now(seats(1))
    output, _ = reader.communicate(timeout=20)
    assert output.split() == [b"%d" % number for number in range(100)]


_READER = """
import select, socket, sys
from socketkeep._wire._channel import Channel
from socketkeep._wire._messages import ConnectionDetached
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
while True:
    select.select([channel], [], [])
    packet = channel.receive()
    if packet is None:
        continue
    if not isinstance(packet.message, ConnectionDetached):
        break
    print(packet.message.id)
"""

_WRITER = """
import socket, sys
from socketkeep._wire._channel import Channel
from socketkeep._wire._messages import ConnectionDetached
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
who = sys.argv[2]
for number in range(60):
    state = who.encode() * (number * 700)
    channel.send_now(ConnectionDetached(who, number, 0, who, state, b"", 0, 0, 0))
"""


@pytest.mark.process
def test_several_processes_on_one_end_do_not_mix_their_messages(ends: Ends) -> None:
    a, b = ends
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(a.fileno()), who], pass_fds=[a.fileno()]
        )
        for who in "xyz"
    ]
    seen: dict[str, list[int]] = {"x": [], "y": [], "z": []}
    while sum(map(len, seen.values())) < 180:
        assert select.select([b], [], [], 20)[0], "the writers have stopped"
        packet = b.receive()
        if packet is None:
            continue
        told = packet.message
        assert kind_of(told) == "Detached"
        assert told.state == told.id.encode() * (told.epoch * 700)
        seen[told.id].append(told.epoch)
    assert all(numbers == list(range(60)) for numbers in seen.values())
    assert [writer.wait(10) for writer in writers] == [0, 0, 0]


def test_at_the_descriptor_limit_the_message_arrives_and_the_descriptor_does_not(
    ends: Ends, file: int
) -> None:
    a, b = ends
    send(a, keep(file))
    with out_of_descriptors():
        packet = receive(b)
    assert (packet.message, packet.descriptors) == (keep(ABSENT), [])
    assert packet.truncated


def test_at_the_limit_some_of_the_descriptors_may_arrive(ends: Ends, file: int) -> None:
    a, b = ends
    send(a, detached(10, "1-1-1", file, file))
    with out_of_descriptors(spare=1):
        packet = receive(b)
    assert packet.truncated
    assert len(packet.descriptors) == 1
    packet.close()


@pytest.mark.parametrize("spare", [0, 1])
def test_a_message_whose_memfd_did_not_arrive_is_none(ends: Ends, file: int, spare: int) -> None:
    a, b = ends
    send(a, detached(100_000, "1-1-1", file))
    with out_of_descriptors(spare):
        packet = receive(b)
    assert packet.message is None
    assert packet.truncated
    assert len(packet.descriptors) == spare
    packet.close()
    send(a, seats(2))
    assert receive(b).message == seats(2), "what follows arrives all the same"


def test_a_large_message_that_cannot_have_a_memfd_is_not_sent(ends: Ends) -> None:
    a, b = ends
    before = set(os.listdir("/proc/self/fd"))
    with out_of_descriptors(), pytest.raises(OSError, match="open files") as caught:
        a.enqueue(detached(100_000))
    assert caught.value.errno == errno.EMFILE
    assert not a.wants_write
    with out_of_descriptors(spare=1):
        send(a, detached(100_000, "one is enough"))
    assert receive(b).message == detached(100_000, "one is enough")
    assert b.receive() is None
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_other_end_has_gone(file: int) -> None:
    ours, theirs = sockets_of_a_channel()
    channel = channel_on(ours)
    theirs.close()
    with pytest.raises(CHANNEL_CLOSED):
        channel.receive()
    with pytest.raises(CHANNEL_CLOSED):
        send(channel, keep(file))
    with pytest.raises(CHANNEL_CLOSED):
        channel.send_now(seats(1))
    with pytest.raises(CHANNEL_CLOSED):
        channel.flush()
    channel.close()
    assert is_open(file)


def test_what_was_sent_before_the_end_arrives_before_it(ends: Ends, file: int) -> None:
    a, b = ends
    send(a, keep(file))
    send(a, seats(2))
    a.close()
    receive(b).close()
    assert receive(b).message == seats(2)
    with pytest.raises(CHANNEL_CLOSED):
        b.receive()


def test_what_was_sent_before_the_end_arrives_though_the_sender_had_not_read_all(
    ends: Ends, file: int
) -> None:
    """The kernel then reports ECONNRESET first, once, and would deliver the rest after it."""
    a, b = ends
    send(b, seats(9))
    send(a, keep(file))
    a.close()
    packet = receive(b)
    assert packet.message == keep(*packet.descriptors)
    packet.close()
    with pytest.raises(CHANNEL_CLOSED):
        b.receive()


class _Refusing(socket.socket):
    """A socket whose `sendmsg` fails with `code` while it is not 0."""

    code = 0

    def sendmsg(self, *arguments: Any) -> int:
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        return super().sendmsg(*arguments)


@pytest.mark.parametrize("code", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_what_the_system_has_no_room_for_stays_queued(code: int, file: int) -> None:
    """ETOOMANYREFS: this user has too many descriptors on their way, see unix(7)."""
    ours, theirs = sockets_of_a_channel()
    sock = _Refusing(fileno=ours.detach())
    sender, receiver = channel_on(sock), channel_on(theirs)
    sock.code = code
    with pytest.raises(OSError, match=os.strerror(code)):
        send(sender, keep(file))
    assert sender.wants_write
    sock.code = 0
    sender.flush()
    receive(receiver).close()
    sender.close()
    receiver.close()


def test_an_end_that_sends_no_more_can_still_hear(ends: Ends, file: int) -> None:
    a, b = ends
    send(a, keep(file))
    a.finish()
    receive(b).close()
    with pytest.raises(CHANNEL_CLOSED):
        b.receive()
    send(b, seats(2))
    assert receive(a).message == seats(2)
    with pytest.raises(CHANNEL_CLOSED):
        send(a, seats(3))


def test_the_ends_are_not_inherited() -> None:
    ends: Sequence[socket.socket] = sockets_of_a_channel()
    assert not any(end.get_inheritable() for end in ends)
    for end in ends:
        end.close()


def test_messages_of_a_newer_version_are_passed_over(ends: Ends, file: int) -> None:
    """With their descriptors closed, told once for each type, and the next message is read."""
    a, b = ends
    before = sorted(os.listdir("/proc/self/fd"))
    for size in (10, 100_000):
        newer = msgspec.msgpack.encode(["OfANewerVersion", b"x" * size])
        send_body(a, newer, (file, file))
    send(a, seats(1))
    with listening_to_the_log() as log:
        assert receive(b).message == seats(1)
        assert b.receive() is None
    ((fields),) = [record.__dict__["fields"] for record in log.records]
    assert fields["type"] == "OfANewerVersion"
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"\0no message",
        b"\0" + msgspec.msgpack.encode([1, 2]),
        b"\0" + msgspec.msgpack.encode(["Seats", "not a number"]),
        b"\0" + b"\x91" * 5000,
        b"\0" + b"\x91\xa2\xff\xfe",
        b"\1",
        b"\2" + msgspec.msgpack.encode(["Seats", 1])[:-1],
    ],
)
def test_garbage_is_passed_over(garbage: bytes, file: int) -> None:
    """It is not taken for a message whose descriptor did not arrive (None), nor does it raise."""
    ours, theirs = sockets_of_a_channel()
    channel = channel_on(theirs)
    before = set(os.listdir("/proc/self/fd"))
    sender = channel_on(ours)
    send_raw(sender, garbage, (file,) if garbage != b"\1" else ())
    send_raw(sender, encoded(seats(1)))
    assert receive(channel).message == seats(1)
    assert set(os.listdir("/proc/self/fd")) <= before
    ours.close()
    channel.close()


def test_what_was_never_read_is_closed_without_waiting(ends: Ends) -> None:
    """A connection on which SO_LINGER was set, and whose last handle is on its way."""
    ours, theirs = ends
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    with peer:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        for _ in range(3):
            theirs.send_now(keep(sock.fileno()))
        sock.close()
        theirs.close()
        ours.discard()
        ours.close()


# What runs user code may send anything.


@pytest.fixture
def wary() -> Iterator[Ends]:
    """A sender, and who is wary of it."""
    theirs, ours = sockets_of_a_channel()
    a, b = channel_on(theirs), channel_on(ours, wary=True)
    yield a, b
    a.close()
    b.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\0\xc1\xc1",
        encoded(detached(10))[:-3],
        b"\0" + msgspec.msgpack.encode(["Detached", 1]),
        b"\0" + msgspec.msgpack.encode(["Seats", "no number"]),
        b"\0" + msgspec.msgpack.encode({"Seats": 1}),
        b"\0" + msgspec.msgpack.encode("Seats"),
        b"\1",
        b"\2junk",
        b"\0" + b"x" * 100_000,
    ],
)
@pytest.mark.parametrize("count", [0, 1, 253])
def test_what_is_no_message_is_told_and_nothing_stays_open(
    wary: Ends, file: int, payload: bytes, count: int
) -> None:
    a, b = wary
    before = set(os.listdir("/proc/self/fd"))
    send_raw(a, payload, [file] * count)
    send_raw(a, encoded(seats(1)))
    with pytest.raises(GARBLED):
        b.receive()
    assert receive(b).message == seats(1), "what follows is heard"
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", ["pipe", "sparse", "unsealed"])
def test_a_message_is_read_from_a_sealed_memfd_alone(wary: Ends, kind: str) -> None:
    a, b = wary
    read, write = os.pipe()
    memfd = os.memfd_create("it", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, 1 << 31 if kind == "sparse" else 0)
    if kind == "sparse":
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, SEALS)
    else:
        os.write(memfd, encoded(seats(1))[1:])
    send_raw(a, b"\1", [read if kind == "pipe" else memfd])
    for fd in (read, write, memfd):
        os.close(fd)
    with pytest.raises(GARBLED):
        b.receive()
    assert b.receive() is None


def test_a_message_that_is_too_large_is_as_one_that_did_not_arrive(
    wary: Ends, monkeypatch: pytest.MonkeyPatch, file: int
) -> None:
    """It may be honest: its sender is told that nothing was taken."""
    a, b = wary
    monkeypatch.setattr(b, "_most", 50_000)
    send(a, detached(60_000, "1-1-1", file))
    packet = receive(b)
    assert packet.message is None
    assert len(packet.descriptors) == 1
    packet.close()


def test_types_of_a_later_version_are_passed_over_and_not_for_ever(wary: Ends) -> None:
    """Others have their turn while somebody sends them as fast as they are read."""
    a, b = wary
    sent = 0
    with suppress(BlockingIOError):
        while True:
            send_raw(a, b"\0" + msgspec.msgpack.encode(["OfALaterVersion", sent]))
            sent += 1
    assert sent > 50
    assert b.receive() is None
    send_raw(a, encoded(seats(1)))
    calls = 0
    while (packet := b.receive()) is None:
        calls += 1
    assert packet.message == seats(1)
    assert 2 <= calls <= sent


def test_a_worker_passes_over_what_it_cannot_read(ends: Ends) -> None:
    """Its keeper may be of a later version."""
    a, b = ends
    send_raw(a, b"\0" + msgspec.msgpack.encode(["Seats", "no number"]))
    send(a, seats(1))
    assert receive(b).message == seats(1)


@pytest.mark.parametrize("count", [0, 2, 253])
def test_another_number_of_descriptors_than_it_takes_is_told(
    wary: Ends, file: int, count: int
) -> None:
    a, b = wary
    before = set(os.listdir("/proc/self/fd"))
    send_with(a, keep(ABSENT), [file] * count)
    send(a, seats(1))
    with pytest.raises(GARBLED, match=f"Keep: it came with {count} descriptors"):
        b.receive()
    assert receive(b).message == seats(1)
    assert set(os.listdir("/proc/self/fd")) == before


def test_and_by_who_is_not_wary_passed_over(ends: Ends, file: int) -> None:
    a, b = ends
    before = set(os.listdir("/proc/self/fd"))
    send_with(a, seats(1), [file])
    send(a, seats(2))
    assert receive(b).message == seats(2)
    assert set(os.listdir("/proc/self/fd")) == before
