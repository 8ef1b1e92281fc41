"""The keeper's loop: timers, calls, descriptors that go while they are reported, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from socketkeep._keeper.loop._reactor import (
    FAILURES,
    PAUSE,
    READABLE,
    WRITABLE,
    Reactor,
    SignalQueue,
)
from tests.harness.lines import Lines, listening_to_the_log
from tests.keeper.fakes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reactor(clock: Clock) -> Iterator[Reactor]:
    made = Reactor(clock)
    yield made
    made.close()


def test_timers_fire_in_order_once_they_are_due(reactor: Reactor, clock: Clock) -> None:
    fired: list[str] = []
    reactor.call_later(2, lambda: fired.append("second"))
    reactor.call_later(1, lambda: fired.append("first"))
    reactor.call_later(2, lambda: fired.append("third"))
    reactor.run_once()
    assert fired == []
    clock.now += 1
    reactor.run_once()
    assert fired == ["first"]
    clock.now += 1
    reactor.run_once()
    reactor.run_once()
    assert fired == ["first", "second", "third"]


def test_a_cancelled_timer_does_not_fire(reactor: Reactor, clock: Clock) -> None:
    fired: list[int] = []
    timer = reactor.call_later(1, lambda: fired.append(1))
    timer.cancel()
    assert not timer.pending
    clock.now += 2
    reactor.run_once()
    assert fired == []


def test_a_timer_may_set_the_next_and_cancel_others(reactor: Reactor, clock: Clock) -> None:
    fired: list[float] = []
    other = reactor.call_later(1.5, lambda: fired.append(-1))

    def tick() -> None:
        fired.append(clock.now)
        other.cancel()
        if len(fired) < 3:
            reactor.call_later(1, tick)

    reactor.call_later(1, tick)
    for _ in range(5):
        clock.now += 1
        reactor.run_once()
    assert fired == [1001, 1002, 1003]


def test_the_loop_waits_no_longer_than_to_the_next_timer(reactor: Reactor, clock: Clock) -> None:
    assert reactor._timeout() is None
    cancelled = reactor.call_later(1, lambda: None)
    reactor.call_later(5, lambda: None)
    cancelled.cancel()
    assert reactor._timeout() == 5
    clock.now += 7
    assert reactor._timeout() == 0
    reactor.call_soon(lambda: None)
    assert reactor._timeout() == 0


def test_run_ends_when_told(clock: Clock) -> None:
    reactor = Reactor()
    begun = time.monotonic()
    reactor.call_later(0.02, reactor.stop)
    reactor.run()
    assert time.monotonic() - begun >= 0.02
    reactor.close()


def _hear(heard: list[str], name: str, sock: socket.socket, _events: int) -> None:
    heard.append(name + sock.recv(9).decode())


def test_another_loop_waits_in_its_place() -> None:
    """It wakes by what is ready here, by its own, and when a call is due."""
    reactor = Reactor()
    outer = Reactor()
    reactor.wait_in(lambda fd: outer.register(fd, lambda _events: None), outer.run_once)
    heard: list[str] = []
    with contextlib.ExitStack() as stack:
        for name, watch in (("reactor", reactor.register), ("outer", outer.register)):
            ours, theirs = (stack.enter_context(each) for each in socket.socketpair())
            watch(ours.fileno(), partial(_hear, heard, name, ours))
            theirs.send(b"!")
            reactor.run_once(20)
        assert heard == ["reactor!", "outer!"]
        begun = time.monotonic()
        reactor.run_once(0.02)
        assert time.monotonic() - begun >= 0.02
        reactor.run_once(0)
        reactor.call_later(0.02, reactor.stop)
        reactor.run()
    outer.close()
    reactor.close()


def test_what_many_ask_for_soon_is_done_once(reactor: Reactor) -> None:
    class Work:
        done = 0

        def do(self) -> None:
            self.done += 1

    work = Work()
    for _ in range(3):
        reactor.call_soon(work.do)
    reactor.run_once()
    assert work.done == 1
    reactor.call_soon(work.do)
    reactor.run_once()
    assert work.done == 2


def test_soon_is_after_the_events_and_timers_at_hand(reactor: Reactor, clock: Clock) -> None:
    order: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        reactor.call_later(0, lambda: order.append("timer"))

        def soon() -> None:
            order.append("soon")
            if order.count("soon") == 1:
                reactor.call_soon(lambda: order.append("asked for by the former"))

        reactor.call_soon(soon)
        reactor.register(ours.fileno(), lambda _: order.append("event"))
        reactor.run_once()
        reactor.unregister(ours.fileno())
    assert order == ["event", "timer", "soon", "asked for by the former"]


def test_a_descriptor_unregistered_during_a_round_is_not_called_in_it(reactor: Reactor) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def take_out_the_other(index: int, _events: int) -> None:
        called.append(index)
        other, _ = pairs[1 - index]
        reactor.unregister(other.fileno())

    for index, (ours, theirs) in enumerate(pairs):
        theirs.send(b"x")
        reactor.register(ours.fileno(), partial(take_out_the_other, index))
    reactor.run_once()
    assert len(called) == 1
    reactor.run_once()
    assert len(called) == 2
    assert len(set(called)) == 1
    for ends in pairs:
        for end in ends:
            reactor.unregister(end.fileno())
            end.close()


def test_events_are_given_to_the_callback(reactor: Reactor) -> None:
    seen: list[int] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reactor.register(ours.fileno(), seen.append)
        reactor.run_once()
        assert seen == []
        reactor.modify(ours.fileno(), READABLE | WRITABLE)
        reactor.run_once()
        assert seen == [WRITABLE]
        theirs.send(b"x")
        reactor.run_once()
        assert seen[1:] == [READABLE | WRITABLE]
        reactor.unregister(ours.fileno())
        reactor.unregister(ours.fileno())
        reactor.run_once()
        assert len(seen) == 2


def test_signals_become_calls_in_order_on_the_loop(reactor: Reactor) -> None:
    got: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)
    queue = SignalQueue(reactor, [signal.SIGUSR1, signal.SIGHUP], got.append)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert got == [], "nothing is done in a handler"
    reactor.run_once(5)
    assert sorted(got[:2]) == [signal.SIGHUP, signal.SIGUSR1]
    assert signal.SIGUSR1 in got
    queue.close()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_flood_of_signals_does_not_block(reactor: Reactor) -> None:
    got: list[int] = []
    queue = SignalQueue(reactor, [signal.SIGUSR1], got.append)
    for _ in range(2000):
        signal.raise_signal(signal.SIGUSR1)
    while len(got) < 2000:
        had = len(got)
        reactor.run_once(0)
        assert len(got) > had
    queue.close()


@pytest.fixture
def log() -> Iterator[Lines]:
    with listening_to_the_log() as lines:
        yield lines


def fail(_events: int = 0) -> None:
    raise RuntimeError("a bug")


def test_a_failing_call_is_logged_and_the_others_are_made(
    reactor: Reactor, clock: Clock, log: Lines
) -> None:
    """Whichever kind of call it is; and the same failure again soon is not logged again."""
    made: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        reactor.register(ours.fileno(), fail)
        reactor.call_later(0, fail)
        reactor.call_later(0, lambda: made.append("timer"))
        reactor.call_soon(fail)
        reactor.call_soon(lambda: made.append("soon"))
        reactor.run_once()
        reactor.unregister(ours.fileno())
    assert made == ["timer", "soon"]
    (record,) = log.records
    assert record.levelname == "ERROR"
    line = log.fields(record.getMessage())
    assert "RuntimeError: a bug" in str(line["traceback"])
    assert "in fail" in str(line["traceback"])


def test_a_descriptor_that_fails_each_time_is_left_alone_for_a_while(
    reactor: Reactor, log: Lines
) -> None:
    calls: list[int] = []

    def fail_always(_events: int) -> None:
        calls.append(1)
        raise RuntimeError("a bug")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        reactor.register(ours.fileno(), fail_always)
        for _ in range(FAILURES + 5):
            reactor.run_once()
        assert len(calls) == FAILURES
        told = "descriptor left alone for a second: its callback keeps failing"
        assert log.events()[-1] == told
        # Its owner does not know, and may go on as if it were watched.
        reactor.modify(ours.fileno(), READABLE | WRITABLE)
        reactor.unregister(ours.fileno())
        reactor.register(ours.fileno(), fail_always)
        reactor.run_once()
        assert len(calls) == FAILURES + 1
        reactor.unregister(ours.fileno())


@pytest.mark.parametrize("let_go", [False, True])
def test_a_descriptor_that_was_left_alone_is_watched_again(log: Lines, let_go: bool) -> None:
    """What it is for may be the server's end.  One that its owner has let go of is not."""
    clock = Clock()
    reactor = Reactor(clock)
    seen: list[int] = []

    def fail_at_first(events: int) -> None:
        seen.append(events)
        if len(seen) <= FAILURES:
            raise RuntimeError("a bug")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        reactor.register(ours.fileno(), fail_at_first)
        for _ in range(FAILURES):
            reactor.run_once()
        reactor.modify(ours.fileno(), READABLE | WRITABLE)
        if let_go:
            reactor.unregister(ours.fileno())
        clock.now += PAUSE
        reactor.run_once()
        reactor.run_once()
        assert seen[FAILURES:] == ([] if let_go else [READABLE | WRITABLE])
        reactor.unregister(ours.fileno())
    reactor.close()


