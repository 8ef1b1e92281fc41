"""The notes' loop whole: accept, fork; the child closes the listener, the parent the connection.

The parent waits in one epoll for connections, for children that end and for `stop`, so that none of
them keeps another waiting: at the limit of children it takes no connections, which stay in the
kernel's queue, and goes on reaping.
"""

from __future__ import annotations

import logging
import mmap
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Final, Protocol, Self

from socketkeep._base._address import peer_text
from socketkeep._base._errors import (
    Closed,
    HandlerError,
    OutOfResources,
    PeerClosed,
    PeerReset,
    TimedOut,
    WouldBlock,
    translate,
)
from socketkeep._base._forking import Forkable
from socketkeep._base._printable import printable
from socketkeep._net._children import Child, Children, is_unknown, status_text
from socketkeep._net._handlers import inspect_handler
from socketkeep._stream._closing import end_writing
from socketkeep._stream._committed import encoder
from socketkeep._stream._connection import Connection
from socketkeep._stream._lease import Hooks, Lease, Order, handling
from socketkeep._stream._modes import Blocking, Mode, check_seconds
from socketkeep._stream._record import Record

#: How long nothing is accepted once a descriptor, memory or a process was wanting, in seconds.
PAUSE: Final = 0.1
#: Seconds that a child may take beyond the deadline to close its connection in an orderly way.
CLOSING_TIME: Final = 5.5
#: How many connections are served at once where nothing is said.
MAX_CHILDREN: Final = 512

_BLOCKING: Final = Blocking()
_MOMENT: Final = struct.Struct("=d")
_log: Final = logging.getLogger("socketkeep")


class ServedListener(Forkable, Protocol):
    """A `Listener` as far as it is needed here; it imports this module, not the reverse."""

    sock: socket.socket
    text: str

    def _check(self, operation: str) -> None: ...


