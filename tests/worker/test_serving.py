"""A worker of each model as the keeper knows it: what it says, and in which order.

The worker runs in a thread of the test; `fork`, whose handlers run in processes, is tested from
outside with the others.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from socketkeep import AsyncConnection, Connection, Service, resumable
from tests.harness.configuration import Model
from tests.harness.seam import counted
from tests.wire.limits import out_of_descriptors
from tests.wire.sending import message
from tests.worker.fakes import IN_A_ROW, Place, a_place, inspected, standing


@resumable
def count(conn: Connection) -> None:
    number = conn.state or 0
    for line in conn.lines():
        number += 1
        conn.send(b"%d %s %s\n" % (number, conn.attached.encode(), line))
        conn.commit(number)


@resumable
async def count_async(conn: AsyncConnection) -> None:
    number = conn.state or 0
    async for line in conn.lines():
        number += 1
        await conn.send(b"%d %s %s\n" % (number, conn.attached.encode(), line))
        conn.commit(number)


HANDLERS: dict[Model, Any] = {"prefork": count, "thread": count, "async": count_async}


@dataclass
class Running:
    """A worker that runs, its keeper being the test."""

    place: Place
    thread: threading.Thread

    def has_ended(self) -> bool:
        self.thread.join(10)
        return not self.thread.is_alive()

    def retire(self, how: Any, seconds: float = 30) -> None:
        self.place.retire(how, seconds)

    def connect(self) -> socket.socket:
        peer = socket.create_connection(self.place.environment.listeners[0].getsockname())
        peer.settimeout(10)
        self.place.peers.append(peer)
        return peer

    def take(self) -> Any:
        """Take the connection that the worker offers next, and say so."""
        message, (fd, *pipe) = self.place.wait_for("Detached")
        os.close(fd)
        for end in pipe:
            os.write(end, b"\1")
            os.close(end)
        if not pipe:
            self.place.acknowledge(message, taken=True)
        return message


def ask(peer: socket.socket, text: bytes) -> bytes:
    peer.sendall(text)
    return peer.recv(1000)


@pytest.fixture(params=["prefork", "thread", "async"])
def worker(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A worker of each model, ready, with two rows (`prefork`: one)."""
    model: Model = request.param
    with ExitStack() as stack:
        rows = 1 if model == "prefork" else 2
        place = stack.enter_context(a_place(HANDLERS[model], model, rows=rows))
        thread = threading.Thread(target=place.run, daemon=True)
        thread.start()
        ready, _ = place.wait_for("Ready")
        assert ready.pid == os.getpid()
        running = Running(place, thread)
        yield running
        for peer in place.peers:
            peer.close()
        place.keeper.close()
        assert running.has_ended()


def test_nothing_is_accepted_before_it_is_allowed(worker: Running) -> None:
    peer = worker.connect()
    peer.sendall(b"hello\n")
    # The answer to this comes after the listener has been ready for as long.
    worker.place.send(message("Refused", "nonsense", 0, "to be ignored"))
    worker.place.permit(0)
    moved, _ = worker.place.attach("b007-1-1")
    worker.place.wait_for("Attached")
    assert ask(moved, b"x\n") == b"1 reload x\n"
    assert counted(worker.place.board, "accepted") == 0
    moved.close()
    worker.place.permit(1)
    assert peer.recv(100) == b"1 accepted hello\n"
    assert counted(worker.place.board, "accepted") == 1


def test_an_attached_connection_goes_on_where_it_was(worker: Running) -> None:
    peer, attach = worker.place.attach("b007-1-1", state=b"\x07", unread=b"half a ")
    told, _ = worker.place.wait_for("Attached")
    assert (told.id, told.epoch) == (attach.id, attach.epoch)
    assert ask(peer, b"line\n") == b"8 reload half a line\n"


def test_connections_that_come_are_served_before_the_last_has_come() -> None:
    """Though they come faster than that: an async worker does not look at its channel alone."""
    open_then: list[int] = []

    @resumable
    async def note(conn: AsyncConnection) -> None:
        open_then.append(counted(place.board, "open"))
        await conn.recv()

    with a_place(note, "async", rows=100) as place:
        for number in range(100):
            place.attach(f"b007-1-{number + 1}")
        thread = place.start()
        for _ in range(100):
            place.wait_for("Attached")
        place.keeper.close()
        for peer in place.peers:
            peer.close()
        thread.join(10)
    assert not thread.is_alive()
    assert open_then[0] < 100


