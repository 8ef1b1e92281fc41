"""`Listener`: a listening socket, bound from an address as people write it, or inherited."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

from socketkeep._base._address import (
    BindAddress,
    FdAddress,
    InetAddress,
    UnixAddress,
    format_address,
    parse_bind,
)
from socketkeep._base._errors import (
    Closed,
    ListenError,
    PeerReset,
    Released,
    TimedOut,
    WouldBlock,
    translate,
)
from socketkeep._base._forking import Fate, drop, own
from socketkeep._base._holding import Held
from socketkeep._net._binding import bind_inet, bind_unix, identity_of, inherited_socket
from socketkeep._stream._connection import Connection
from socketkeep._stream._lease import Lease
from socketkeep._stream._modes import Blocking, Mode, check_seconds, seconds_left
from socketkeep._stream._waiting import make_poller

#: The first descriptor that systemd passes, SD_LISTEN_FDS_START of sd_listen_fds(3).
_FIRST_INHERITED: Final = 3

_BLOCKING: Final = Blocking()


class Listener(Held):
    """A listening stream socket, non-blocking and not inherited by programs it starts.

    `bind` makes one.

    Attributes:
        sock: The socket.
        text: Its address, with the real port.
        name: The name that a service manager gave it, else "".
        dual_stack: Whether it serves IPv4 beside IPv6.
        inherit: Whether forked children keep it; by default they let go of it, and it closes when
            this process closes it.
        mode: The way in which `accept` waits, `Blocking` until it is set.
    """

    __slots__ = (
        "__weakref__",
        "_identity",
        "_over",
        "_owner",
        "_path",
        "dual_stack",
        "inherit",
        "mode",
        "name",
        "sock",
        "text",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        name: str = "",
        path: str = "",
        inherit: bool = False,
        mode: Mode = _BLOCKING,
    ) -> None:
        sock.setblocking(False)
        sock.set_inheritable(False)
        self.sock: socket.socket = sock
        self.name: str = name
        self.text: str = format_address(sock.getsockname())
        self.dual_stack: bool = sock.family == socket.AF_INET6 and not sock.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
        self._path = path
        self._owner = os.getpid()
        self._identity: tuple[int, int] | None = None
        with suppress(PermissionError):  # of who has given up the rights to see it
            self._identity = identity_of(path) if path else None
        self._over: Released | None = None  # why this process does not have it any more
        self.inherit: bool = inherit
        self.mode: Mode = mode
        own(self)

    @classmethod
    def bind(
        cls,
        address: str | BindAddress,
        *,
        backlog: int = 2048,
        unix_mode: int = 0o666,
        unix_owner: tuple[int, int] = (-1, -1),
        ipv6_only: bool = False,
        inherit: bool = False,
    ) -> Self:
        """Listen on `address`.

        A host name stands for the first address it resolves to; "" and "::" for every interface, by
        IPv6 and IPv4.  The file of a Unix socket's server that is gone is replaced.

        Args:
            address: ``host:port``, ``[::1]:port``, ``:port``, ``unix:/path`` or ``fd://N``.
            backlog: The connections that may wait to be accepted; the kernel bounds it by
                net.core.somaxconn.
            unix_mode: The permissions of a Unix socket's file, by which others may connect.  It is
                made with them, whatever the umask is.
            unix_owner: The uid and the gid of that file, -1 for what it has anyway.
            ipv6_only: "" and "::" leave IPv4 to others.
            inherit: Whether forked children keep the listener.

        Raises:
            ListenError: The address cannot be listened on.  One line names it and says what is
                wrong with it, and `errno` is the system's.
            AddressError: The address is not written well.
        """
        parsed = parse_bind(address) if isinstance(address, str) else address
        match parsed:
            case FdAddress(fd):
                return cls(inherited_socket(fd), inherit=inherit)
            case UnixAddress():
                return cls(
                    bind_unix(parsed, backlog, unix_mode, unix_owner),
                    path="" if parsed.abstract else os.path.abspath(parsed.path),
                    inherit=inherit,
                )
            case InetAddress():
                return cls(bind_inet(parsed, backlog, ipv6_only=ipv6_only), inherit=inherit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.sock.fileno()} {self.describe()}>"

    @property
    def file_is_gone(self) -> bool:
        """Return whether no new peer finds this Unix socket: its file was removed or replaced.

        For the server.
        """
        if not self._path:
            return False
        try:
            return identity_of(self._path) != self._identity
        except PermissionError:
            return False  # of who has given up the rights to see it

    def leave_file(self) -> None:
        """Have the file of a Unix socket stay when this is closed: it is another process's now.

        For the server.
        """
        self._path = ""

    def describe(self) -> str:
        """Return the address, and for one of IPv6 whether it serves IPv4 too."""
        return f"{self.text} (IPv6 and IPv4)" if self.dual_stack else self.text

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once it is closed."""
        return self.sock.fileno()

    def accept(
        self, *, mode: Mode = _BLOCKING, timeout: float | None = None, inherit: bool = False
    ) -> Connection:
        """Return the next connection, waiting for it as the listener's own `mode` says.

        A connection whose peer has given up meanwhile is passed over.

        Args:
            mode: The mode of the connection, whatever the listener's is.
            timeout: Seconds to wait, in place of the listener's mode; 0 is as NonBlocking.
            inherit: Whether forked children keep the connection.

        Raises:
            WouldBlock: There is none, and the mode says not to wait.
            TimedOut: None came in time.
            OutOfResources: There is no descriptor for the connection; it goes on waiting.
            Closed: The listener is closed.
            Released: This is a forked child that was not given the listener.
        """
        begun = time.monotonic()
        limit = seconds_left(self.mode) if timeout is None else check_seconds(timeout)
        poller = None
        while True:
            try:
                sock, _ = self.accept_socket()
            except PeerReset:
                continue
            except WouldBlock:
                if limit == 0:
                    raise
            else:
                lease = Lease(listener=self.text)
                return Connection(sock, mode=mode, inherit=inherit, lease=lease)
            if poller is None:
                poller = make_poller(self.fileno(), select.POLLIN, None)
            if not poller.until(None if limit is None else begun + limit):
                elapsed = time.monotonic() - begun
                raise TimedOut(operation="accept", address=self.text, elapsed=elapsed, limit=limit)

    def accept_socket(self) -> tuple[socket.socket, Any]:
        """Return the next connection's socket, non-blocking, and its peer's raw address, at once.

        Raises:
            WouldBlock: None waits.
            OutOfResources: There is no descriptor for it; it goes on waiting.
            PeerReset: Its peer has given up meanwhile.
            Released: This is a forked child that was not given the listener.
        """
        self._check("accept")
        try:
            sock, raw = self.sock.accept()
        except OSError as error:
            raise translate(error, operation="accept", address=self.text) from error
        sock.setblocking(False)
        return sock, raw

    def _check(self, operation: str) -> None:
        if self._over is not None:
            raise Released(self._over.reason, operation=operation, address=self.text)

    def _after_fork(self, fate: Fate, why: Released) -> socket.socket | None:
        if fate == "none" and not self.inherit:
            drop(self.sock)
            self._over = why
            return None
        if fate == "given":
            self._owner = os.getpid()  # the file of a Unix socket is the child's to remove
        return self.sock

    @contextmanager
    def _claimed(self, operation: str) -> Iterator[None]:
        self._check(operation)
        if self.sock.fileno() < 0:
            raise Closed(operation=operation, address=self.text)
        yield

    def _give_up(self, reason: str = "") -> None:
        self._over = Released(reason)
        self.sock.close()

    def serve_forking(
        self,
        handler: Callable[[Connection], object],
        *,
        max_children: int = 512,
        graceful_timeout: float = 30.0,
        mode: Mode = _BLOCKING,
    ) -> None:
        """Serve each connection in a process of its own, until SIGTERM or SIGINT.

        The first signal ends it gracefully and this returns when the last connection has ended;
        the second ends it at once.  A signal for which the program has a handler of its own is left
        to it, and outside the main thread both are.  In a program with threads Python 3.12 warns of
        the fork (DeprecationWarning).  `ForkingServer` is for who wants to stop it otherwise.

        Args:
            handler: Called in the child with the `Connection`; not async.
            max_children: The connections that are served at once; more wait in the kernel's queue.
            graceful_timeout: Seconds that connections may go on after the first signal.
            mode: The mode of each connection.

        Raises:
            HandlerError: The handler is none, or is async.
            ValueError: A limit is below 1.
            SystemFailure: accept(2) fails, and not for want of resources.
        """
        from socketkeep._net._forking_server import ForkingServer, stopped_by_signals

        with (
            ForkingServer(
                self,
                handler,
                max_children=max_children,
                graceful_timeout=graceful_timeout,
                mode=mode,
            ) as server,
            stopped_by_signals(server),
        ):
            server.run()

    def close(self) -> None:
        """Close this handle.  Others that hold the socket go on accepting.

        The file of a Unix socket goes too, if it is still this socket's and this process made it:
        a forked child that closes its copy leaves it.
        """
        if self.sock.fileno() < 0:
            return
        if self._path and self._owner == os.getpid():
            with suppress(PermissionError):  # of who has given up the rights that made it
                if identity_of(self._path) == self._identity:
                    os.unlink(self._path)
        self.sock.close()


