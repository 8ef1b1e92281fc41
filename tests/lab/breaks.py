"""Kernels that behave otherwise: for each experiment a call that does something else.

    python -m tests.lab.breaks CALLS NAME...

performs experiments with it and prints the findings as JSON; it fails when a process or a socket is
left behind.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import Final

import msgspec

from socketkeep import Socket, fork
from socketkeep._lab._calls import Calls
from socketkeep._lab._catalogue import EXPERIMENTS

#: Seconds: what does not come is waited for as long; no other wait takes any time to speak of.
PATIENCE: Final = 1.5
_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)


class TimeoutsDoNothing(Calls):
    def settimeout(self, name: str, seconds: float | None) -> None:
        pass


class TimeoutsBlock(Calls):
    def settimeout(self, name: str, seconds: float | None) -> None:
        super().settimeout(name, None)


class CreatedNonBlocking(Calls):
    def socket(self, name: str) -> None:
        super().socket(name)
        self.open[name].setblocking(False)


class ListensNonBlocking(Calls):
    def listen(self, name: str, port: int = 0, backlog: int = 8) -> int:
        bound = super().listen(name, port, backlog)
        self.open[name].setblocking(False)
        return bound


class ResetIsAnEnd(Calls):
    def reset(self, name: str) -> None:
        self.open[name].shutdown(socket.SHUT_RDWR)


class ConnectsInTime(Calls):
    def connect(self, name: str, port: int) -> None:
        if name == "late":
            self.open[name].settimeout(0.1)
        super().connect(name, port)


class BlockingFlipped(Calls):
    def setblocking(self, name: str, flag: int) -> None:
        super().setblocking(name, not flag)


class AcceptHandsDown(Calls):
    def accept(self, listener: str, name: str) -> None:
        super().accept(listener, name)
        self.open[name].settimeout(self.open[listener].gettimeout())


class ChildHasNothing(Calls):
    def fork(self) -> int:
        pid = super().fork()
        if pid == 0:
            for sock in self.open.values():
                sock.close()
        return pid


class RecvLeavesIt(Calls):
    def recv(self, name: str, size: int = 100) -> bytes:
        return self.open[name].recv(size, socket.MSG_PEEK)


class CloseEndsIt(Calls):
    def close(self, name: str) -> None:
        self.open[name].shutdown(socket.SHUT_RDWR)
        super().close(name)


class CloseDoesNothing(Calls):
    def close(self, name: str) -> None:
        pass


class ExitEndsAll(Calls):
    def exit(self) -> None:
        for sock in self.open.values():
            if sock.fileno() >= 0:
                sock.shutdown(socket.SHUT_RDWR)
        super().exit()


class ShutdownClosesOnly(Calls):
    def shutdown(self, name: str, how: str) -> None:
        self.open[name].close()


class ShutdownCloses(Calls):
    def shutdown(self, name: str, how: str) -> None:
        super().shutdown(name, how)
        self.open[name].close()


class CloseReadsFirst(Calls):
    def close(self, name: str) -> None:
        if name == "conn":
            self.open[name].recv(65536)
        super().close(name)


class SendsNoRights(Calls):
    def send_fd(self, via: str, name: str) -> None:
        self.open[via].send(b"x")


class OfSocketkeep(Calls):
    """Nothing is otherwise: the library's own class in the place of the standard one."""

    def socket(self, name: str) -> None:
        self.open[name] = Socket()

    def listen(self, name: str, port: int = 0, backlog: int = 8) -> int:
        bound = super().listen(name, port, backlog)
        self.open[name] = Socket(fileno=self.open[name].detach())
        return bound

    def pair(self, name: str, other: str) -> None:
        super().pair(name, other)
        for each in (name, other):
            self.open[each] = Socket(fileno=self.open[each].detach())

    def recv_fd(self, via: str, name: str) -> None:
        super().recv_fd(via, name)
        self.open[name] = Socket(fileno=self.open[name].detach())