def test_listeners_take_turns_where_a_worker_is_ahead() -> None:
    """Of what it takes each time that it has waited in vain for another."""
    served: list[str] = []
    all_served = threading.Event()

    async def note(conn: AsyncConnection) -> None:
        other.show(0)  # it comes, and is slow: it is waited for each time
        served.append(conn.local)
        if len(served) == 40:
            all_served.set()
        await conn.recv()

    with ExitStack() as stack:
        place = stack.enter_context(a_place(note, "async", rows=100))
        second = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        second.setblocking(False)
        first = place.environment.listeners[0]
        environment = replace(
            place.environment,
            listeners=[first, second],
            doors=[first, second],
            settings=place.environment.settings * 2,
            listener_names=["first", "second"],
        )
        for slot in (0, 1):
            environment.siblings.seat(slot)
        other = standing(environment, 1)
        other.show(0)
        for each in (first, second) * 20:
            place.peers.append(socket.create_connection(each.getsockname()))
        thread = threading.Thread(target=replace(place, environment=environment).run, daemon=True)
        thread.start()
        place.wait_for("Ready")
        place.permit(100)
        assert all_served.wait(30), served
        for peer in place.peers:
            peer.close()
        place.keeper.close()
        thread.join(10)
    assert not thread.is_alive()
    assert [served[:16].count(each) for each in set(served)] == [8, 8], served


def test_no_seat(worker: Running) -> None:
    rows = worker.place.environment.scoreboard.rows
    for number in range(rows):
        worker.place.attach(f"b007-1-{number + 1}")
        worker.place.wait_for("Attached")
    peer, attach = worker.place.attach("b007-1-99")
    told, _ = worker.place.wait_for("Refused")
    assert (told.id, told.epoch, told.reason) == (attach.id, attach.epoch, "no seat")
    assert peer.recv(1) == b"", "this process has no handle of it left"
    assert counted(worker.place.board, "open") == rows


def test_no_descriptor(worker: Running) -> None:
    peer, accepted = worker.place.connection()
    with accepted:
        attach = message(
            "Attach", "b007-1-1", 2, "reload", 0, "a peer", None, b"", 0, 0, 0, accepted.fileno()
        )
        with out_of_descriptors():
            worker.place.send(attach)
            told, _ = worker.place.wait_for("Refused")
    assert (told.id, told.reason) == (attach.id, "out of file descriptors")
    assert peer.recv(1) == b""


def test_a_message_that_did_not_arrive_is_refused_without_its_id(worker: Running) -> None:
    _, accepted = worker.place.connection()
    with accepted:
        large = message(
            "Attach",
            "b007-1-1",
            2,
            "reload",
            0,
            "a peer",
            b"s" * 40_000,
            b"",
            0,
            0,
            0,
            accepted.fileno(),
        )
        worker.place.keeper.enqueue(large)
        with out_of_descriptors():
            worker.place.keeper.flush()
            told, _ = worker.place.wait_for("Refused")
    assert (told.id, told.reason) == ("", "out of file descriptors")


def test_a_waiting_connection_moves_and_the_worker_ends(worker: Running) -> None:
    worker.place.permit(1)
    peer = worker.connect()
    assert ask(peer, b"a\nhalf") == b"1 accepted a\n"
    worker.retire("move")
    message = worker.take()
    assert (message.state, message.unread) == (b"\x01", b"half")
    assert (message.epoch, message.bytes_in, message.bytes_out) == (1, 6, 13)
    assert worker.has_ended()
    assert counted(worker.place.board, "detached") == 1
    assert counted(worker.place.board, "open") == 0


def test_a_connection_that_moves_is_held_until_it_is_taken(worker: Running) -> None:
    """Though it could be parked by the message alone: it is served on should the keeper die."""
    worker.place.attach("b007-1-1", kept=True, returnable=True)
    worker.place.wait_for("Attached")
    worker.retire("move")
    message, fds = worker.place.wait_for("Detached")
    assert fds
    for fd in fds:
        os.close(fd)
    if len(fds) == 1:
        worker.place.acknowledge(message, taken=False)
    worker.take()
    assert worker.has_ended()


