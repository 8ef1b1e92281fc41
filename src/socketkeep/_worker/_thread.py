"""The `thread` model: a thread serves one connection after another, many threads a process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Final, NoReturn

from socketkeep._base import _log
from socketkeep._stream import _record as record
from socketkeep._stream._lease import Order
from socketkeep._stream._record import Record
from socketkeep._stream._shell import Shell
from socketkeep._wire._scoreboard import id_of
from socketkeep._worker._entry import Entry
from socketkeep._worker._notices import BRIEFLY
from socketkeep._worker._runaways import ENOUGH
from socketkeep._worker._sync import LoopDrainSignal, SyncLoop, go_on_without, run_handler

_NEVER: Final = threading.Event()


class ThreadModel:
    """Threads are started as connections come, up to one a seat, and then kept.

    Daemon threads: a handler that ignores the deadline must not keep the process.
    """

    def __init__(self, loop: SyncLoop) -> None:
        self._loop = loop
        self.drain_signal = _EventDrainSignal(loop)
        self._queue: SimpleQueue[Entry] = SimpleQueue()
        self._threads = 0
        self._serving: set[Entry] = set()
        self._ended: deque[Entry] = deque()
        self._given_up: deque[tuple[Entry, bool]] = deque()  # with whether they have ended
        self._lost = 0  # threads that are never resumed
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.watch(self._bell, self._settle)

    @property
    def busy(self) -> bool:
        return False

    @property
    def patience(self) -> float | None:
        return None

    def take_over(self) -> None:
        """The loop accepts."""
        self._loop.have_cast()

    def serve(self, entry: Entry) -> None:
        self._serving.add(entry)
        self._queue.put(entry)
        self.resume()

    def resume(self) -> None:
        # No more than one a seat, also while one that has ended is not settled yet.
        if self._threads < min(len(self._serving), self._loop.environment.config.threads):
            self._start_thread()

    def retire(self, order: Order) -> None:
        os.eventfd_write(self.drain_signal.wake_fd, 1)

    def rejoin(self) -> bool:
        return False  # the loop, in this process, does

    def give_up(self, conn: Shell) -> NoReturn:
        """Never resume the thread: nothing ends one from outside."""
        (entry,) = (each for each in self._serving if each.hooks is conn.hooks)
        entry.hooks.abandoned = True
        try:
            ended = go_on_without(self._loop, entry, conn)
        except Exception as error:
            self._loop.roster.cannot_serve(entry, error)
            ended = True
        self._given_up.append((entry, ended))
        os.eventfd_write(self._bell, 1)
        while True:
            _NEVER.wait()

    def force(self) -> None:
        """End the connections of handlers that do not end, in order if it can be, and exit."""
        for entry in self._serving:
            with contextlib.suppress(OSError):
                entry.sock.shutdown(socket.SHUT_WR)
        _log.warning("handlers did not end in time", open=len(self._serving))
        os._exit(1)

    def cut(self, words: Record) -> None:
        name = id_of(words)
        for entry in tuple(self._serving):
            if entry.lease.id == name:
                with contextlib.suppress(OSError):  # the peer has gone
                    entry.sock.shutdown(socket.SHUT_RDWR)
                # Whenever the handler comes to see it: a thread cannot be ended from outside.
                entry.record[record.ENDED] = record.CLOSED

    def _start_thread(self) -> None:
        try:
            threading.Thread(
                target=self._run, name=f"socketkeep-{self._threads}", daemon=True
            ).start()
            self._threads += 1
        except RuntimeError as error:  # "can't start new thread"
            # The connection stays in the queue, for a thread that becomes free or can be started.
            self._loop.gate.pause("cannot start a thread", str(error))

    def _run(self) -> None:
        while True:
            entry = self._queue.get()
            try:
                run_handler(self._loop, entry, self._loop.lingering)
            finally:
                self._ended.append(entry)
                os.eventfd_write(self._bell, 1)

    def _settle(self) -> None:
        os.eventfd_read(self._bell)
        while self._given_up:
            entry, ended = self._given_up.popleft()
            self._threads -= 1
            self._lost += 1
            if self._lost % ENOUGH == 0:
                self._loop.link.ask_to_be_replaced("handlers that did not end")
            if ended:
                self._ended.append(entry)
            else:
                self._queue.put(entry)
                self.resume()
        while self._ended:
            entry = self._ended.popleft()
            self._serving.discard(entry)
            self._loop.done(entry)


class _EventDrainSignal(LoopDrainSignal):
    """Threads that wait are not woken when others wait: their wait is short where it can park."""

    def __init__(self, loop: SyncLoop) -> None:
        super().__init__(loop)
        # Nobody reads it: it stays readable, so that every thread sees it.
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def woken(self) -> None:
        """Nothing to read: the loop sets `order` before it wakes the threads."""
        if self.order is None:  # another connection is meant
            time.sleep(BRIEFLY)
