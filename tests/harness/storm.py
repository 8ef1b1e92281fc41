"""New connections at a rate: is any of them refused or reset?"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from tests.harness.peers import parse_address

_REFUSED: Final = {errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN}


@dataclass(slots=True)
class StormTally:
    """How the connections of a storm fared."""

    started: int = 0
    served: int = 0  # got their reply, whole and right, then the end
    refused: int = 0
    reset: int = 0
    cut: int = 0  # ended before the reply was whole
    late: int = 0  # no reply in time
    wrong: int = 0
    longest: float = 0.0  # seconds from the connect to the end of the reply
    versions: set[str] = field(default_factory=set)

    @property
    def clean(self) -> bool:
        """Whether every connection was served."""
        return self.served == self.started


@dataclass(slots=True, eq=False)
class _Visit:
    sock: socket.socket
    number: int
    started_at: float
    asked: bool = False
    received: bytes = b""


class Storm:
    """`connections` new connections, `rate` a second, each for one request; a context manager.

    Each connects, sends ``b"NUMBER\\n"``, checks the reply, says that it sends no more, and reads
    to the end.  `finish` has no more come.  Leaving the context waits for all and closes what is
    left.
    """

    def __init__(
        self, address: str, connections: int, rate: float, *, patience: float = 20.0
    ) -> None:
        self.tally = StormTally()
        self._family, self._address = parse_address(address)
        self._connections = connections
        self._interval = 1.0 / rate
        self._patience = patience
        self._visits: dict[int, _Visit] = {}
        self._epoll = select.epoll()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="storm", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._connections = 0  # the rest is not wanted any more
            self._patience = 0.0
        self.wait()
        self._epoll.close()

    def finish(self) -> StormTally:
        """Begin no more connections, and wait for those there are; return the counts."""
        self._connections = 0
        return self.wait()

    def wait(self) -> StormTally:
        """Wait until every connection has come to its end; return the counts."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.tally

    def _run(self) -> None:
        try:
            self._storm()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            for visit in self._visits.values():
                visit.sock.close()

    def _storm(self) -> None:
        began = time.monotonic()
        while self.tally.started < self._connections or self._visits:
            now = time.monotonic()
            while (
                self.tally.started < self._connections
                and began + self.tally.started * self._interval <= now
            ):
                self._start(self.tally.started, now)
            self._give_up(now)
            for fd, events in self._epoll.poll(self._interval):
                self._go_on(self._visits[fd], events)

    def _start(self, number: int, now: float) -> None:
        self.tally.started += 1
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        outcome = sock.connect_ex(self._address)
        if outcome not in (0, errno.EINPROGRESS):
            sock.close()
            self._count_failure(outcome)
            return
        self._visits[sock.fileno()] = _Visit(sock, number, now)
        self._epoll.register(sock, select.EPOLLOUT)

    def _go_on(self, visit: _Visit, events: int) -> None:
        try:
            if not visit.asked:
                outcome = visit.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if outcome:
                    raise OSError(outcome, "connect")
                visit.sock.send(b"%d\n" % visit.number)
                visit.asked = True
                self._epoll.modify(visit.sock, select.EPOLLIN)
                return
            data = visit.sock.recv(4096)
        except OSError as error:
            self._end(visit)
            self._count_failure(error.errno or 0)
            return
        if not data:
            self._end(visit)
            self._judge(visit)
            return
        visit.received += data
        if visit.received.endswith(b"\n"):
            self.tally.longest = max(self.tally.longest, time.monotonic() - visit.started_at)
            visit.sock.shutdown(socket.SHUT_WR)

    def _judge(self, visit: _Visit) -> None:
        fields = visit.received.split()
        if not visit.received.endswith(b"\n"):
            self.tally.cut += 1
        elif len(fields) != 3 or fields[:2] != [b"1", b"%d" % visit.number]:
            self.tally.wrong += 1
        else:
            self.tally.served += 1
            self.tally.versions.add(fields[2].decode())

    def _give_up(self, now: float) -> None:
        for visit in list(self._visits.values()):
            if now - visit.started_at <= self._patience:
                break  # they stand in the order of their start
            self._end(visit)
            self.tally.late += 1

    def _count_failure(self, number: int) -> None:
        if number in _REFUSED:
            self.tally.refused += 1
        else:
            self.tally.reset += 1

    def _end(self, visit: _Visit) -> None:
        del self._visits[visit.sock.fileno()]
        self._epoll.unregister(visit.sock)
        visit.sock.close()