def test_not_taken_is_offered_again_and_nothing_is_lost(worker: Running) -> None:
    peer, _ = worker.place.attach("b007-1-1", state=b"\x05")
    worker.place.wait_for("Attached")
    worker.retire("move")
    refused, fds = worker.place.wait_for("Detached")
    for fd in fds:
        os.close(fd)
    if len(fds) == 1:
        worker.place.acknowledge(refused, taken=False)
    assert worker.take() == refused
    assert worker.has_ended()
    assert peer.recv(1) == b""


def test_a_retired_worker_takes_no_more(worker: Running) -> None:
    peer, _ = worker.place.attach("b007-1-1")
    worker.place.wait_for("Attached")
    worker.retire("finish")
    worker.place.attach("b007-1-2")
    told, _ = worker.place.wait_for("Refused")
    assert told.id == "b007-1-2"
    assert ask(peer, b"x\n") == b"1 reload x\n"
    peer.close()
    assert worker.has_ended()


def test_a_retired_worker_lets_go_of_the_listeners(worker: Running) -> None:
    listener = worker.place.environment.listeners[0]
    worker.retire("move")
    assert worker.has_ended()
    assert listener.fileno() == -1


def test_told_to_close_it_closes_what_waits(worker: Running) -> None:
    peer, _ = worker.place.attach("b007-1-1")
    worker.place.wait_for("Attached")
    assert ask(peer, b"x\n") == b"1 reload x\n"
    worker.retire("close")
    assert peer.recv(1) == b""
    peer.close()
    assert worker.has_ended()
    assert counted(worker.place.board, "closed") == 1


def test_what_is_left_at_the_deadline_is_closed(worker: Running) -> None:
    peer, _ = worker.place.attach("b007-1-1")
    worker.place.wait_for("Attached")
    worker.retire("finish", seconds=0.05)
    assert peer.recv(1) == b""
    peer.close()
    assert worker.has_ended()


def test_without_its_keeper_it_serves_what_is_open_and_ends(worker: Running) -> None:
    peer, _ = worker.place.attach("b007-1-1")
    worker.place.wait_for("Attached")
    worker.place.keeper.close()
    for number in (1, 2):
        assert ask(peer, b"x\n") == b"%d reload x\n" % number
    peer.close()
    assert worker.has_ended()


def test_what_a_keeper_sent_before_it_died_is_served(
    worker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else can have it: another keeper has this worker read all of it first, or ends it."""
    channel, dead = worker.place.environment.channel, threading.Event()
    receive = channel.receive

    def receive_late(express: Any) -> Any:
        dead.wait(10)
        return receive(express)

    monkeypatch.setattr(channel, "receive", receive_late)
    peer, _ = worker.place.attach("b007-1-1")
    worker.place.keeper.close()
    dead.set()
    for number in (1, 2):
        assert ask(peer, b"x\n") == b"%d reload x\n" % number
    peer.close()
    assert worker.has_ended()


def test_a_worker_hears_its_order_while_connections_queue() -> None:
    """Though no handler receives, and so hears of it."""

    def handle(conn: Connection) -> None:
        conn.send(b"x")
        if counted(place.board, "accepted") == IN_A_ROW + 1:  # which is in the middle of a row
            place.retire("close")

    with a_place(handle, "prefork", rows=1) as place:
        for _ in range(6 * IN_A_ROW):
            peer = socket.create_connection(place.environment.listeners[0].getsockname())
            peer.shutdown(socket.SHUT_WR)
            place.peers.append(peer)
        place.permit(1)
        place.run()
        assert IN_A_ROW < counted(place.board, "accepted") <= 3 * IN_A_ROW


class Broken:
    """A lifespan that cannot be entered."""

    def __enter__(self) -> None:
        raise OSError("no database")

    def __exit__(self, *args: object) -> None: ...


@pytest.mark.parametrize("model", ["prefork", "thread", "async"])
def test_a_lifespan_that_fails_is_told(model: Model) -> None:
    with a_place(HANDLERS[model], model) as place:
        service = inspected(Service(HANDLERS[model], lifespan=Broken))
        environment = replace(place.environment, handler=service)
        replace(place, environment=environment).run()
        told, _ = place.wait_for("StartFailed")
        assert told.error.startswith("the lifespan failed:\n")
        assert told.error.endswith("OSError: no database")
