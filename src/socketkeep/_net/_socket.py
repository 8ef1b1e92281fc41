"""`Socket`: the standard library's socket, with its mode as a value.

Everything that can be had from `socket.socket` as it is, is: CPython's own tests compare the two.
"""
# ruff: noqa: A002 - `type` is the standard constructor's word

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from socketkeep._base._forking import guard, is_guarded, unguard
from socketkeep._base._handles import Handle, handles_of
from socketkeep._stream._modes import Blocking, Deadline, Mode, NonBlocking, Timeout

_P = ParamSpec("_P")
_R = TypeVar("_R")

# The shortest wait: settimeout(0) would be another mode, and raise BlockingIOError at the end.
_SHORTEST: Final = 1e-6
# The longest, which settimeout() takes: INT_MAX milliseconds, and nobody notices another look.
_LONGEST: Final = 2e6


class Socket(socket.socket):
    """A `socket.socket` to be used in its place, with a mode and a view of who else holds it.

    It takes what the standard class takes and does what it does, standard exceptions included; the
    arguments, methods and the property described here are added.  Make one of a standard socket
    by ``Socket(fileno=sock.detach())``.

    Args:
        family: As for the standard class; so are `type`, `proto` and `fileno`.
        mode: The way in which operations wait; None is as the standard class has it:
            socket.setdefaulttimeout().
        inherit: Whether forked children keep it, see `inherit`.
    """

    __slots__ = ("_deadline",)

    def __init__(
        self,
        family: socket.AddressFamily | int = -1,
        type: socket.SocketKind | int = -1,
        proto: int = -1,
        fileno: int | None = None,
        *,
        mode: Mode | None = None,
        inherit: bool = True,
    ) -> None:
        self._deadline: Deadline | None = None
        super().__init__(family, type, proto, fileno)
        if not inherit:
            guard(self)
        if mode is None:
            return
        try:
            self.mode = mode
        except BaseException:
            # The caller has no object to close, and an fd that was the caller's own stays so.
            if fileno is None:
                self.close()
            else:
                self.detach()
            raise

    @property
    def mode(self) -> Mode:
        """The way in which operations wait.

        It is `Blocking`, `NonBlocking`, `Timeout` or `Deadline`.

        It is the same fact as settimeout(), setblocking() and gettimeout() tell; a `Deadline` is to
        gettimeout() the seconds that are left.  Where an operation cannot wait any longer it
        raises BlockingIOError in `NonBlocking`, TimeoutError in `Timeout` and `Deadline`.
        ``Timeout(0)`` is `NonBlocking`, as settimeout(0) is; sendfile() looks at a deadline when
        it begins, and gives each of its waits what is left then.

        As with the standard class, O_NONBLOCK belongs to the file description: a mode that is set
        here changes how whoever shares the socket, over fork or SCM_RIGHTS, waits; `Connection`
        has a mode of its own.

        Raises:
            TypeError: It is set to what is no mode.
            OverflowError: It is set to a timeout too long for the system.
            OSError: It is set when the socket is closed.
        """
        if self._deadline is not None:
            return self._deadline
        seconds = super().gettimeout()
        if seconds is None:
            return Blocking()
        return Timeout(seconds) if seconds else NonBlocking()

    @mode.setter
    def mode(self, mode: Mode) -> None:
        match mode:
            case Blocking():
                self.settimeout(None)
            case NonBlocking():
                self.settimeout(0.0)
            case Timeout(seconds):
                self.settimeout(seconds)
            case Deadline():
                self._deadline = mode
                self._limit_to_deadline(mode)
            case _:
                raise TypeError(
                    "a mode is Blocking(), NonBlocking(), Timeout(seconds) or Deadline(at), "
                    f"not {mode!r}"
                )

    @property
    def inherit(self) -> bool:
        """Return whether forked children keep the socket.

        What is accepted or duplicated has it the same.

        True unless said otherwise, for so has the standard class, and programs made for it, such as
        socketserver's ForkingMixIn, serve in the child; `Connection` has it the other way round.
        Where it is not, the child's object is closed (OSError, EBADF), and nothing else happens.
        `socketkeep.guard_forks` sees to all sockets of a program at once.
        """
        return not is_guarded(self)

    @inherit.setter
    def inherit(self, inherit: bool) -> None:
        if inherit:
            unguard(self)
        else:
            guard(self)

    @contextmanager
    def using(self, mode: Mode) -> Iterator[Self]:
        """Set the `mode` for the length of a ``with`` block."""
        before = self.mode
        self.mode = mode
        try:
            yield self
        finally:
            if self.fileno() >= 0:  # else it was closed or detached in the block
                self.mode = before

    def settimeout(self, value: float | None, /) -> None:
        super().settimeout(value)
        self._deadline = None

    def setblocking(self, flag: bool, /) -> None:
        super().setblocking(flag)
        self._deadline = None

    def gettimeout(self) -> float | None:
        if self._deadline is not None:
            self._limit_to_deadline(self._deadline)
        return super().gettimeout()

    def accept(self, *, mode: Mode | None = None) -> tuple[Socket, Any]:
        """Wait for a connection; return a `Socket` of it, and the address of the client.

        Args:
            mode: The accepted socket's mode, which is never this one's.  None is as the standard
                class has it, socket.getdefaulttimeout(), that is to say `Blocking` unless the
                program has set another.
        """
        if self._deadline is not None:
            self._limit_to_deadline(self._deadline)
        plain, address = super().accept()
        with plain:  # closed, unless its descriptor has become the Socket's
            accepted = Socket(plain.family, plain.type, plain.proto, plain.fileno(), mode=mode)
            plain.detach()
        if not self.inherit:
            guard(accepted)
        return accepted, address

    def dup(self) -> Self:
        copy = super().dup()
        copy._deadline = self._deadline
        if not self.inherit:
            guard(copy)
        return copy

    def handles(self) -> list[Handle]:
        """Return every descriptor of this socket, in this process and in others, by pid and fd.

        The connection ends when the last of them is closed.  Of other users' processes only root
        sees the descriptors, and one that is on its way to a process (SCM_RIGHTS) nobody sees.

        Raises:
            OSError: The socket is closed.
            SystemFailure: There is no /proc.
        """
        return handles_of(self.fileno())

    def _limit_to_deadline(self, deadline: Deadline) -> None:
        left = deadline.at - time.monotonic()
        super().settimeout(min(max(left, _SHORTEST), _LONGEST))


def _within_deadline(
    standard: Callable[Concatenate[Socket, _P], _R],
) -> Callable[Concatenate[Socket, _P], _R]:
    @wraps(standard)
    def method(self: Socket, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if self._deadline is not None:
            self._limit_to_deadline(self._deadline)
        return standard(self, *args, **kwargs)

    return method


# Put in from outside, so that a type checker goes on seeing the standard signatures.
for _name in (
    *("connect", "connect_ex"),
    *("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"),
    *("send", "sendall", "sendto", "sendmsg"),
):
    setattr(Socket, _name, _within_deadline(getattr(socket.socket, _name)))