def test_a_descriptor_that_fails_now_and_then_is_not_given_up(reactor: Reactor, log: Lines) -> None:
    calls: list[int] = []

    def fail_often(_events: int) -> None:
        calls.append(1)
        if len(calls) % FAILURES:
            raise RuntimeError("a bug")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        reactor.register(ours.fileno(), fail_often)
        for _ in range(FAILURES * 3):
            reactor.run_once()
        assert len(calls) == FAILURES * 3
        reactor.unregister(ours.fileno())
    assert len(log.records) == 1


def test_a_signal_whose_call_fails_does_not_take_the_others_along(
    reactor: Reactor, log: Lines
) -> None:
    got: list[int] = []

    def act(number: int) -> None:
        got.append(number)
        if number == signal.SIGUSR1:
            raise RuntimeError("a bug")

    queue = SignalQueue(reactor, [signal.SIGUSR1, signal.SIGHUP], act)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGHUP)
    reactor.run_once(5)
    queue.close()
    assert sorted(got) == [signal.SIGHUP, signal.SIGUSR1]
    assert len(log.records) == 1


def test_what_ends_a_program_ends_the_loop(reactor: Reactor) -> None:
    def leave() -> None:
        raise SystemExit(3)

    reactor.call_soon(leave)
    with pytest.raises(SystemExit):
        reactor.run_once()