class ForkOfSocketkeep(OfSocketkeep):
    """The library's fork: a child has what it was given, and the parent has that no more."""

    def fork(self) -> int:
        for sock in self.open.values():
            assert isinstance(sock, Socket)
            if sock.fileno() >= 0:
                sock.inherit = False
        accepted = [sock for name, sock in self.open.items() if name.startswith("conn")]
        return fork([sock for sock in accepted if sock.fileno() >= 0])


class NoDescriptors(Calls):
    def accept(self, listener: str, name: str) -> None:
        raise OSError(24, os.strerror(24))  # EMFILE


class Fails(Calls):
    def accept(self, listener: str, name: str) -> None:
        raise ZeroDivisionError


#: By experiment: what is otherwise, and the observation that tells.
BREAKS: Final[dict[str, tuple[tuple[type[Calls], str], ...]]] = {
    "three-modes": ((TimeoutsDoNothing, "gettimeout() after settimeout(0.0)"),),
    "created-blocking": ((CreatedNonBlocking, "gettimeout() of a new socket"),),
    "blocking-suspends": ((ListensNonBlocking, "the server, nobody having connected"),),
    "blocking-ends-with-error": ((ResetIsAnEnd, "the state then"),),
    "connection-timed-out": ((ConnectsInTime, "connect then"),),
    "nonblocking-fails": ((BlockingFlipped, "accept, nobody waiting"),),
    "timeout": ((TimeoutsBlock, "the server, nothing having been sent"),),
    "setblocking-is-shorthand": ((BlockingFlipped, "gettimeout() after setblocking(0)"),),
    "accept-passes-on": (
        (
            AcceptHandsDown,
            "gettimeout() of the accepted one, the listener's being 2.5, the default None",
        ),
    ),
    "flags-are-shared": ((BlockingFlipped, "O_NONBLOCK in the child now"),),
    "fork-duplicates": ((ChildHasNothing, "handles after"),),
    "one-socket": ((RecvLeavesIt, "recv(1) in child"),),
    "close-in-child": ((CloseEndsIt, "send in the parent"),),
    "close-in-parent": ((CloseEndsIt, "send in the child"),),
    "at-the-same-time": ((CloseEndsIt, "what its recv returns"),),
    "close-counts": ((CloseDoesNothing, "handles after server's close(conn)"),),
    "close-with-a-holder": ((CloseEndsIt, "FIN"),),
    "last-close": (
        (CloseEndsIt, "FIN at the first close"),
        (CloseDoesNothing, "the peer's state after the second"),
    ),
    "the-loop": ((CloseDoesNothing, "handles of the connection"),),
    "loop-without-parents-close": (
        (ExitEndsAll, "FIN"),
        (ChildHasNothing, "what client 1 receives"),
    ),
    "loop-without-childs-close": (
        (CloseEndsIt, "its state"),
        (ChildHasNothing, "handles of the listener"),
    ),
    "shutdown-at-once": ((ShutdownClosesOnly, "the peer's state"),),
    "shutdown-frees-nothing": ((ShutdownCloses, "handles after the shutdown"),),
    "close-with-unread-data": ((CloseReadsFirst, "the peer's state"),),
    "shutdown-of-a-listener": ((ShutdownClosesOnly, "the parent's accept"),),
    "handle-in-flight": ((SendsNoRights, "FIN"), (CloseDoesNothing, "handles")),
}


def _sockets() -> set[str]:
    links = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            links.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the listing's own
    return {link for link in links if link.startswith("socket:")}


def main(broken: str, *names: str) -> None:
    """Perform the experiments with the class of that name."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _sockets()
    calls: type[Calls] = globals()[broken]
    bounds = () if issubclass(calls, OfSocketkeep) else (PATIENCE,)
    findings = [EXPERIMENTS[name].perform(calls, *bounds) for name in names]
    assert _sockets() == before, "a socket is left open"
    try:
        left = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        sys.stdout.write(msgspec.json.encode(findings).decode())
        return
    raise AssertionError(f"a process is left: {left}")


if __name__ == "__main__":
    main(*sys.argv[1:])
