"""The keeper's event loop: descriptors, timers and signals, one thread.

Not asyncio: the keeper must hold on to its raw epoll registrations across the re-execution of an
upgrade, and must not carry what it does not use.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from socketkeep._base import _log

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT

Callback = Callable[[int], None]

#: How often in a row the callback of one descriptor may fail until it is left alone for a while,
#: and for how long, in seconds: not for ever, since what it is for may be the server's end.
FAILURES: Final = 10
PAUSE: Final = 1.0


class ReactorTimer:
    """A call that is due at a moment of the monotonic clock; `cancel` takes it back."""

    __slots__ = ("_call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._call = None

    @property
    def pending(self) -> bool:
        return self._call is not None

    def fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Reactor:
    """Calls back when a descriptor is ready, a moment has come or a signal was received.

    A callback for a descriptor is given the epoll events.  A descriptor must be unregistered before
    it is closed: while a duplicate lives in another process, epoll would go on reporting it.

    A call that raises is a bug, and must not end the server for everybody: it is logged, and the
    loop goes on.  What is no Exception (SystemExit) passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, ReactorTimer]] = []
        self._sequence = itertools.count()
        self._soon: list[Callable[[], None]] = []
        self._failures: dict[int, int] = {}  # of descriptors whose last callback failed
        self._interests: dict[int, int] = {}  # of those that are watched for more than input
        self._paused: dict[int, Callback] = {}
        self._throttle = _log.Throttle()
        self._stopped = False
        self._wait: Callable[[float | None], object] | None = None

    def wait_in(
        self, watch: Callable[[int], object], wait: Callable[[float | None], object]
    ) -> None:
        """Have another loop wait in place of this one, each time before this one's calls.

        watch: has that loop watch the descriptor that tells that something is ready here.  wait:
        waits, at most for so many seconds, and makes that loop's calls.
        """
        watch(self._epoll.fileno())
        self._wait = wait

    def register(self, fd: int, callback: Callback, events: int = READABLE) -> None:
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback
        if events != READABLE or self._interests:
            self._note_interest(fd, events)
        if self._paused:
            self._paused.pop(fd, None)

    def modify(self, fd: int, events: int) -> None:
        """Watch a descriptor for other events; nothing happens when it is not watched."""
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
            self._note_interest(fd, events)
        elif fd in self._paused:
            self._note_interest(fd, events)

    def unregister(self, fd: int) -> None:
        """Watch a descriptor no more; nothing happens when it is not watched."""
        if self._failures or self._interests or self._paused:
            self._failures.pop(fd, None)
            self._interests.pop(fd, None)
            self._paused.pop(fd, None)
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, when: float, call: Callable[[], None]) -> ReactorTimer:
        timer = ReactorTimer(when, call)
        heapq.heappush(self._timers, (when, next(self._sequence), timer))
        return timer

    def call_later(self, delay: float, call: Callable[[], None]) -> ReactorTimer:
        return self.call_at(self.clock() + delay, call)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call after the events at hand: for work that many of them may ask for once."""
        if call not in self._soon:
            self._soon.append(call)

    def run(self) -> None:
        """Run until `stop`; not at all when that came first."""
        while not self._stopped:
            self.run_once(self._timeout())
        self._stopped = False

    def run_once(self, timeout: float | None = 0.0) -> None:
        """Wait up to `timeout` seconds (None: without bound) and make the calls that are due."""
        if self._wait is not None:
            self._wait(timeout)
            timeout = 0.0
        for fd, events in self._epoll.poll(timeout):
            # An earlier callback of this round may have unregistered it.
            callback = self._callbacks.get(fd)
            if callback is None:
                continue
            try:
                callback(events)
            except Exception as error:
                self.failed(error)
                self._count_failure(fd, callback)
            else:
                if self._failures:
                    self._failures.pop(fd, None)
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            self.attempt(heapq.heappop(self._timers)[2].fire)
        while self._soon:
            self.attempt(self._soon.pop(0))

    def attempt(self, call: Callable[[], object]) -> None:
        """Make a call; what it raises is logged and goes no further."""
        try:
            call()
        except Exception as error:
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Log what a call raised: with its traceback, at a bounded rate for each place."""
        self._throttle.error(
            "internal error, please report it",
            kind=_log.place_of(error),
            traceback="".join(traceback.format_exception(error)),
        )

    def _note_interest(self, fd: int, events: int) -> None:
        if events != READABLE:
            self._interests[fd] = events
        else:
            self._interests.pop(fd, None)

    def _count_failure(self, fd: int, callback: Callback) -> None:
        """Leave a descriptor alone that is reported at once again, and fails each time."""
        if self._callbacks.get(fd) is not callback:
            return
        self._failures[fd] = self._failures.get(fd, 0) + 1
        if self._failures[fd] >= FAILURES:
            events = self._interests.get(fd, READABLE)
            self.unregister(fd)
            self._paused[fd] = callback
            self._note_interest(fd, events)
            self.call_later(PAUSE, lambda: self._go_on(fd, callback))
            self._throttle.error(
                "descriptor left alone for a second: its callback keeps failing",
                kind="failing callback",
                fd=fd,
            )

    def _go_on(self, fd: int, callback: Callback) -> None:
        if self._paused.get(fd) is callback:
            self.register(fd, callback, self._interests.get(fd, READABLE))

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._epoll.close()

    def _timeout(self) -> float | None:
        if self._soon:
            return 0.0
        while self._timers and not self._timers[0][2].pending:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - self.clock())


class SignalQueue:
    """Turns signals into calls on the reactor's loop.

    The handlers do nothing: the interpreter writes the signal's number to a pipe
    (signal.set_wakeup_fd), and the loop reads it.  Work in a handler would run between any two
    instructions of the keeper.
    """

    def __init__(
        self, reactor: Reactor, signals: Iterable[signal.Signals], act: Callable[[int], None]
    ) -> None:
        self._reactor = reactor
        self._act = act
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous = {number: signal.signal(number, _queued) for number in signals}
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        reactor.register(self._read, self._drain)

    def close(self) -> None:
        """Put the earlier handlers back."""
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._reactor.unregister(self._read)
        os.close(self._read)
        os.close(self._write)

    def act(self) -> None:
        """Act on the signals that have been received."""
        with contextlib.suppress(BlockingIOError):
            self._drain(READABLE)

    def _drain(self, _events: int) -> None:
        for number in os.read(self._read, 512):
            self._reactor.attempt(partial(self._act, number))


def _queued(_number: int, _frame: object) -> None:
    """Take the signal's default action away; the number itself goes through the pipe."""
