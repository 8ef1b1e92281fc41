"""The processes of an experiment, as who drives them sees them."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from socketkeep._lab._actor import CallOrder, CallReply, Open, act
from socketkeep._lab._calls import Calls
from socketkeep._lab._outcome import HANGS, WANT, CallOutcome, CannotBeDone, outcome_of, written

_MOST: Final = 65536

#: Told of each call that has been made: the process, the call as text, what came of it, and the
#: sockets that the process has open now (None when it does not say).
Told = Callable[["LabProcess", str, CallOutcome, dict[str, Open] | None], None]


class LabProcess:
    """One process.  `left` tells how many seconds a call may still take, `told` of each call."""

    def __init__(
        self,
        name: str,
        pid: int,
        channel: socket.socket,
        left: Callable[[], float],
        told: Told,
    ) -> None:
        self.name = name
        self.pid = pid
        self.parent: LabProcess | None = None
        self.sockets: dict[str, Open] = {}
        self._pidfd = os.pidfd_open(pid)
        self._channel = channel
        self._left = left
        self._told = told
        self.pending = ""
        self._hangs = False

    @classmethod
    def started(
        cls,
        name: str,
        calls: type[Calls],
        others: list[LabProcess],
        left: Callable[[], float],
        told: Told,
    ) -> LabProcess:
        """Fork one from this process.  Raises CannotBeDone."""
        ours, theirs = _channel(name)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                for other in others:
                    other._channel.close()
                act(calls(), theirs)
            return cls(name, pid, ours, left, told)
        except OSError as error:
            ours.close()
            raise CannotBeDone(f"cannot start process {name}: {error.strerror}") from None
        finally:
            theirs.close()

    def do(self, call: str, *arguments: Any) -> CallOutcome:
        """Have it make a call, and wait for what comes of it.

        A call that takes longer than it may is an outcome too, "hangs"; whatever that process is
        asked for afterwards has the same.  Raises CannotBeDone when the process has died, or the
        machine lacks the means.
        """
        self.begin(call, *arguments)
        return self.finish()

    def must(self, call: str, *arguments: Any) -> Any:
        """As `do`, for what is no part of the question; return the value.

        Raises CannotBeDone when it fails, too.
        """
        outcome = self.do(call, *arguments)
        if outcome.failed:
            why = f"{outcome} ({outcome.message})" if outcome.message else str(outcome)
            raise CannotBeDone(f"{self.name}: {written(call, arguments)}: {why}")
        return outcome.value

    def begin(self, call: str, *arguments: Any) -> None:
        """Have it begin a call, and do not wait for its end: `finish` does."""
        self.pending = ""
        if not self._hangs:
            self.pending = written(call, arguments)
            self._send(msgspec.msgpack.encode(CallOrder(call, arguments)))

    def has_returned(self) -> bool:
        """Return whether the call that was begun has an outcome."""
        return bool(select.select([self._channel], [], [], 0)[0])

    def finish(self) -> CallOutcome:
        """Wait for the end of the call that was begun."""
        call = self.pending
        reply = None if self._hangs else self._receive()
        if reply is None:
            self._hangs = True
            outcome = CallOutcome(HANGS, message="it did not return in time", failed=True)
            self._told(self, call, outcome, None)
            return outcome
        outcome = outcome_of(reply)
        if reply.code in WANT:
            raise CannotBeDone(f"{self.name}: {call}: {outcome} ({outcome.message})")
        self.sockets = reply.sockets
        self._told(self, call, outcome, reply.sockets)
        return outcome

    def opened(self, name: str) -> Open:
        """Return what is known of one of its open sockets.  Raises CannotBeDone for another."""
        if name not in self.sockets:
            raise CannotBeDone(f"{self.name} has no {name} open")
        return self.sockets[name]

    def fork(self, name: str) -> LabProcess:
        """Have it fork; return the child.  Raises CannotBeDone."""
        if self._hangs:
            raise CannotBeDone(f"{self.name}: fork(): it hangs")
        ours, theirs = _channel(name)
        with theirs:
            rights = array.array("i", [theirs.fileno()])
            self._send(
                msgspec.msgpack.encode(CallOrder("fork")),
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)],
            )
        reply = self._receive()
        if reply is None or reply.error:
            ours.close()
            why = HANGS if reply is None else f"{outcome_of(reply)} ({reply.message})"
            raise CannotBeDone(f"{self.name}: fork(): {why}")
        child = LabProcess(name, reply.value, ours, self._left, self._told)
        first = child._receive()
        child.sockets = first.sockets if first is not None else {}
        child.parent = self
        self.sockets = reply.sockets
        self._told(self, "fork()", CallOutcome(name), reply.sockets)
        return child

    def exit(self) -> None:
        """Have it end, with all its handles; returns when it has.  Raises CannotBeDone."""
        self.begin("exit")
        if not select.select([self._pidfd], [], [], self._left())[0]:
            raise CannotBeDone(f"{self.name}: exit(): {HANGS}")
        self._told(self, "exit()", CallOutcome(""), {})

    def end(self) -> None:
        """Kill it, whatever it does, and reap it.  Children are to be ended after their parents.

        Whoever calls this is a subreaper, so that the children of a dead process are its own.
        """
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._channel.close()

    def _send(self, data: bytes, ancillary: Any = ()) -> None:
        try:
            self._channel.sendmsg([data], ancillary)
        except OSError:
            raise CannotBeDone(f"process {self.name} has ended") from None

    def _receive(self) -> CallReply | None:
        """Return the next reply, None when there is none in time."""
        if not select.select([self._channel], [], [], self._left())[0]:
            return None
        try:
            data = self._channel.recv(_MOST)
        except ConnectionResetError:
            data = b""
        if not data:
            raise CannotBeDone(f"process {self.name} has ended")
        return msgspec.msgpack.decode(data, type=CallReply)


def _channel(name: str) -> tuple[socket.socket, socket.socket]:
    """Return the two ends of what a process is told by.  Raises CannotBeDone."""
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise CannotBeDone(f"cannot start process {name}: {error.strerror}") from None


def wait_for(reached: Callable[[], bool], left: Callable[[], float]) -> bool:
    """Ask again and again, since the kernel does not announce it; whether it came in time."""
    end = time.monotonic() + left()
    while not reached():
        if time.monotonic() >= end:
            return False
        time.sleep(0.001)
    return True
