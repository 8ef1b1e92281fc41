"""What a server may ask of a sync connection, and what leaves with it when it is detached."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from socketkeep import Closed, Connection, Detached, Released
from tests.harness.seam import (
    FakeDrainSignal,
    How,
    Leased,
    Row,
    be_handler_of,
    leased,
    order_to,
    row_of,
)
from tests.library.conftest import Pair, until

MOVE = order_to("move", 3600)
#: Seconds between two looks at an order that is not obeyed yet; 1 where no test makes it less.
LOOK_AGAIN = "socketkeep._stream._connection._LOOK_AGAIN"


def ordered(drain_signal: FakeDrainSignal, how: How = "move", **fields: object) -> Leased:
    drain_signal.order = order_to(how)
    return assigned(drain_signal, **fields)


def assigned(drain_signal: FakeDrainSignal, **fields: object) -> Leased:
    return leased(**({"resumable": True, "drain_signal": drain_signal} | fields))


def test_a_waiting_receive_is_detached_when_the_order_comes(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, _ = pair
    conn = Connection(ours, **assigned(drain_signal))
    threading.Timer(0.05, drain_signal.give, [MOVE]).start()
    with pytest.raises(Detached):
        conn.recv()
    assert row_of(conn).ended == "detached"


def test_bytes_that_are_ready_travel_in_the_kernel(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, peer = pair
    conn = Connection(ours, **assigned(drain_signal))
    peer.sendall(b"later")
    drain_signal.give(MOVE)
    with pytest.raises(Detached):
        conn.recv()
    left = conn.hand_over()
    assert left.unread == b""
    assert Connection(left.sock).recv() == b"later"


def test_what_was_read_since_the_commit_is_pushed_back(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, peer = pair
    conn = Connection(ours, **assigned(drain_signal))
    peer.sendall(b"done\nheader\nbo")
    lines = conn.lines()
    assert next(lines) == b"done"
    conn.commit({"seen": 1})
    assert next(lines) == b"header"
    drain_signal.give(MOVE)
    with pytest.raises(Detached):
        conn.recv_exactly(4)
    left = conn.hand_over()
    assert left.unread == b"header\nbo"
    assert left.state is not None
    peer.sendall(b"dy")
    heir = Connection(left.sock, **leased(unread=left.unread, state=left.state))
    assert heir.state == {"seen": 1}
    assert (heir.recv_until(b"\n"), heir.recv_exactly(4)) == (b"header", b"body")


def test_a_receive_from_the_buffer_alone_obeys_too(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, peer = pair
    conn = Connection(ours, **assigned(drain_signal))
    peer.sendall(b"a\nb\nc\n")
    lines = conn.lines(commit=True)
    assert next(lines) == b"a"
    drain_signal.order = MOVE
    with pytest.raises(Detached):
        next(lines)
    assert conn.hand_over().unread == b"b\nc\n"


def test_until_its_turn_to_leave_it_is_served(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, peer = pair
    conn = Connection(ours, **assigned(drain_signal, turn=60))
    drain_signal.give(MOVE)
    for _ in range(2):  # the first hears of the order, the second knows
        threading.Timer(0.05, peer.sendall, [b"ask"]).start()
        assert conn.recv() == b"ask"
        conn.commit()


@pytest.mark.parametrize(("turn", "deadline"), [(0.1, 3600), (3600, 0.2)])
def test_its_turn_comes_well_before_the_deadline(
    tcp: Pair, drain_signal: FakeDrainSignal, turn: float, deadline: float
) -> None:
    ours, _ = tcp
    conn = Connection(ours, **assigned(drain_signal, turn=turn))
    began = time.monotonic()
    drain_signal.give(order_to("move", at=began + deadline))
    with pytest.raises(Detached):
        conn.recv()
    assert time.monotonic() - began >= 0.09


def test_while_it_waits_for_its_turn_the_server_may_stop(
    tcp: Pair, drain_signal: FakeDrainSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOOK_AGAIN, 0.1)
    ours, _ = tcp
    conn = Connection(ours, **assigned(drain_signal, turn=60))
    drain_signal.give(MOVE)
    threading.Timer(0.05, lambda: drain_signal.give(order_to("close"))).start()
    with pytest.raises(Closed, match="the server is stopping"):
        conn.recv()


def test_not_after_an_uncommitted_send(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, peer = pair
    conn = Connection(ours, **ordered(drain_signal))
    with be_handler_of(conn):
        conn.send(b"half a reply")
        peer.sendall(b"more")
        assert conn.recv() == b"more"
        conn.commit()
        with pytest.raises(Detached):
            conn.recv()


def test_not_past_the_replay_limit_until_the_commit(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, peer = pair
    conn = Connection(ours, **assigned(drain_signal, replay_limit=8))
    peer.sendall(b"123456789abc")
    assert conn.recv_exactly(9) == b"123456789"
    drain_signal.order = MOVE
    assert conn.recv_exactly(3) == b"abc"
    conn.commit()
    with pytest.raises(Detached):
        conn.recv()


def test_a_handler_that_is_not_resumable_is_left_alone(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, peer = pair
    conn = Connection(ours, **ordered(drain_signal, resumable=False))
    peer.sendall(b"x")
    assert conn.recv() == b"x"


def test_after_detached_sends_are_refused_and_receives_say_it_again(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, _ = pair
    conn = Connection(ours, **ordered(drain_signal))
    with pytest.raises(Detached):
        conn.recv()
    with pytest.raises(Released, match="detached from this worker"):
        conn.send(b"x")
    with pytest.raises(Detached):
        conn.recv_exactly(1)


@pytest.mark.parametrize("verb", ["close", "release", "abort", "__exit__"])
def test_a_finally_block_cannot_end_a_detached_connection(
    pair: Pair, drain_signal: FakeDrainSignal, verb: str
) -> None:
    ours, peer = pair
    conn = Connection(ours, **ordered(drain_signal))
    with pytest.raises(Detached):
        conn.recv()
    getattr(conn, verb)(*(None, None, None) if verb == "__exit__" else ())
    conn.hand_over().sock.send(b"alive")
    assert peer.recv(9) == b"alive"


def test_at_the_deadline_a_waiting_receive_ends(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, _ = pair
    lease = assigned(drain_signal, resumable=False)
    conn = Connection(ours, **lease)
    drain_signal.give(order_to("finish", 0.1))
    with pytest.raises(Closed, match="time for it to finish is over"):
        conn.recv()
    with pytest.raises(Closed):
        conn.send(b"x")


def test_at_the_deadline_a_waiting_send_ends(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, _ = pair
    conn = Connection(ours, **assigned(drain_signal))
    threading.Timer(0.05, lambda: drain_signal.give(order_to("move", 0.1))).start()
    with be_handler_of(conn), pytest.raises(Closed, match="time for it to finish is over"):
        conn.send(bytes(50_000_000))


def test_close_ends_a_clean_connection_that_waits(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, _ = pair
    conn = Connection(ours, **assigned(drain_signal))
    threading.Timer(0.05, lambda: drain_signal.give(order_to("close"))).start()
    with pytest.raises(Closed, match="the server is stopping"):
        conn.recv()


def test_a_drain_becomes_a_stop(
    pair: Pair, drain_signal: FakeDrainSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second order is seen though the receive no longer polls the wake descriptor."""
    monkeypatch.setattr(LOOK_AGAIN, 0.1)
    ours, _ = pair
    conn = Connection(ours, **ordered(drain_signal, "finish"))
    threading.Timer(0.05, lambda: drain_signal.give(order_to("close"))).start()
    with pytest.raises(Closed, match="the server is stopping"):
        conn.recv()


