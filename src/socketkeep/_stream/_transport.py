"""The transport of a connection whose bytes come from the socket itself, and go there.

Its subclasses are what may stand in between: TLS (`_tls`), and what only looks at bytes (`_peek`).
Nothing here waits.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # ssl is for who uses it
    import ssl


class Source(Protocol):
    """The source that bytes are received from, and that they are sent to."""

    def recv(self, size: int, /) -> bytes:
        """Return what has come, up to `size` bytes; b"" at the peer's EOF.

        Raises BlockingIOError when nothing has, and OSError.
        """

    def send(self, data: bytes | memoryview, /) -> int:
        """Take some of `data` to be sent; return how many bytes.

        Raises BlockingIOError when there is no room for any, and OSError.
        """


class Transport:
    """The socket itself.

    input_fd: what to poll for input.  ended: the peer has said its end in the transport's own way,
    which need not be followed by EOF.  binds: this process alone has what is needed to go on.
    moves: another process can have what is needed to go on.  direct: bytes are received from and
    sent to the socket itself.  tells_end: EOF may stand for another end, see `at_eof`.  peeks: what
    is received stays in the kernel.  kept: how much of it is there still,
    taken: how much has been taken.  tls: what is known of
    TLS.  broken: nothing goes over it any more.  pending: what `send` has taken and the kernel has
    not.  owed: how many of the bytes sent are in that, at most.
    """

    __slots__ = ("input_fd", "sock")

    ended: bool = False
    binds: bool = False
    moves: bool = True
    direct: bool = True
    tells_end: bool = False
    peeks: bool = False
    kept: int = 0
    taken: int = 0
    broken: bool = False
    pending: bytes | bytearray = b""
    owed: int = 0

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.input_fd = sock.fileno()

    @property
    def source(self) -> Source:
        """Return what `recv` and `send` are called on: where it is the socket, without a detour."""
        return self.sock

    @property
    def tls(self) -> ssl.SSLObject | None:
        return None

    def at_eof(self) -> None:
        """Note an EOF; raises OSError if it stands for another end."""

    def waiting(self) -> int:
        """Return how many bytes are in the kernel now, where they are only looked at."""
        return 0

    def discard(self, count: int) -> None:
        """Take from the kernel what a worker that died has answered.  Raises OSError."""
        while count:
            taken = len(self.sock.recv(count))
            if not taken:
                return
            count -= taken

    def flush(self) -> bool:
        """Send what is pending; return whether it has gone.  Raises OSError."""
        return True

    def finish(self) -> None:
        """Put behind what is pending what tells the peer of the end, before FIN."""

    def before_wait(self) -> None:
        """Prepare for a wait for more.  Raises LimitExceeded when no more can come."""

    def check(self, failure: OSError) -> None:
        """Raise LimitExceeded if that is why a receive has failed."""

    def absorb(self) -> None:
        """Take from the kernel what is received: this process has it alone from here on."""

    def let_go(self) -> None:
        """Leave the socket as it was.  Nobody may be polling `input_fd`."""

    def after_fork(self, *, kept: bool) -> None:
        """In a forked child: be fit for use there, or let go of what is not the socket."""
