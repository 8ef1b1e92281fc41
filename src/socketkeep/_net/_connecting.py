"""Connecting: one attempt in each of the three modes, which goes on where it was when asked again.

All that can be done without waiting is in `advance`; what to wait for is one descriptor and one
moment.  So the same object connects by waiting, by polling, and on an event loop.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from typing import TYPE_CHECKING, Final, Self

from socketkeep._base._address import UnixAddress, format_address
from socketkeep._base._errors import Closed, Context, SystemFailure, TimedOut, WouldBlock, translate
from socketkeep._base._forking import guard
from socketkeep._net._happy import Race
from socketkeep._net._resolving import Address, Candidate, Resolving, host_of, parse
from socketkeep._stream._connection import Connection
from socketkeep._stream._modes import Blocking, Mode, NonBlocking, check_seconds, seconds_left
from socketkeep._stream._waiting import earlier

if TYPE_CHECKING:
    import ssl

_BLOCKING: Final = Blocking()
_PENDING: Final = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)
_CONNECTED: Final = (0, errno.EISCONN)
#: Seconds between two tries at a Unix listener whose queue is full: nothing tells of room there.
_RETRY: Final = 0.01


class Connecting:
    """A connection that is being made.

    Where a name has several addresses they are tried by Happy Eyeballs (RFC 8305): the families
    take turns, 0.25 s apart, or as soon as one has failed; the first to succeed is taken and the
    others are closed.

    For programs that do not wait: poll for `fileno` (asked anew each time) to become readable until
    `wake_at`, then call `connect` again.  Whoever waits anyhow calls `socketkeep.connect`.

    A context manager: its end closes what was not finished.  The connection that was returned is
    the caller's.  For one thread.

    Args:
        address: ``host:port``, ``[::1]:port``, ``unix:/path``, ``unix:@name`` (abstract), or a
            tuple of a host and a port.
        mode: The way in which `connect` waits, and the mode of the connection.
        tls: The context by which the connection then has TLS, see `Connection.start_tls`.
        server_hostname: The host whose certificate is wanted; None: that of the address.

    Raises:
        AddressError: The address is not written well.
    """

    def __init__(
        self,
        address: Address,
        *,
        mode: Mode = _BLOCKING,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> None:
        self._address = parse(address)
        self._mode = mode
        self._tls = tls
        self._server_hostname = server_hostname or host_of(self._address)
        self._conn: Connection | None = None  # while its TLS handshake is not finished
        self._over: SystemFailure | None = None
        self._failures: list[SystemFailure] = []
        self._race: Race[Candidate] | None = None
        self._attempts: dict[socket.socket, Candidate] = {}
        self._retry: Candidate | None = None
        self._retry_at: float | None = None
        self._selector = selectors.DefaultSelector()
        self._resolving = Resolving(self._address)
        if self._resolving.fileno() >= 0:
            self._selector.register(self._resolving, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return a descriptor that is readable when `connect` would get on; -1 when all is over."""
        if self._conn is not None:
            return self._conn.fileno()
        return -1 if self._over is not None else self._selector.fileno()

    @property
    def wake_at(self) -> float | None:
        """Return when `connect` is to be called again at the latest, on time.monotonic().

        None: at no time, but when the descriptor is readable.
        """
        return earlier(self._retry_at, None if self._race is None else self._race.next_at())

    def connect(self, *, timeout: float | None = None) -> Connection:
        """Go on, and return the connection.

        After WouldBlock and TimedOut calling it again goes on.  With several addresses the error's
        text says what became of each, and it is raised from an ExceptionGroup of their errors; its
        class is theirs if they have one in common, else SystemFailure.  With TLS it raises what
        `Connection.start_tls` does, too.

        Args:
            timeout: Seconds for this call, in place of the mode; 0 is as NonBlocking, None as the
                mode says.

        Raises:
            WouldBlock: It cannot be made at once, and the mode says not to wait.
            TimedOut: It was not made in time.
            Refused: Nobody listens there.
            Unreachable: The network says that the peer cannot be reached.
            Unresolved: The name has no address.
            OutOfResources: There is no descriptor or memory for it.
            SystemFailure: The system fails otherwise.
        """
        begun = time.monotonic()
        limit = seconds_left(self._mode) if timeout is None else check_seconds(timeout)
        end = None if limit is None else begun + limit
        while self._conn is None:
            sock = self.advance()
            if sock is not None:
                conn = Connection(sock, mode=self._mode)
                if self._tls is None:
                    return conn
                self._conn = conn
                break
            now = time.monotonic()
            if end is not None and now >= end:
                raise self.unfinished(begun, limit)
            until = earlier(end, self.wake_at)
            self._selector.select(None if until is None else max(0.0, until - now))
        return self._shake_hands(self._conn, begun, limit)

    def close(self) -> None:
        """Give up what is not finished.  May be called again."""
        self._end(Closed("failed: the attempt was given up", **self._context()))
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.abort()

    # For the library.

    def advance(self) -> socket.socket | None:
        """Do all that can be done now; return the connected socket once there is one.

        For the library.
        """
        if self._over is not None:
            raise type(self._over)(self._over.reason, code=self._over.errno, **self._context())
        try:
            sock = self._advance()
        except SystemFailure as failure:
            self._end(failure)
            raise
        if sock is not None:
            del self._attempts[sock]
            self._end(Closed("failed: the connection was made already", **self._context()))
        return sock

    def unfinished(self, begun: float, limit: float | None) -> WouldBlock | TimedOut:
        """Return the error for an attempt that may not wait, or no longer.  For the library."""
        context = self._context()
        if not limit:
            return WouldBlock(**context)
        context["elapsed"] = time.monotonic() - begun
        context["limit"] = limit
        tried = self._tried()
        return TimedOut(f"timed out ({tried})" if tried else "", **context)

    def _shake_hands(self, conn: Connection, begun: float, limit: float | None) -> Connection:
        """Have TLS on the connection that is made, and return it."""
        assert self._tls is not None
        left = None if limit is None else max(0.0, begun + limit - time.monotonic())
        try:
            with conn.using(_BLOCKING):  # None is then as long as it takes
                conn.start_tls(self._tls, server_hostname=self._server_hostname, timeout=left)
        except (WouldBlock, TimedOut):
            raise self.unfinished(begun, limit) from None
        except BaseException:
            self.close()
            raise
        self._conn = None
        return conn

    def _context(self) -> Context:
        return {"operation": "connect", "peer": str(self._address)}

    def _advance(self) -> socket.socket | None:
        race = self._race
        if race is None:
            found = self._resolving.result()
            if found is None:
                return None
            if self._resolving.fileno() >= 0:
                self._selector.unregister(self._resolving)
                self._resolving.close()
            race = self._race = Race(found, time.monotonic)
        for key, _ in self._selector.select(0):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if self._settle(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return sock
        if self._retry is not None and self._retry_at is not None:
            if time.monotonic() < self._retry_at:
                return None
            retry, self._retry, self._retry_at = self._retry, None, None
            return self._begin(retry)
        while (candidate := race.due()) is not None:
            won = self._begin(candidate)
            if won is not None:
                return won
        if race.lost():
            raise self._failure()
        return None

    def _begin(self, candidate: Candidate) -> socket.socket | None:
        """Begin an attempt; return its socket if that was all there was to do."""
        try:
            sock = socket.socket(candidate.family, socket.SOCK_STREAM)
        except OSError as error:
            self._note(candidate, error)
            return None
        guard(sock)
        sock.setblocking(False)
        self._attempts[sock] = candidate
        try:
            code = sock.connect_ex(candidate.raw)
        except OSError as error:  # an address that the socket module itself refuses
            code = error.errno or errno.EINVAL
        if code in _PENDING:
            self._selector.register(sock, selectors.EVENT_WRITE)
            return None
        if code == errno.EAGAIN and isinstance(self._address, UnixAddress):
            del self._attempts[sock]
            sock.close()
            self._retry, self._retry_at = candidate, time.monotonic() + _RETRY
            return None
        return sock if self._settle(sock, code) else None

    def _settle(self, sock: socket.socket, code: int) -> bool:
        """Note how an attempt ended; return whether it is connected."""
        if code in _CONNECTED and not _to_itself(sock):
            return True
        candidate = self._attempts.pop(sock)
        if sock in self._selector.get_map():
            self._selector.unregister(sock)
        sock.close()
        code = code or errno.ECONNREFUSED
        self._note(candidate, OSError(code, os.strerror(code)))
        return False

    def _note(self, candidate: Candidate, error: OSError) -> None:
        peer = format_address(candidate.raw) if candidate.family != socket.AF_UNIX else ""
        failure = translate(error, operation="connect", peer=peer or str(self._address))
        failure.__cause__ = error
        self._failures.append(failure)
        assert self._race is not None
        self._race.failed()

    def _tried(self) -> str:
        return "; ".join(f"{failure.peer} {failure.reason}" for failure in self._failures)

    def _failure(self) -> SystemFailure:
        """Return the one error for all attempts."""
        failures = self._failures
        if len(failures) == 1 or not failures:
            (failure,) = failures or [SystemFailure("failed: the name has no address")]
            failure.peer, failure.operation = str(self._address), "connect"
            return failure
        kinds = {type(failure) for failure in failures}
        kind = kinds.pop() if len(kinds) == 1 else SystemFailure
        code = failures[0].errno
        failure = kind(f"failed at every address: {self._tried()}", code=code, **self._context())
        failure.__cause__ = ExceptionGroup("the attempts", failures)
        return failure

    def _end(self, why: SystemFailure) -> None:
        """Close whatever is open."""
        if self._over is not None:
            return
        self._over = why
        self._resolving.close()
        self._selector.close()
        for sock in self._attempts:
            sock.close()
        self._attempts.clear()


def connect(
    address: Address,
    *,
    mode: Mode = _BLOCKING,
    timeout: float | None = None,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> Connection:
    """Return a connection to `address`.

    Args:
        address: ``host:port``, ``[::1]:port``, ``unix:/path``, ``unix:@name``, or a host and a port
            in a tuple.
        mode: The mode of the connection.
        timeout: Seconds for the whole of it, name resolution and all; None: as the mode says.
        tls: The context of its TLS, as for `Connecting`.
        server_hostname: The host whose certificate is wanted, as for `Connecting`.

    Raises:
        AddressError: The address is not written well.
        ValueError: NonBlocking without a timeout: what cannot finish at once has to be kept to go
            on with, and `Connecting` is what keeps it.
        SystemFailure: What `Connecting.connect` raises; the text tells of every address that was
            tried.
    """
    if timeout == 0 or (timeout is None and isinstance(mode, NonBlocking)):
        raise ValueError(
            "connect: nothing is left to go on with after WouldBlock: keep a "
            "Connecting(address, mode=NonBlocking()) and call its connect()"
        )
    with Connecting(address, mode=mode, tls=tls, server_hostname=server_hostname) as connecting:
        return connecting.connect(timeout=timeout)


def _to_itself(sock: socket.socket) -> bool:
    """Return whether a free local port was chosen that happens to be the one connected to.

    TCP's simultaneous open then joins the socket with itself; nobody listens there.
    """
    try:
        return sock.family != socket.AF_UNIX and sock.getsockname() == sock.getpeername()
    except OSError:
        return False  # reset already: what is done with the connection will say so
