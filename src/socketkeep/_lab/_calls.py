"""The calls that experiments are made of."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
from typing import Final

HOST: Final = "127.0.0.1"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_FILLING: Final = bytes(65536)


class _Open(dict[str, socket.socket]):
    """Sockets by name; one that there is not is a descriptor that is not open."""

    def __missing__(self, name: str) -> socket.socket:
        raise OSError(errno.EBADF, f"no socket {name}")


class Calls:
    """One process's sockets by name, and what can be done with them, a method a call.

    Each method makes the plain call of the standard library that it is named for, with no care
    added, and raises what that raises.  A subclass that gets one of them wrong is how the tests see
    that an experiment notices: they run in it what the experiment says.
    """

    def __init__(self) -> None:
        self.open: dict[str, socket.socket] = _Open()

    def socket(self, name: str) -> None:
        self.open[name] = socket.socket()

    def listen(self, name: str, port: int = 0, backlog: int = 8) -> int:
        """Return the port."""
        self.open[name] = socket.create_server((HOST, port), backlog=backlog)
        bound: int = self.open[name].getsockname()[1]
        return bound

    def connect(self, name: str, port: int) -> None:
        if name not in self.open:
            self.socket(name)
        self.open[name].connect((HOST, port))

    def accept(self, listener: str, name: str) -> None:
        self.open[name], _ = self.open[listener].accept()

    def send(self, name: str, data: bytes) -> int:
        return self.open[name].send(data)

    def recv(self, name: str, size: int = 100) -> bytes:
        return self.open[name].recv(size)

    def fill(self, name: str) -> int:
        """Send until the kernel takes no more; return how many bytes it took."""
        taken = 0
        while True:
            try:
                taken += self.open[name].send(_FILLING, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return taken

    def readable(self, name: str, seconds: float) -> bool:
        """Wait until there is something to receive, for at most so long; whether there is."""
        return bool(select.select([self.open[name]], [], [], seconds)[0])

    def close(self, name: str) -> None:
        self.open[name].close()

    def shutdown(self, name: str, how: str) -> None:
        self.open[name].shutdown(getattr(socket, how))

    def reset(self, name: str) -> None:
        """Close so that the peer gets RST."""
        self.open[name].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.open[name].close()

    def setsockopt(self, name: str, level: str, option: str, value: int) -> None:
        self.open[name].setsockopt(getattr(socket, level), getattr(socket, option), value)

    def setblocking(self, name: str, flag: int) -> None:
        self.open[name].setblocking(bool(flag))

    def settimeout(self, name: str, seconds: float | None) -> None:
        self.open[name].settimeout(seconds)

    def gettimeout(self, name: str) -> float | None:
        return self.open[name].gettimeout()

    def setdefaulttimeout(self, seconds: float | None) -> None:
        socket.setdefaulttimeout(seconds)

    def dup(self, name: str, copy: str) -> None:
        self.open[copy] = self.open[name].dup()

    def pair(self, name: str, other: str) -> None:
        self.open[name], self.open[other] = socket.socketpair()

    def fork(self) -> int:
        return os.fork()

    def send_fd(self, via: str, name: str) -> None:
        rights = array.array("i", [self.open[name].fileno()])
        self.open[via].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def recv_fd(self, via: str, name: str) -> None:
        received = array.array("i")
        _, ancillary, _, _ = self.open[via].recvmsg(1, socket.CMSG_LEN(received.itemsize))
        received.frombytes(ancillary[0][2])
        self.open[name] = socket.socket(fileno=received[0])

    def exit(self) -> None:
        os._exit(0)