#: What the names of descriptors begin with that are no listeners for their user: the server's own,
#: given back by the service manager's store.
STORED: Final = "socketkeep."
#: The name of a descriptor that has the names of those behind it: see `_guard/_program.py`.
_NAMES: Final = STORED + "names"


def inherited_listeners() -> list[Listener]:
    """Return the listeners that systemd, or what acts as it, passed to this process.

    Raises ListenError when one does not listen.  For the rest see `passed_descriptors`.
    """
    return [Listener(inherited_socket(fd), name=name) for name, fd in passed_descriptors()]


def listeners_are_passed() -> bool:
    """Return whether systemd, or what acts as it, passed listeners to this process, or should have.

    None at all is a mistake in its socket unit; only the fd store is none.
    """
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return False
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if _NAMES in names:
        return names[0] != _NAMES  # behind it are those of the store alone
    names += [""] * int(count)
    return not int(count) or any(not name.startswith(STORED) for name in names[: int(count)])


def listeners_passed() -> list[tuple[str, int]]:
    """Return what is passed to this process, with names; it stays to be taken.

    Raises ListenError as `passed_descriptors` does.
    """
    return [each for each in _passed() if each[0] != _NAMES]


def passed_descriptors() -> list[tuple[str, int]]:
    """Return the descriptors that systemd, or what acts as it, passed to this process, with names.

    As sd_listen_fds(3) has it: LISTEN_FDS of them from descriptor 3 on, when LISTEN_PID is this
    process; LISTEN_FDNAMES names them.  The variables are removed, so that programs this one starts
    do not take them for their own.  Raises ListenError when LISTEN_FDS is not a number.
    """
    try:
        passed = _passed()
    finally:
        for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(variable, None)
    for name, fd in passed:
        if name == _NAMES:
            os.close(fd)
    return [each for each in passed if each[0] != _NAMES]


def _passed() -> list[tuple[str, int]]:
    """Return all that is passed, the names of what is behind them included."""
    pid = os.environ.get("LISTEN_PID", "")
    count = os.environ.get("LISTEN_FDS", "")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count:
        return []
    if not count.isdecimal():
        raise ListenError(f"LISTEN_FDS is {count!r}, not a number of descriptors")
    if names[-1] == _NAMES:
        names += _names_in(_FIRST_INHERITED + len(names) - 1)
    names += [""] * int(count)
    numbers = range(int(count))
    return [(names[n], _FIRST_INHERITED + n) for n in numbers]


def _names_in(fd: int) -> list[str]:
    text = os.pread(fd, os.fstat(fd).st_size, 0).decode()
    return text.split("\0") if text else []
