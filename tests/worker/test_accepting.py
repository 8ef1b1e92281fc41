"""Accepting: only while wanted, with a pause when the system is full, and by whom."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._worker import _accepting
from tests.harness.lines import Lines


class Listener(socket.socket):
    """A listener whose accept(2) fails with `code` while it is not 0."""

    code = 0

    def _accept(self) -> tuple[int, object]:
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        accepted: tuple[int, object] = super()._accept()  # type: ignore[misc]
        return accepted


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        yield sock


@pytest.fixture
def gate(listener: Listener) -> Iterator[_accepting.Gate]:
    made = _accepting.Gate([listener])
    yield made
    made.close()


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname())


def test_nothing_to_accept(listener: Listener) -> None:
    assert _accepting.Door(listener, 0).accept() is None


@pytest.mark.parametrize(
    "code", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ETIMEDOUT]
)
def test_what_befell_the_connection_itself_is_passed_over(listener: Listener, code: int) -> None:
    listener.code = code
    assert _accepting.Door(listener, 0).accept() is None


@pytest.mark.parametrize("code", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
def test_a_listener_that_is_none_is_an_error(listener: Listener, code: int) -> None:
    listener.code = code
    with pytest.raises(OSError, match=os.strerror(code)):
        _accepting.Door(listener, 0).accept()


def test_a_closed_gate_leaves_connections_in_the_queue(
    gate: _accepting.Gate, listener: Listener
) -> None:
    with connect(listener) as peer:
        assert gate.wait(0) == []
        gate.open(True)
        assert gate.wait(5) == [listener.fileno()]
        gate.open(False)
        assert gate.wait(0) == []
        gate.open(True)
        (fd,) = gate.wait(5)
        accepted = gate.accept(fd)
        assert isinstance(accepted, tuple)
        sock, address, number = accepted
        assert sock.getpeername() == peer.getsockname()
        assert address == "{}:{}".format(*peer.getsockname())
        assert number == 0
        sock.close()


def test_each_listener_has_its_number(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second:
        second.setblocking(False)
        gate = _accepting.Gate([listener, second])
        gate.open(True)
        with connect(second):
            (fd,) = gate.wait(5)
            accepted = gate.accept(fd)
            assert isinstance(accepted, tuple)
            assert accepted[2] == 1
            accepted[0].close()
        gate.close()


def test_listeners_take_turns(listener: Listener) -> None:
    """Where one connection at a time is accepted the second listener is no worse off."""
    with socket.create_server(("127.0.0.1", 0)) as second, ExitStack() as stack:
        second.setblocking(False)
        gate = _accepting.Gate([listener, second])
        gate.open(True)
        for _ in range(3):
            stack.enter_context(connect(listener))
            stack.enter_context(connect(second))
        numbers = []
        for _ in range(6):
            accepted = gate.accept(gate.wait(5)[0])
            assert isinstance(accepted, tuple)
            accepted[0].close()
            numbers.append(accepted[2])
        assert numbers == [0, 1, 0, 1, 0, 1]
        gate.close()


def test_another_worker_took_the_connection(gate: _accepting.Gate, listener: Listener) -> None:
    gate.open(True)
    with connect(listener):
        (fd,) = gate.wait(5)
        listener.accept()[0].close()
        assert gate.accept(fd) is None
        assert not gate.paused


def test_what_is_no_listener_is_not_accepted_from(gate: _accepting.Gate) -> None:
    assert gate.accept(0) is None


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_no_room_for_a_connection(
    gate: _accepting.Gate, listener: Listener, log: Lines, code: int
) -> None:
    gate.open(True)
    listener.code = code
    with connect(listener):
        (fd,) = gate.wait(5)
        assert gate.accept(fd) is None
    assert os.strerror(code) in str(log.fields("out of file descriptors")["error"])


def test_out_of_descriptors_pauses_says_so_once_and_goes_on(
    gate: _accepting.Gate, listener: Listener, log: Lines
) -> None:
    gate.open(True)
    with connect(listener):
        for _ in range(3):
            (fd,) = gate.wait(5)
            listener.code = errno.EMFILE
            assert gate.accept(fd) is None
            gate.open(True)
            begun = time.monotonic()
            assert gate.wait(None) == [], "paused, though a connection waits: it does not spin"
            assert time.monotonic() - begun >= _accepting.PAUSE * 0.1
            while gate.paused:
                gate.wait(None)
            gate.open(True)
        listener.code = 0
        (fd,) = gate.wait(5)
        accepted = gate.accept(fd)
        assert isinstance(accepted, tuple)
        accepted[0].close()
    assert log.events() == ["out of file descriptors"]
    assert log.fields("out of file descriptors")["process"] == "worker"


def test_a_pause_does_not_keep_other_descriptors_from_being_reported(
    gate: _accepting.Gate, listener: Listener
) -> None:
    read, write = os.pipe()
    gate.watch(read)
    gate.pause("cannot fork", "no room")
    os.write(write, b"x")
    assert gate.wait(None) == [read]
    gate.unwatch(read)
    os.close(read)
    os.close(write)


def test_listeners_are_watched_exclusively(gate: _accepting.Gate, listener: Listener) -> None:
    """So that a connection wakes one of the workers that wait, not all."""
    gate.open(True)
    lines = Path(f"/proc/self/fdinfo/{gate._epoll.fileno()}").read_text().splitlines()
    (events,) = (
        int(words[3], 16)
        for words in (line.split() for line in lines)
        if words[:2] == ["tfd:", str(listener.fileno())]
    )
    assert events & select.EPOLLEXCLUSIVE
    assert events & select.EPOLLIN


def test_a_forked_child_that_forgets_takes_nothing_from_its_parent(listener: Listener) -> None:
    gate = _accepting.Gate([listener])
    gate.open(True)
    # What a fork gives the parent: handles of its own of the same epoll and the same listener.
    epoll = select.epoll.fromfd(os.dup(gate._epoll.fileno()))
    parents = listener.dup()
    with parents, connect(parents):
        gate.forget()
        assert listener.fileno() == -1
        assert epoll.poll(5)
    epoll.close()


def test_closing_the_listeners_closes_these_handles_alone(listener: Listener) -> None:
    keepers = listener.dup()
    gate = _accepting.Gate([listener])
    gate.open(True)
    gate.close_listeners()
    gate.close_listeners()
    assert listener.fileno() == -1
    with keepers, connect(keepers):
        assert gate.wait(0) == []
        assert select.select([keepers], [], [], 5)[0], "it waits in the queue"
    gate.close()


def test_queued_tells_of_connections_that_wait(listener: Listener, gate: _accepting.Gate) -> None:
    assert not gate.queued()
    with connect(listener):
        deadline = time.monotonic() + 5
        while not gate.queued():
            assert time.monotonic() < deadline
            select.select([listener], [], [], 1)


def test_a_gate_that_is_closed_has_no_queue(listener: Listener, gate: _accepting.Gate) -> None:
    with connect(listener):
        gate.close_listeners()
        assert not gate.queued()


@pytest.mark.parametrize("part", ["Socket", "format_address"])
def test_whatever_raises_of_one_connection_ends_it_alone(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(f"socketkeep._worker._accepting.{part}", fail)
        door = _accepting.Door(listener, 0)
        with connect(listener) as peer:
            with pytest.raises(_accepting.BadAccept):
                door.accept()
            peer.settimeout(10)
            assert peer.recv(1) == b"", "its descriptor is closed"
    with connect(listener) as peer:
        accepted = _accepting.Door(listener, 0).accept()
        assert isinstance(accepted, tuple)
        accepted[0].close()


#: How often a worker may run within a moment.
TURNS = 8


@dataclass
class Worker:
    """One that looks at the queue each time that it runs, unless it has left it to others."""

    standing: _accepting.Standing
    serving: int = 0
    holds: bool = False

    def run(self, queued: int) -> int:
        """Return how many it takes of those that are queued."""
        if self.holds or not queued:
            return 0
        self.holds = self.standing.leaves(self.serving)
        taken = 0 if self.holds else min(_accepting.LEEWAY, queued)
        self.serving += taken
        self.standing.show(self.serving)
        return taken

    def moment(self, queued: int) -> None:
        """A moment is over."""
        self.holds = False
        if not queued:
            self.standing.nobody_waits()


def workers(serving: list[int]) -> list[Worker]:
    siblings = _accepting.Siblings()
    made = []
    for slot, count in enumerate(serving):
        siblings.seat(slot)
        standing = _accepting.Standing(siblings, slot)
        standing.show(count)
        made.append(Worker(standing, count))
    return made


def serve(crew: list[Worker], burst: int, order: random.Random) -> int:
    """Have the workers take a burst; return how many moments that took."""
    for moments in range(300):
        if not burst:
            return moments
        turns = crew * TURNS
        order.shuffle(turns)
        for worker in turns:
            burst -= worker.run(burst)
        for worker in crew:
            worker.moment(burst)
    raise AssertionError(f"{burst} wait still")


def leeway(least: int) -> int:
    return max(_accepting.LEEWAY, least // _accepting.LEEWAY)


@given(st.integers(1, 12), st.integers(0, 200), st.randoms(use_true_random=False))
def test_a_burst_is_shared(count: int, burst: int, order: random.Random) -> None:
    """Whoever runs first, and however often: no worker is further ahead than the leeway and a turn.

    In a burst of 80 over 4 that is from 15 to 25 each.
    """
    crew = workers([0] * count)
    serve(crew, burst, order)
    counts = [each.serving for each in crew]
    assert max(counts) < min(counts) + leeway(min(counts)) + _accepting.LEEWAY


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=8),
    st.lists(st.integers(0, 60), max_size=8),
    st.integers(1, 300),
    st.randoms(use_true_random=False),
)
def test_who_does_not_come_is_not_waited_for(
    alive: list[int], dead: list[int], burst: int, order: random.Random
) -> None:
    """With others that compute, are stopped or were killed all are taken, and those share them."""
    crew = workers([*alive, *dead])[: len(alive)]
    catching_up = sum(max(alive) - each for each in alive) // _accepting.LEEWAY
    assert (
        serve(crew, burst, order)
        <= 2 * (_accepting.PATIENCE + 1) + burst // _accepting.LEEWAY + catching_up
    )
    counts = [each.serving for each in crew]
    most = max(counts)
    if most > max(alive) + _accepting.LEEWAY:
        assert most < min(counts) + leeway(min(counts)) + 2 * _accepting.LEEWAY


@given(st.integers(2, 6), st.integers(8, 20), st.integers(1, 60), st.randoms(use_true_random=False))
def test_who_has_fewest_comes_first(
    count: int, more: int, burst: int, order: random.Random
) -> None:
    """A worker that starts beside others gets what is new until it is about level with them."""
    crew = workers([0, *[more] * (count - 1)])
    serve(crew, burst, order)
    assert crew[0].serving >= min(burst, more - leeway(more))


def test_who_was_left_out_counts_again_as_soon_as_it_shows_something() -> None:
    one, other = workers([9, 0])
    assert [one.standing.leaves(9) for _ in range(_accepting.PATIENCE + 1)] == [
        True
    ] * _accepting.PATIENCE + [False]
    assert not one.standing.leaves(9), "the other has been waited for"
    other.standing.show(0)
    assert one.standing.leaves(9)


def test_a_queue_that_was_emptied_is_waited_with_anew() -> None:
    """Else an idle worker is left out for that nobody came."""
    one, _ = workers([9, 0])
    for _ in range(3 * _accepting.PATIENCE):
        assert one.standing.leaves(9)
        one.standing.nobody_waits()


def test_who_comes_and_is_slow_is_not_waited_for_either() -> None:
    one, other = workers([9, 0])
    taken = 0
    for _ in range(3 * (_accepting.PATIENCE + 1)):
        other.standing.show(0)
        taken += not one.standing.leaves(9)
    assert taken == 3


@given(st.integers(0, 2**20))
def test_a_worker_that_is_alone_leaves_nothing(serving: int) -> None:
    (alone,) = workers([serving])
    assert not alone.standing.leaves(serving)
    siblings = _accepting.Siblings()
    assert not _accepting.Standing(siblings, 3).leaves(serving), (
        "nor one that no template has seated"
    )


def test_who_accepts_nothing_is_not_waited_for() -> None:
    one, other = workers([9, 0])
    other.standing.show(None)
    assert not one.standing.leaves(9)


def test_who_accepts_no_more_leaves_the_place_to_the_next_in_its_slot() -> None:
    siblings = _accepting.Siblings()
    for slot in (0, 1):
        siblings.seat(slot)
    one, old = _accepting.Standing(siblings, 0), _accepting.Standing(siblings, 1)
    old.show(30)
    siblings.seat(1)
    new = _accepting.Standing(siblings, 1)
    old.show(None)
    new.show(2)
    old.show(None)
    assert one.is_ahead(2 + _accepting.LEEWAY)
    assert not one.is_ahead(2 + _accepting.LEEWAY - 1)


@pytest.mark.parametrize("word", [1, 2**63, 2**64 - 1])
def test_any_word_costs_a_bounded_wait(word: int) -> None:
    """User code runs in the workers, and may write anything."""
    (one,) = workers([9])
    memory = one.standing._words
    for place in range(len(memory)):
        memory[place] = word
    assert not all(one.standing.leaves(9) for _ in range(_accepting.PATIENCE + 1))
    one.standing.show(9)


def test_slots_beyond_the_places_share_them() -> None:
    siblings = _accepting.Siblings()
    siblings.seat(_accepting._PLACES + 1)
    siblings.seat(_accepting._PLACES - 1)
    _accepting.Standing(siblings, _accepting._PLACES + 1).show(0)
    assert _accepting.Standing(siblings, _accepting._PLACES - 1).is_ahead(_accepting.LEEWAY)


@pytest.mark.process
def test_processes_share_the_memory() -> None:
    one, other = workers([9, 20])
    assert not one.standing.is_ahead(9)
    pid = os.fork()
    if pid == 0:
        other.standing.show(4)
        os._exit(0)
    os.waitpid(pid, 0)
    assert one.standing.is_ahead(9)


def policy_after(*steps: Callable[[], None]) -> int:
    """Return how a thread is scheduled that has taken these steps: each has a policy of its own."""

    def run() -> int:
        for step in steps:
            step()
        return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(run).result()


def be_idle() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def test_a_worker_defers_to_edges() -> None:
    assert policy_after() == os.SCHED_OTHER
    assert policy_after(_accepting.defer_to_edges) == os.SCHED_BATCH


def test_a_scheduling_policy_that_was_chosen_stays() -> None:
    assert policy_after(be_idle, _accepting.defer_to_edges) == os.SCHED_IDLE


@pytest.mark.parametrize("call", ["sched_getscheduler", "sched_setscheduler"])
def test_the_system_may_forbid_another_policy(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A filter of system calls, say."""

    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        _accepting.defer_to_edges()
    assert policy_after() == os.SCHED_OTHER