def test_close_leaves_what_is_in_the_kernel_to_be_answered(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, peer = pair
    conn = Connection(ours, **ordered(drain_signal, "close"))
    peer.sendall(b"ask\n")
    assert next(conn.lines()) == b"ask"
    with be_handler_of(conn):
        conn.send(b"answer")
    conn.commit()
    with pytest.raises(Closed, match="the server is stopping"):
        conn.recv()


def test_close_waits_for_the_rest_of_a_message(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, peer = pair
    conn = Connection(ours, **assigned(drain_signal))
    peer.sendall(b"he")
    assert conn.recv() == b"he"
    drain_signal.give(order_to("close"))
    threading.Timer(0.1, peer.sendall, [b"ad"]).start()
    assert conn.recv() == b"ad"


def test_idle_for_too_long(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, _ = pair
    conn = Connection(ours, **assigned(drain_signal, idle_timeout=0.1))
    with pytest.raises(Closed, match=r"idle for 0\.1 s"):
        conn.recv()


def test_a_push_keeps_an_idle_connection(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, _ = pair
    conn = Connection(ours, **assigned(drain_signal, idle_timeout=0.5))
    started = time.monotonic()
    threading.Timer(0.1, conn.send, [b"push"]).start()
    with pytest.raises(Closed, match="idle"):
        conn.recv()
    assert time.monotonic() - started > 0.59


def test_a_push_leaves_the_point_safe(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, peer = pair
    lease = assigned(drain_signal)
    conn = Connection(ours, **lease)
    conn.send(b"push")
    assert row_of(lease).status == "clean"
    assert peer.recv(9) == b"push"
    drain_signal.give(MOVE)
    with pytest.raises(Detached):
        conn.recv()


def test_detaching_waits_for_a_push_in_flight(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, peer = pair
    lease = assigned(drain_signal)
    conn = Connection(ours, **lease)
    pushed = bytes(range(256)) * 40_000
    pusher = threading.Thread(target=conn.send, args=[pushed])
    pusher.start()
    until(lambda: row_of(lease).status == "sent")
    drain_signal.give(MOVE)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(exactly(peer, len(pushed))))
    threading.Timer(0.1, reader.start).start()
    with pytest.raises(Detached):
        conn.recv()
    assert conn.bytes_sent == len(pushed)
    pusher.join(5)
    reader.join(5)
    assert got == [pushed]
    assert row_of(lease).status == "clean"


def exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += sock.recv(count - len(data))
    return bytes(data)


def test_the_scoreboard_shows_each_step(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    ours, peer = pair
    lease = assigned(drain_signal)
    record = lease["hooks"].record
    conn = Connection(ours, **lease)
    assert Row(record).status == "clean"
    peer.sendall(b"one\ntwo\n")
    lines = conn.lines()
    next(lines)
    assert Row(record).status == "read"
    with be_handler_of(conn):
        conn.send(b"1")
    assert Row(record).status == "sent"
    conn.commit()
    # The second line is in the library's buffer, no longer in the kernel: not clean.
    assert Row(record).status == "read"
    next(lines)
    conn.commit()
    assert Row(record).status == "clean"
    waiter = threading.Thread(target=lambda: next(lines))
    waiter.start()
    until(lambda: Row(record).waiting)
    assert Row(record).status == "clean"
    peer.sendall(b"three\n")
    waiter.join(5)
    assert not Row(record).waiting
    assert Row(record).ended == "not yet"


def test_unread_bytes_of_the_worker_before_are_not_clean(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    ours, _ = pair
    lease = assigned(drain_signal, unread=b"half")
    conn = Connection(ours, **lease)
    assert row_of(lease).status == "read"
    drain_signal.give(MOVE)
    with pytest.raises(Detached):
        conn.recv_exactly(8)
    assert conn.hand_over().unread == b"half"