class ForkingServer:
    """Serves each connection of a listener in a process of its own.

    As a context manager it gives back at the end what it holds.  `run` serves, in the thread that
    calls it, until `stop` is called: by a signal handler, or another thread.  What the handler
    raises is logged (logger "socketkeep"), but for what the peer or the stop did to its own
    connection.  Children ignore SIGTERM and SIGINT, which a terminal or a service manager sends to
    them and to the parent alike; the parent tells them to end.

    Args:
        listener: A `Listener`; it stays the caller's, and open.
        handler: Called in the child with the `Connection`, which is closed in an orderly way when
            it returns or raises; not async.
        max_children: The connections that are served at once; at the limit more wait in the
            kernel's queue, up to the listener's backlog.
        graceful_timeout: Seconds that connections may go on after `stop`.
        mode: The mode of each connection.

    Raises:
        HandlerError: The handler is none, or is async.
        ValueError: A limit is below 1.
    """

    def __init__(
        self,
        listener: ServedListener,
        handler: Callable[[Connection], object],
        *,
        max_children: int = MAX_CHILDREN,
        graceful_timeout: float = 30.0,
        mode: Mode = _BLOCKING,
    ) -> None:
        self._handler = inspect_handler(handler)
        if self._handler.is_async:
            raise HandlerError(f"{self._handler.name} is async: a forked child calls a function")
        if max_children < 1:
            raise ValueError(f"max_children is at least 1, not {max_children}")
        listener._check("serve_forking")
        if self._handler.resumable:
            encoder()  # here, not in each child that commits
        self._listener = listener
        self._max_children = max_children
        self._graceful_timeout = check_seconds(graceful_timeout)
        self._mode = mode
        self._children: Children[str] = Children()
        self._orders = _SharedOrder()
        self._stopped = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._stopped, select.EPOLLIN)
        self._watched: dict[int, Child[str]] = {}
        self._accepting = False
        self._unforked: socket.socket | None = None  # accepted, and no process for it yet
        self._paused_until = 0.0
        self._stopping = False
        self._running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def children(self) -> int:
        """Return how many children serve a connection now."""
        return len(self._children)

    def run(self) -> None:
        """Serve until `stop` is called and the last child has ended.

        An exception, KeyboardInterrupt for one, stops it in the same way and is raised at the end;
        a second one ends the children at once.

        Raises:
            RuntimeError: It runs already, or has been stopped.
        """
        if self._running or self._stopping:
            raise RuntimeError("a ForkingServer runs once: make another")
        self._running = True
        try:
            try:
                while not self._stopping:
                    self._turn(None)
            finally:
                self.stop()
                self._accept_when(False)
                deadline = self._orders.give(time.monotonic() + self._graceful_timeout)
                while self._children or self._unforked:
                    self._finish(deadline)
        finally:
            self._kill()
            self._running = False

    def stop(self) -> None:
        """Accept no more, and have `run` return when the open connections have ended.

        A handler goes on for at most the graceful timeout; then its operations raise `Closed`, and
        a child that has not ended soon after is killed.  The connections of a `resumable` handler
        end at once where it waits for input with nothing uncommitted.  Returns at once; to be
        called from any thread, from a signal handler, and again.
        """
        self._stopping = True
        try:
            os.eventfd_write(self._stopped, 1)
        except OSError:
            return  # closed: it has ended

    def kill(self) -> None:
        """End every child now, by SIGKILL: their connections end as the kernel ends them."""
        self._children.kill()

    def close(self) -> None:
        """Give back the descriptors; children that still run (`run` failed to end) are killed.

        To be called when `run` has returned.  May be called again.
        """
        if self._epoll.closed:
            return
        self._kill()
        self._epoll.close()
        os.close(self._stopped)
        self._orders.close()

    # One turn of the loop.

    def _turn(self, deadline: float | None) -> None:
        now = time.monotonic()
        if self._unforked is not None and now >= self._paused_until:
            self._fork(self._unforked)
        full = len(self._children) >= self._max_children or self._unforked is not None
        self._accept_when(not (self._stopping or full or now < self._paused_until))
        moments = [self._paused_until] if now < self._paused_until else []
        if deadline is not None:
            moments.append(deadline)
        timeout = max(0.0, min(moments) - now) if moments else None
        for fd, _ in self._epoll.poll(timeout):
            child = self._watched.get(fd)
            if child is not None:
                self._reap(child)
            elif fd == self._stopped:
                os.eventfd_read(self._stopped)
            else:
                self._accept()

    def _finish(self, deadline: float) -> None:
        now = time.monotonic()
        if now >= deadline and self._unforked is not None:
            end_writing(self._unforked)
            self._unforked.close()
            self._unforked = None
        if now >= deadline + CLOSING_TIME:
            _log.warning("killing %d processes that have not ended in time", len(self._children))
            self._kill()
        else:
            self._turn(deadline if now < deadline else deadline + CLOSING_TIME)

    def _accept_when(self, wanted: bool) -> None:
        if wanted == self._accepting:
            return
        self._accepting = wanted
        fd = self._listener.sock.fileno()
        if wanted:
            # Of several processes that wait for the same listener one is woken (epoll_ctl(2)).
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        else:
            self._epoll.unregister(fd)

    def _accept(self) -> None:
        try:
            # At once where it is not lost, should a signal handler raise in between.
            self._unforked, _ = self._listener.sock.accept()
        except OSError as error:
            failure = translate(error, operation="accept", address=self._listener.text)
            if isinstance(failure, OutOfResources):
                self._pause(failure)
            elif not isinstance(failure, WouldBlock | PeerReset):
                raise failure from error
            return
        self._fork(self._unforked)

    def _fork(self, sock: socket.socket) -> None:
        serve = partial(self._serve_in_child, sock)
        try:
            self._children.fork(
                peer_text(sock), sock, serve, started=self._watch, prepare=self._prepare_child
            )
        except OSError as error:
            self._pause(translate(error, operation="fork"))  # accepted is promised: it is kept

    def _watch(self, child: Child[str]) -> None:
        self._unforked = None
        self._watched[child.pidfd] = child
        self._epoll.register(child.pidfd, select.EPOLLIN)

    def _pause(self, failure: OSError) -> None:
        if time.monotonic() - self._paused_until > 10 * PAUSE:
            _log.warning("%s: accepting again when there is room", printable(str(failure)))
        self._paused_until = time.monotonic() + PAUSE

    def _reap(self, child: Child[str]) -> None:
        ended = self._children.reap(child)
        if ended is None:
            return
        if ended.si_code != os.CLD_EXITED and not is_unknown(ended):
            _log.warning("the process of %s died: %s", printable(child.work), status_text(ended))
        self._forget(child)

    def _kill(self) -> None:
        """End every child now, and reap them all."""
        self._children.kill()
        for child in self._children:
            with suppress(ChildProcessError):  # the program's own code has reaped it
                os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
            self._children.reap(child)
            self._forget(child)
        if self._unforked is not None:
            self._unforked.close()
            self._unforked = None

    def _forget(self, child: Child[str]) -> None:
        self._epoll.unregister(child.pidfd)
        del self._watched[child.pidfd]
        os.close(child.pidfd)

    # In the child.

    def _prepare_child(self) -> None:
        """Let go of what is the parent's, while signals are blocked."""
        self._listener.sock.close()
        self._epoll.close()
        os.close(self._stopped)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not SIG_IGN: an ignored signal stays so in programs that the handler starts.
            signal.signal(number, _nothing)

    def _serve_in_child(self, sock: socket.socket) -> None:
        handler = self._handler
        lease = Lease(
            listener=self._listener.text,
            resumable=handler.resumable,
            state_type=handler.state_type,
        )
        hooks = Hooks(drain_signal=self._orders)
        conn = Connection(sock, mode=self._mode, lease=lease, hooks=hooks)
        handling.set(conn)
        try:
            handler.call(conn)
        except SystemExit:
            pass  # sys.exit() in a handler ends that handler
        except BaseException as error:
            if not _is_of_the_net(error, conn):
                _log.exception("the handler of %s failed", printable(conn.peer))
        finally:
            conn.close()


class _SharedOrder:
    """The order to end, in memory that parent and children share; a `DrainSignal`."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MOMENT.size)
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def give(self, deadline: float) -> float:
        _MOMENT.pack_into(self._memory, 0, deadline)
        os.eventfd_write(self.wake_fd, 1)
        return deadline

    @property
    def order(self) -> Order | None:
        (deadline,) = _MOMENT.unpack_from(self._memory)
        return Order("close", deadline) if deadline else None

    @property
    def crowded(self) -> bool:
        return False

    @property
    def full(self) -> bool:
        return False

    def asked(self, _record: Record) -> Order | None:
        return None

    def is_awaited(self) -> bool:
        return False

    def woken(self) -> None:
        """Nothing to read: the event stays readable, so that every child sees it."""

    def close(self) -> None:
        os.close(self.wake_fd)
        self._memory.close()


@contextmanager
def stopped_by_signals(server: ForkingServer) -> Iterator[None]:
    """Stop the server on SIGTERM and SIGINT, and kill its children on the second.

    Only in the main thread, and where the program has no handler of its own.
    """

    stopped = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            server.kill()
        stopped = True
        server.stop()

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_of_the_net(error: BaseException, conn: Connection) -> bool:
    """Return whether it is what the peer, or the stop, did to this very connection."""
    if not isinstance(error, PeerReset | PeerClosed | Closed | TimedOut):
        return False
    return error.peer == conn.peer and error.address == conn.local


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass
