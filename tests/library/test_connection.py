"""The sync verbs in each mode, on real sockets."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep import (
    Blocking,
    Busy,
    Closed,
    Connection,
    Deadline,
    LimitExceeded,
    Mode,
    NonBlocking,
    PeerClosed,
    PeerReset,
    Released,
    StateMismatch,
    StateNotEncodable,
    StateTooLarge,
    TimedOut,
    Timeout,
    WouldBlock,
)
from tests.harness.seam import be_handler_of, leased, row_of
from tests.library.conftest import FAR, KINDS, Flooding, Pair, reads_all, until

BIG = bytes(range(256)) * 8192  # 2 MiB: more than the sockets' buffers take

RECEIVES: dict[str, Callable[[Connection], object]] = {
    "recv": lambda conn: conn.recv(4),
    "recv_into": lambda conn: conn.recv_into(bytearray(4)),
    "recv_exactly": lambda conn: conn.recv_exactly(4),
    "recv_until": lambda conn: conn.recv_until(b";"),
    "lines": lambda conn: next(conn.lines()),
}


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# Receiving.


def test_recv_gives_what_is_there_up_to_max(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].sendall(b"hello")
    assert conn.recv(2) == b"he"
    assert conn.recv() == b"llo"
    pair[1].shutdown(socket.SHUT_WR)
    assert (conn.recv(), conn.recv()) == (b"", b"")


def test_recv_into_fills_what_it_is_given(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].sendall(b"hello")
    buffer = bytearray(b"....")
    assert conn.recv_into(memoryview(buffer)[1:3]) == 2
    assert buffer == b".he."
    assert conn.recv_into(buffer) == 3
    pair[1].close()
    assert conn.recv_into(buffer) == 0


def test_recv_exactly_waits_for_all_of_it(pair: Pair) -> None:
    conn = Connection(pair[0])
    sender = threading.Thread(target=pair[1].sendall, args=[BIG])
    sender.start()
    assert conn.recv_exactly(len(BIG)) == BIG
    assert conn.recv_exactly(0) == b""
    sender.join()


def test_recv_until_drops_the_separator(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].sendall(b"GET /\r\n\r\nrest")
    assert conn.recv_until(b"\r\n") == b"GET /"
    assert conn.recv_until(b"\r\n") == b""
    assert conn.unread == b"rest"


def test_lines_to_the_end(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].sendall(b"unix\ndos\r\n\nlast")
    pair[1].close()
    assert list(conn.lines()) == [b"unix", b"dos", b"", b"last"]


def test_lines_with_their_ends(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].sendall(b"unix\ndos\r\nlast")
    pair[1].close()
    assert list(conn.lines(keepends=True)) == [b"unix\n", b"dos\r\n", b"last"]


def test_lines_commit_when_the_next_is_asked_for(pair: Pair) -> None:
    conn = Connection(pair[0], **leased(resumable=True))
    pair[1].sendall(b"one\ntwo\n")
    lines = conn.lines(commit=True)
    next(lines)
    assert conn.hand_over().unread == b"one\ntwo\n"
    next(lines)
    assert conn.hand_over().unread == b"two\n"
    with pytest.raises(WouldBlock), conn.using(NonBlocking()):
        next(lines)
    assert conn.hand_over().unread == b""


def test_what_exceeds_a_bound_stays_unread(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].sendall(b"123456\n")
    with pytest.raises(LimitExceeded, match=r"^lines from .* found no b'\\n' within 5 bytes"):
        next(conn.lines(max=5))
    with pytest.raises(LimitExceeded, match=r"^recv_until from"):
        conn.recv_until(b"\n", 5)
    assert conn.recv() == b"123456\n"


def test_eof_in_the_middle(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].sendall(b"12")
    pair[1].close()
    with pytest.raises(PeerClosed, match="2 of 64 bytes received") as caught:
        conn.recv_exactly(64)
    assert (caught.value.bytes_done, caught.value.bytes_wanted) == (2, 64)
    assert caught.value.operation == "recv_exactly"
    assert (caught.value.address, caught.value.peer) == (conn.local, conn.peer)
    with pytest.raises(PeerClosed):
        conn.recv_until(b";")
    assert conn.recv() == b"12"


def test_a_reset_is_one_error_and_what_came_before_is_readable(tcp: Pair) -> None:
    conn = Connection(tcp[0])
    tcp[1].sendall(b"line\nhalf")
    assert conn.recv(1) == b"l"
    reset(tcp[1])
    lines = conn.lines()
    assert next(lines) == b"ine"
    with pytest.raises(PeerReset, match="the peer reset the connection"):
        next(lines)
    assert row_of(conn).ended == "reset"
    assert conn.recv() == b"half"
    with pytest.raises(PeerReset):
        conn.recv()
    conn.close()
    assert row_of(conn).ended == "reset"


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(b"a\n;"), min_size=1, max_size=30).map(bytes),
    st.lists(st.integers(1, 7), min_size=1),
    st.lists(st.sampled_from(list(RECEIVES)), min_size=1, max_size=8),
)
def test_non_blocking_receives_lose_nothing_however_the_stream_is_split(
    stream: bytes, steps: list[int], verbs: list[str]
) -> None:
    """Each verb is tried after each piece; together they return the stream."""
    ours, peer = socket.socketpair()
    with ours, peer:
        conn = Connection(ours, mode=NonBlocking())
        out = b""
        sent = 0
        turn = 0
        while sent < len(stream):
            step = steps[turn % len(steps)]
            peer.sendall(stream[sent : sent + step])
            sent += step
            verb = verbs[turn % len(verbs)]
            turn += 1
            with contextlib.suppress(WouldBlock):
                out += one_receive(conn, verb)
        peer.shutdown(socket.SHUT_WR)
        while rest := conn.recv():
            out += rest
        assert out == stream


def test_what_comes_after_much_is_as_whole_as_that() -> None:
    """Much, little, nothing, more than is wanted, and the end."""
    ours, peer = socket.socketpair()
    with ours, peer:
        conn = Connection(ours, mode=NonBlocking())
        most, received = 65536, 0
        for size in (20_000, 30_000, 5, 20_000, most, 1):
            piece = bytes(each % 251 for each in range(size))
            peer.sendall(piece)
            assert conn.recv(most) == piece
            received += size
            assert conn.received == received
            with pytest.raises(WouldBlock):
                conn.recv(most)
        peer.sendall(bytes(20_000) + b"end")
        assert conn.recv(20_000) == bytes(20_000)
        assert conn.recv(most) == b"end"
        peer.sendall(bytes(20_000))
        assert conn.recv(most) == bytes(20_000)
        peer.shutdown(socket.SHUT_WR)
        assert conn.recv(most) == b""


def one_receive(conn: Connection, verb: str) -> bytes:
    """Receive by `verb` and return all it consumed."""
    match verb:
        case "recv":
            return conn.recv(4)
        case "recv_into":
            buffer = bytearray(4)
            return bytes(buffer[: conn.recv_into(buffer)])
        case "recv_exactly":
            return conn.recv_exactly(4)
        case "recv_until":
            return conn.recv_until(b";") + b";"
        case _:
            return next(conn.lines(keepends=True))


# Modes.


def test_the_description_is_non_blocking_and_the_mode_is_the_handles_own(pair: Pair) -> None:
    conn = Connection(pair[0])
    assert not os.get_blocking(conn.fileno())
    modes = [conn.mode]
    conn.mode = NonBlocking()
    with pytest.raises(WouldBlock):
        conn.recv()
    with conn.using(Timeout(1)) as same:
        assert same is conn
        modes.append(conn.mode)
    modes.append(conn.mode)
    assert modes == [Blocking(), Timeout(1), NonBlocking()]


def test_two_handles_of_one_socket_have_a_mode_each(pair: Pair) -> None:
    blocking = Connection(pair[0].dup())
    other = Connection(pair[0], mode=NonBlocking())
    threading.Timer(0.1, pair[1].sendall, [b"x"]).start()
    with pytest.raises(WouldBlock):
        other.recv()
    assert blocking.recv() == b"x"
    blocking.release()


@pytest.mark.parametrize("verb", RECEIVES)
@pytest.mark.parametrize(
    ("mode", "error"),
    [
        (NonBlocking(), WouldBlock),
        (Timeout(0), WouldBlock),
        (Timeout(0.05), TimedOut),
        (Deadline(0.0), TimedOut),
    ],
)
def test_a_receive_that_cannot_finish(
    pair: Pair, verb: str, mode: Mode, error: type[Exception]
) -> None:
    conn = Connection(pair[0], mode=mode)
    pair[1].sendall(b"12")
    assert conn.recv(timeout=5) == b"12"
    with pytest.raises(error):
        RECEIVES[verb](conn)
    pair[1].sendall(b"12\n;")
    with conn.using(Blocking()):
        assert RECEIVES[verb](conn)


def test_a_timeout_goes_before_the_mode_and_bounds_the_whole_operation(pair: Pair) -> None:
    conn = Connection(pair[0], mode=NonBlocking())
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            pair[1].sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    started = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        conn.recv_exactly(10_000, timeout=0.3)  # what drips would take longer than a test may
    assert time.monotonic() - started >= 0.3
    stop.set()
    dripping.join()
    error = caught.value
    assert error.limit == 0.3
    assert error.elapsed is not None
    assert error.elapsed >= 0.3
    assert (error.bytes_done, error.bytes_wanted) == (len(conn.unread), 10_000)
    assert error.bytes_done > 1


def test_a_deadline_bounds_several_operations(pair: Pair) -> None:
    started = time.monotonic()
    conn = Connection(pair[0], mode=Deadline.after(0.3))
    pair[1].sendall(b"1")
    assert conn.recv() == b"1"
    for _ in range(300):  # each for itself would take longer than a test may
        with pytest.raises(TimedOut):
            conn.recv()
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("forever", [math.inf, 1e12])
def test_very_long_timeouts(pair: Pair, forever: float) -> None:
    conn = Connection(pair[0], mode=Timeout(forever))
    threading.Timer(0.05, pair[1].sendall, [b"x"]).start()
    assert conn.recv() == b"x"


@pytest.mark.parametrize("timeout", [-1, math.nan])
def test_no_senseless_timeouts(pair: Pair, timeout: float) -> None:
    conn = Connection(pair[0])
    with pytest.raises(ValueError, match="a timeout is a number of seconds"):
        conn.recv(timeout=timeout)


def test_lines_go_on_after_a_timeout(pair: Pair) -> None:
    """A generator would be at its end."""
    conn = Connection(pair[0])
    lines = conn.lines(timeout=0.05)
    pair[1].sendall(b"ha")
    with pytest.raises(TimedOut, match="2 bytes received"):
        next(lines)
    pair[1].sendall(b"lf\n")
    assert next(lines) == b"half"


# Sending.


def test_send_sends_all_while_the_peer_reads_slowly(pair: Pair) -> None:
    conn = Connection(pair[0])
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(reads_all(pair[1])))
    threading.Timer(0.1, reader.start).start()
    conn.send(BIG)
    conn.send(bytearray(b"more"))
    conn.send(memoryview(b"\x01\x00\x02\x00").cast("H"))
    conn.send_eof()
    until(lambda: bool(got))
    assert got == [BIG + b"more\x01\x00\x02\x00"]


@pytest.mark.parametrize(
    ("mode", "error"), [(NonBlocking(), WouldBlock), (Timeout(0.005), TimedOut)]
)
def test_a_send_that_cannot_finish_goes_on_with_its_first_unsent_byte(
    pair: Pair, mode: Mode, error: type[WouldBlock | TimedOut]
) -> None:
    conn = Connection(pair[0], mode=mode)
    got = bytearray()
    progress = [0]
    while True:
        try:
            conn.send(BIG)
        except error as caught:
            progress.append(caught.bytes_done)
            got += pair[1].recv(1 << 18)
        else:
            break
    conn.send_eof()
    got += reads_all(pair[1])
    assert bytes(got) == BIG
    assert progress == sorted(progress)
    assert progress[-1] > progress[1]


def test_after_an_unfinished_send_the_rest_may_be_sent_by_hand(pair: Pair) -> None:
    conn = Connection(pair[0], mode=NonBlocking())
    with pytest.raises(WouldBlock) as caught:
        conn.send(BIG)
    rest = BIG[caught.value.bytes_done :]
    sender = threading.Thread(target=conn.send, args=[rest], kwargs={"timeout": 5})
    sender.start()
    got = bytearray()
    while len(got) < len(BIG):
        got += pair[1].recv(1 << 20)
    sender.join()
    assert bytes(got) == BIG
    conn.send(rest[:10])
    assert pair[1].recv(99) == rest[:10]


def test_sends_of_several_threads_do_not_mix(pair: Pair) -> None:
    conn = Connection(pair[0])
    messages = [bytes([letter]) * 300_000 for letter in b"abcd"]
    threads = [threading.Thread(target=conn.send, args=[message]) for message in messages]
    for thread in threads:
        thread.start()
    got = bytearray()
    while len(got) < 1_200_000:
        got += pair[1].recv(1 << 20)
    for thread in threads:
        thread.join()
    runs = [bytes(got[start : start + 300_000]) for start in range(0, 1_200_000, 300_000)]
    assert sorted(runs) == messages


def test_a_second_sender_keeps_to_its_own_limit(pair: Pair) -> None:
    conn = Connection(pair[0])
    blocked = threading.Thread(target=conn.send, args=[BIG])
    blocked.start()
    until(lambda: conn.bytes_sent > 0)
    with pytest.raises(TimedOut):
        conn.send(b"x", timeout=0.05)
    with pytest.raises(WouldBlock):
        conn.send(b"x", timeout=0)
    got = bytearray()
    while len(got) < len(BIG):
        got += pair[1].recv(1 << 20)
    blocked.join()
    assert bytes(got) == BIG


def test_a_send_to_a_peer_that_is_gone(pair: Pair) -> None:
    conn = Connection(pair[0])
    pair[1].close()
    with pytest.raises(ConnectionError, match=r"^send to .* failed: the peer"):
        conn.send(BIG)


# Two at once.


def test_two_receivers_are_refused(pair: Pair) -> None:
    conn = Connection(pair[0])
    got: list[bytes] = []
    receiver = threading.Thread(target=lambda: got.append(conn.recv()))
    receiver.start()
    until(lambda: row_of(conn).waiting)
    with pytest.raises(Busy, match="another receive on this connection is not finished"):
        conn.recv()
    pair[1].sendall(b"x")
    receiver.join()
    assert got == [b"x"]


def test_one_receives_while_another_sends(pair: Pair) -> None:
    conn = Connection(pair[0])
    got: list[bytes] = []
    receiver = threading.Thread(target=lambda: got.append(conn.recv()))
    receiver.start()
    until(lambda: row_of(conn).waiting)
    conn.send(b"ping")
    assert pair[1].recv(4) == b"ping"
    pair[1].sendall(b"pong")
    receiver.join()
    assert got == [b"pong"]


# Ending.


def test_close_gives_the_peer_all_and_eof_though_it_is_still_sending(pair: Pair) -> None:
    """1 MiB in flight each way: a bare close(2) would answer with RST and cut the reply."""
    conn = Connection(pair[0])
    flood = threading.Thread(target=pair[1].sendall, args=[BIG])
    flood.start()
    until(lambda: bool(conn.recv(1)))
    got: list[bytes] = []

    def read() -> None:
        got.append(reads_all(pair[1]))
        flood.join()
        pair[1].shutdown(socket.SHUT_WR)

    reader = threading.Thread(target=read)
    reader.start()
    conn.send(BIG)
    conn.close()
    reader.join()
    assert got == [BIG]
    assert row_of(conn).ended == "closed"


def test_close_waits_no_longer_than_it_should_for_a_peer_that_is_silent(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketkeep._stream._closing.QUIET", 0.2)
    started = time.monotonic()
    Connection(pair[0]).close(linger=FAR)
    assert 0.15 < time.monotonic() - started < FAR


def test_close_does_not_wait_for_a_peer_whose_eof_was_seen(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketkeep._stream._closing.QUIET", FAR)
    conn = Connection(pair[0])
    pair[1].shutdown(socket.SHUT_WR)
    assert conn.recv() == b""
    started = time.monotonic()
    conn.close(linger=FAR)
    assert time.monotonic() - started < FAR
    assert pair[1].recv(1) == b""


def test_close_is_bounded_though_the_peer_never_stops(pair: Pair) -> None:
    """It gives up after a while, and cuts the peer off."""
    conn = Connection(pair[0])
    with Flooding(pair[1]) as flooding:
        conn.close(linger=0.1)
        assert flooding.is_cut_off()


def test_close_in_non_blocking_mode_does_not_wait(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketkeep._stream._closing.QUIET", FAR)
    conn = Connection(pair[0], mode=NonBlocking())
    started = time.monotonic()
    conn.close(linger=FAR)
    assert time.monotonic() - started < FAR
    assert pair[1].recv(1) == b""


def test_send_eof_leaves_receiving_open(pair: Pair) -> None:
    conn = Connection(pair[0])
    conn.send(b"question")
    conn.send_eof()
    assert reads_all(pair[1]) == b"question"
    pair[1].sendall(b"answer")
    assert conn.recv() == b"answer"
    with pytest.raises(Closed, match="this side has ended its sending"):
        conn.send(b"x")
    conn.send_eof()


def test_release_leaves_the_connection_to_the_other_holder(pair: Pair) -> None:
    other = pair[0].dup()
    conn = Connection(pair[0])
    conn.release()
    assert row_of(conn).ended == "released"
    assert conn.fileno() == -1
    other.send(b"alive")
    assert pair[1].recv(9) == b"alive"
    other.close()
    assert pair[1].recv(1) == b""


def test_close_ends_it_for_the_other_holder_too(pair: Pair) -> None:
    other = pair[0].dup()
    Connection(pair[0], mode=NonBlocking()).close()
    assert pair[1].recv(1) == b""
    with pytest.raises(BrokenPipeError):
        other.send(b"x")
    other.close()


def test_abort_resets(tcp: Pair) -> None:
    conn = Connection(tcp[0])
    conn.send(b"lost")
    conn.abort()
    with pytest.raises(ConnectionResetError):
        reads_all(tcp[1])
    assert row_of(conn).ended == "closed"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("end", "error"), [("close", Closed), ("abort", Closed), ("release", Released)]
)
def test_after_the_end_each_verb_says_what_ended_it(
    kind: str, end: str, error: type[Exception]
) -> None:
    ours, peer = KINDS[kind]()
    with ours, peer:
        conn = Connection(ours, mode=NonBlocking())
        peer.sendall(b"unread")
        assert conn.recv(1) == b"u"
        getattr(conn, end)()
        for verb in RECEIVES.values():
            with pytest.raises(error):
                verb(conn)
        with pytest.raises(error, match=r"^send to"):
            conn.send(b"x")
        with pytest.raises(error):
            conn.send_eof()
        for again in ("close", "abort", "release", "close"):
            getattr(conn, again)()


def test_a_with_block_closes(pair: Pair) -> None:
    with Connection(pair[0], mode=NonBlocking()) as conn:
        conn.send(b"bye")
    assert reads_all(pair[1]) == b"bye"


def test_close_wakes_a_receiver_in_another_thread(pair: Pair) -> None:
    conn = Connection(pair[0])
    errors: list[BaseException] = []

    def receive() -> None:
        try:
            conn.recv()
        except Closed as error:
            errors.append(error)

    receiver = threading.Thread(target=receive)
    receiver.start()
    until(lambda: row_of(conn).waiting)
    conn.close()
    receiver.join(5)
    assert not receiver.is_alive()
    assert len(errors) == 1


@pytest.mark.parametrize("end", ["close", "abort"])
def test_the_end_wakes_a_sender_in_another_thread(pair: Pair, end: str) -> None:
    conn = Connection(pair[0])
    errors: list[BaseException] = []

    def send() -> None:
        try:
            conn.send(BIG)
        except (Closed, PeerClosed, PeerReset) as error:
            errors.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: conn.bytes_sent > 0)
    getattr(conn, end)(**({"linger": 0.1} if end == "close" else {}))
    sender.join(5)
    assert not sender.is_alive()
    assert len(errors) == 1


def test_release_is_refused_while_another_thread_receives(pair: Pair) -> None:
    conn = Connection(pair[0])
    receiver = threading.Thread(target=conn.recv)
    receiver.start()
    until(lambda: row_of(conn).waiting)
    with pytest.raises(Busy):
        conn.release()
    pair[1].sendall(b"x")
    receiver.join()


# What a handler is told, and says.


def test_without_a_server() -> None:
    ours, peer = KINDS["tcp"]()
    with ours, peer:
        conn = Connection(ours)
        assert (conn.id, conn.listener, conn.attached, conn.state) == ("", "", "accepted", None)
        assert conn.peer == "{}:{}".format(*peer.getsockname())
        assert conn.local == "{}:{}".format(*ours.getsockname())
        assert conn.fileno() == ours.fileno()
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert repr(conn) == f"<Connection {ours.fileno()} peer={conn.peer}>"


@pytest.mark.parametrize("attached", ["accepted", "reload", "parked"])
def test_one_that_was_parked_sends_as_its_handler_wished(attached: str) -> None:
    ours, peer = KINDS["tcp"]()
    with ours, peer:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        Connection(ours, **leased(attached=attached))
        at_once = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert bool(at_once) == (attached != "parked")


def test_what_the_server_says(pair: Pair) -> None:
    lease = leased(id="7.2", listener="[::]:7000", attached="reload")
    conn = Connection(pair[0], **lease)
    assert (conn.id, conn.listener, conn.attached) == ("7.2", "[::]:7000", "reload")


class Session(msgspec.Struct):
    name: str
    seen: int = 0


def test_state_is_a_snapshot_decoded_to_its_type(pair: Pair) -> None:
    conn = Connection(pair[0], **leased(resumable=True, state_type=Session))
    states = [conn.state]
    session = Session("ann", 1)
    conn.commit(session)
    session.seen = 99
    states.append(conn.state)
    conn.commit()
    states.append(conn.state)
    assert states == [None, Session("ann", 1), None]


def test_state_goes_to_the_next_worker(pair: Pair) -> None:
    conn = Connection(pair[0], **leased(resumable=True))
    conn.commit(Session("ann"))
    packed = conn.hand_over().state
    heir = Connection(pair[0], **leased(state=packed, state_type=Session))
    assert heir.state == Session("ann")
    stranger = Connection(pair[0], **leased(state=packed, state_type=list[int]))
    with pytest.raises(StateMismatch, match=r"does not fit list\[int\]"):
        _ = stranger.state


def test_a_state_that_cannot_be_kept_commits_nothing(pair: Pair) -> None:
    conn = Connection(pair[0], **leased(resumable=True))
    conn.commit("good")
    pair[1].sendall(b"abc")
    conn.recv()
    recursive: list[Any] = []
    recursive.append(recursive)
    for state, error, words in (
        (bytes(65536), StateTooLarge, "the limit is 65536"),
        (object(), StateNotEncodable, "a state of type object cannot be encoded"),
        (recursive, StateNotEncodable, "cannot be encoded"),
        (2**70, StateNotEncodable, "cannot be encoded"),
    ):
        with pytest.raises(error, match=words):
            conn.commit(state)
    left = conn.hand_over()
    assert (conn.state, left.unread) == ("good", b"abc")
    conn.commit(bytes(65536 - 5))


def test_bytes_are_counted(pair: Pair) -> None:
    lease = leased()
    conn = Connection(pair[0], **lease)
    pair[1].sendall(b"12345")
    conn.recv(2)
    conn.send(b"123")
    assert (row_of(lease).bytes_in, row_of(lease).bytes_out) == (5, 3)
    assert row_of(lease).ended == "not yet"


def test_a_handler_that_never_commits_is_named_once(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    lease = leased(resumable=True, id="7.2", listener=f"test:{time.monotonic_ns()}")
    for _ in range(2):
        conn = Connection(pair[0], **lease)
        call = be_handler_of(conn)
        for _ in range(1001):
            pair[1].sendall(b"x")
            conn.recv()
            conn.send(b"y")
            pair[1].recv(1)
        call.end()
    assert [record.getMessage()[:39] for record in caplog.records] == [
        "the resumable handler of connection 7.2"
    ]


def test_a_handler_that_commits_is_not(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    lease = leased(resumable=True, listener=f"test:{time.monotonic_ns()}")
    conn = Connection(pair[0], **lease)
    call = be_handler_of(conn)
    conn.commit()
    for _ in range(1001):
        pair[1].sendall(b"x")
        conn.recv()
        conn.send(b"y")
        pair[1].recv(1)
    call.end()
    assert not caplog.records
