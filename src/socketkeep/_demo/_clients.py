"""Clients that notice everything: numbered requests, and every reply checked.

One thread drives any number of connections with epoll.  It shares no code with the server or the
library, so that it stays an independent witness: plain sockets, as any peer of the server has them.

A request is a line with its number, ``b"17\\n"``; the reply is a line ``b"17 17 VERSION\\n"``: how
many requests the handler has counted on this connection, the number it answers, and the version of
the code that answered.  The first differing from the second means that the handler lost its state.
A ``+`` at its end says that the handler was told that it may have answered this before.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from socketkeep._demo._tally import Tally

SocketAddress: TypeAlias = str | tuple[str, int]
_State = Literal["asking", "finishing", "watching", "stopped"]

_MAX_REPLY: Final = 4096
_TCP_STATES: Final = (
    *("?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2"),
    *("TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"),
)


def parse_address(text: str) -> tuple[socket.AddressFamily, SocketAddress]:
    """Return the family and the address that `text` names, to connect to.

    text: ``host:port``, ``[ipv6]:port`` or ``unix:/path``.
    """
    if text.startswith("unix:"):
        return socket.AF_UNIX, text.removeprefix("unix:")
    host, _, port = text.rpartition(":")
    if host.startswith("["):
        return socket.AF_INET6, (host.strip("[]"), int(port))
    return socket.AF_INET, (host, int(port))


@dataclass(slots=True, eq=False)
class _Client:
    """One connection."""

    number: int
    sock: socket.socket
    sent: int = 0  # the number of the last request
    answered: int = 0  # the number of the highest reply
    skipped: set[int] = field(default_factory=set)
    pending: bytes = b""  # the second piece of a request that is sent in two
    received: bytearray = field(default_factory=bytearray)
    asked_at: float = 0.0
    version: str = ""  # of its last reply
    open: bool = True
    answers: int = 0  # since the last mark, to requests that were made since
    longest: float = 0.0  # that it waited for an answer since the last mark, in seconds

    @property
    def owed(self) -> int:
        return self.sent - self.answered


class Load:
    """`connections` clients in a request loop, driven by one thread.

    Use it as a context manager: entering connects all, leaving closes all.  Between the two,
    `wait_until` and its kin wait for what the clients see, and `finish` ends the loop.

    pause: seconds from the last reply to the next request.
    window: requests sent at once (pipelined).
    fragments: send each request in two pieces, `pause` apart.
    """

    def __init__(
        self,
        address: str,
        connections: int,
        *,
        pause: float = 0.01,
        window: int = 1,
        fragments: bool = False,
    ) -> None:
        self.tally = Tally()
        self._family, self._address = parse_address(address)
        self._connections = connections
        self._pause = pause
        self._window = window
        self._fragments = fragments
        self._clients: dict[int, _Client] = {}  # by file descriptor
        self._due: deque[tuple[float, _Client]] = deque()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._changed = threading.Condition()
        self._wanted: _State = "asking"
        self._state: _State = "asking"
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        try:
            for number in range(1, self._connections + 1):
                sock = self._connect()
                self._clients[sock.fileno()] = _Client(number, sock)
                self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        except OSError:
            self._close()
            raise
        self.tally.connections = len(self._clients)
        # The first requests are spread over one pause, so that they do not all come at one moment.
        now = time.monotonic()
        step = self._pause / max(len(self._clients), 1)
        self._due.extend((now + step * c.number, c) for c in self._clients.values())
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._become("stopped")
        self._thread.join()
        self._close()
        if self._failure is not None and error is None:
            raise self._failure

    def wait_until(
        self, happened: Callable[[Tally], bool], what: str, timeout: float = 30.0
    ) -> None:
        """Wait until `happened(tally)`.

        Raises TimeoutError, naming `what` did not happen, after `timeout` seconds.
        """
        if not self._wait(lambda: happened(self.tally), timeout):
            raise TimeoutError(f"{what}: not within {timeout} s\n  {self.tally.summary()}")

    def wait_replies(self, number: int, timeout: float = 30.0) -> None:
        """Wait for `number` more replies, from whichever connections."""
        goal = self.tally.replies + number
        self.wait_until(lambda tally: tally.replies >= goal, f"{number} more replies", timeout)

    def wait_version(self, version: str, timeout: float = 30.0) -> None:
        """Wait until the last reply on every open connection came from code of `version`."""
        self.wait_until(
            lambda _: all(client.version == version for client in self._living()),
            f"replies of {version} on every connection",
            timeout,
        )

    def wait_ended(self, timeout: float = 30.0) -> None:
        """Wait until the server has ended every connection."""
        self.wait_until(
            lambda tally: tally.fin + tally.reset == tally.connections,
            "the end of every connection",
            timeout,
        )

    def mark(self) -> None:
        """Count anew for `waits`."""
        for client in self._living():
            client.answers, client.longest = 0, 0.0

    def waits(self, ports: set[int], timeout: float = 30.0) -> list[float]:
        """Return for each client at these ports how long it waited at most since `mark`.

        Sorted, in seconds.  Waits until each has been answered twice since, so that at least one
        whole request was made after the mark; raises TimeoutError.
        """
        clients = [c for c in self._living() if c.sock.getsockname()[1] in ports]
        self.wait_until(lambda _: all(c.answers > 1 for c in clients), "their answers", timeout)
        return sorted(client.longest for client in clients)

    def finish(self, timeout: float = 10.0) -> Tally:
        """Ask no more, wait for the replies due, and return the tally.

        The connections stay open until the context manager is left.  A reply that has not come
        after `timeout` seconds counts as missing.  Call it once.
        """
        self._become("finishing")
        self._wait(lambda: not any(client.owed for client in self._living()), timeout)
        self._become("watching")
        self.tally.missing += sum(client.owed for client in self._living())
        return self.tally

    def ports(self) -> set[int]:
        """Return the ports of the clients whose connections are open (TCP)."""
        return {client.sock.getsockname()[1] for client in self._living()}

    def tcp_states(self) -> Counter[str]:
        """Return how many of the open connections the client's kernel has in which TCP state."""
        return Counter(
            _TCP_STATES[client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]]
            for client in self._living()
        )

    def _living(self) -> list[_Client]:
        return [client for client in self._clients.values() if client.open]

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            reached = self._changed.wait_for(lambda: self._failure or condition(), timeout)
        if self._failure is not None:
            raise self._failure
        return bool(reached)

    def _become(self, state: _State) -> None:
        """Have the thread change its state, and wait until it has."""
        with self._changed:
            self._wanted = state
            os.eventfd_write(self._wake, 1)
            self._changed.wait_for(lambda: self._failure or self._state == state)

    def _connect(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.settimeout(10.0)
            sock.connect(self._address)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    def _close(self) -> None:
        for client in self._clients.values():
            client.sock.close()
        self._epoll.close()
        os.close(self._wake)

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            while self._state != "stopped":
                for fd, _ in self._epoll.poll(self._ask_all_due()):
                    if fd == self._wake:
                        os.eventfd_read(fd)
                    else:
                        self._hear(self._clients[fd])
                with self._changed:
                    self._state = self._wanted
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failure = error  # for the thread that waits
                self._changed.notify_all()
            raise

    def _ask_all_due(self) -> float:
        """Send what is due; return the seconds until more is due, -1 for never."""
        while self._due:
            due, client = self._due[0]
            wait = due - time.monotonic()
            if wait > 0:
                return wait
            self._due.popleft()
            if client.open:
                self._ask(client)
        return -1

    def _ask(self, client: _Client) -> None:
        if client.pending:
            piece, client.pending = client.pending, b""
        elif self._state == "asking":
            first = client.sent + 1
            client.sent += self._window
            self.tally.requests += self._window
            piece = b"".join(b"%d\n" % number for number in range(first, client.sent + 1))
            if self._fragments:
                cut = 1 + client.sent % (len(piece) - 1)
                piece, client.pending = piece[:cut], piece[cut:]
                self._due.append((time.monotonic() + self._pause, client))
        else:
            return
        client.asked_at = time.monotonic()
        try:
            # A few bytes on a connection whose earlier requests are answered: they always fit.
            sent = client.sock.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            return  # the end itself is there to be received
        if sent != len(piece):
            raise RuntimeError(f"the socket buffer took {sent} of {len(piece)} bytes")

    def _hear(self, client: _Client) -> None:
        try:
            data = client.sock.recv(65536)
        except ConnectionResetError:
            self.tally.reset += 1
            self._end(client, "RST")
            return
        if not data:
            self.tally.fin += 1
            self._end(client, "FIN")
            return
        client.received += data
        while (at := client.received.find(b"\n")) >= 0:
            line = bytes(client.received[:at])
            del client.received[: at + 1]
            self._check(client, line)
        if len(client.received) > _MAX_REPLY:
            self.tally.malformed += 1
            client.received.clear()

    def _check(self, client: _Client, line: bytes) -> None:
        tally = self.tally
        tally.replies += 1
        try:
            count, number, version = line.split(b" ", 2)
            answers, counted = int(number), int(count)
        except ValueError:
            tally.malformed += 1
            return
        client.version = version.removesuffix(b"+").decode(errors="replace")
        tally.versions[client.version] += 1
        tally.miscounted += counted != answers
        if answers > client.answered:
            between = range(client.answered + 1, answers)
            client.skipped.update(between)
            tally.missing += len(between)
            client.answered = answers
        elif answers in client.skipped:
            client.skipped.remove(answers)
            tally.missing -= 1
            tally.out_of_order += 1
        elif version.endswith(b"+"):
            tally.again += 1
        else:
            tally.repeated += 1
        if client.owed == 0:
            now = time.monotonic()
            tally.latencies.append(now - client.asked_at)
            client.answers += 1
            client.longest = max(client.longest, now - client.asked_at)
            self._due.append((now + self._pause, client))

    def _end(self, client: _Client, how: str) -> None:
        self._epoll.unregister(client.sock)
        client.open = False
        self.tally.unanswered += client.owed
        self.tally.truncated += bool(client.received)
        self.tally.ends.append(
            f"client {client.number}: {how}, {client.sent} sent, {client.answered} answered,"
            f" {len(client.received)} bytes of a reply"
        )
