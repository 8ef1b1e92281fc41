"""A connection on its way to another process, with all that goes with it.

The giver sends, by one message over a Unix socket, the connection's descriptor and one end of a
fresh socket pair, and keeps its own handle until the taker has answered there.  The answer decides,
and exactly once: a giver that will not wait any longer ends its side of the pair, and then finds
either the answer, which came before, or none, and none can come any more.  So there is never a
moment at which both have the connection, nor one at which neither has.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import msgspec

from socketkeep._base import _passing
from socketkeep._base._errors import (
    OutOfResources,
    PeerClosed,
    SocketkeepError,
    SystemFailure,
    TimedOut,
    translate,
)
from socketkeep._base._forking import Forkable
from socketkeep._stream._lease import Lease
from socketkeep._stream._modes import Blocking, Deadline, Mode, NonBlocking, Timeout
from socketkeep._stream._shell import Shell
from socketkeep._stream._waiting import Steps, Want

F = TypeVar("F", bound=Forkable)

#: What the one who has given a connection is told if it uses it all the same.
GIVEN: Final = "failed: it was given to another process"

_TAKEN: Final = b"T"
_NO_ROOM: Final = b"R"
_LENGTH: Final = 4
_KINDS: Final = (socket.SOCK_SEQPACKET, socket.SOCK_STREAM)


class Transfer(msgspec.Struct, omit_defaults=True):
    """The load beside the descriptor.  Fields are only ever appended: two versions can talk."""

    mode: str = "blocking"
    seconds: float = 0.0  # of a Timeout; of a Deadline the moment, on the machine's one clock
    state: bytes | None = None
    unread: bytes = b""
    unsent: tuple[bytes, int] | None = None  # an unfinished send's data, and bytes gone
    write_ended: bool = False
    id: str = ""
    listener: str = ""
    deadline: float | None = None  # on the machine's one clock
    peer: str = ""  # the client's, where a PROXY header tells it
    proxy: bytes = b""  # that header, as it came
    receive_rate: int = 0
    inflow_full_at: float = 0.0


class Offer:
    """One giving: `steps` sends and waits, `settle` says how it ended."""

    def __init__(self, transfer: Transfer, sock: socket.socket, channel: socket.socket) -> None:
        _check_channel(channel)
        self._transfer = transfer
        self._sock = sock
        self._channel = channel
        self._answer: socket.socket | None = None
        self._said = b""

    def steps(self) -> Steps[None]:
        """Send, and wait for the answer."""
        try:
            answer, theirs = socket.socketpair()
        except OSError as error:
            raise translate(error, operation="give") from error
        self._answer = answer
        with theirs:
            body = msgspec.msgpack.encode(self._transfer)
            yield from _send(self._channel, body, [theirs.fileno(), self._sock.fileno()])
        yield Want(answer.fileno(), "read")

    def settle(self) -> bool:
        """Return whether the connection was taken; if it was not, it cannot be any more."""
        answer, self._answer = self._answer, None
        if answer is not None:
            with answer:
                answer.shutdown(socket.SHUT_RD)
                self._said = answer.recv(1, socket.MSG_DONTWAIT)
        return self._said == _TAKEN

    def refusal(self) -> SystemFailure:
        """Return the error that says why it was not taken."""
        poller = select.poll()
        poller.register(self._channel, 0)
        if self._said != _NO_ROOM and poller.poll(0):  # a hang-up is told unasked
            return PeerClosed(
                "failed: the other process ended or closed the channel without taking the "
                "connection, which is still open here",
                operation="give",
            )
        return OutOfResources(
            "refused: the other process is out of file descriptors; the connection is still open "
            "here",
            operation="give",
        )


@contextmanager
def settled(offer: Offer, conn: Shell) -> Iterator[None]:
    """Have `conn` let go when it was taken, however the steps in the block ended."""
    try:
        yield
    except BaseException as error:
        if not offer.settle():
            _locate(error, conn)
            raise
        conn._give_up(GIVEN)
        if not isinstance(error, TimedOut):
            raise
        return
    if not offer.settle():
        refusal = offer.refusal()
        _locate(refusal, conn)
        raise refusal
    conn._give_up(GIVEN)


def _locate(error: BaseException, conn: Shell) -> None:
    """Say in an error of the library's which connection it was."""
    if isinstance(error, SocketkeepError):
        error.address, error.peer = conn.local, conn.peer


def transfer_of(conn: Shell, mode: Mode) -> Transfer:
    """Return what goes with `conn`.  Raises SystemFailure for one that cannot go."""
    if conn.core.transport.tls is not None:
        raise SystemFailure(
            "refused: the keys of a TLS connection stay with its process",
            code=errno.EOPNOTSUPP,
            **conn._context("give"),
        )
    core, unsent = conn.core, conn._unsent
    seconds = 0.0
    match mode:
        case Timeout(seconds) | Deadline(seconds):
            pass
    return Transfer(
        mode=type(mode).__name__.lower(),
        seconds=seconds,
        state=core.committed,
        unread=conn.unread,
        unsent=None if unsent is None else (bytes(unsent[0]), unsent[1]),
        write_ended=core.life.write_ended,
        id=conn.id,
        listener=conn.listener,
        deadline=None if conn.deadline is None else conn.deadline.at,
        peer=conn.peer if conn.lease.proxy else "",
        proxy=conn.lease.proxy,
        receive_rate=conn.lease.receive_rate,
        inflow_full_at=conn._inflow_full_at(),
    )


def lease_of(transfer: Transfer) -> Lease:
    """Return what the connection is told where it was taken."""
    return Lease(
        id=transfer.id,
        listener=transfer.listener,
        state=transfer.state,
        unread=transfer.unread,
        deadline=transfer.deadline,
        peer=transfer.peer,
        proxy=transfer.proxy,
        receive_rate=transfer.receive_rate,
        inflow_full_at=transfer.inflow_full_at,
    )


def mode_of(transfer: Transfer) -> Mode:
    """Return the mode that came with the connection; `Blocking` for one not known here."""
    match transfer.mode:
        case "nonblocking":
            return NonBlocking()
        case "timeout":
            return Timeout(transfer.seconds)
        case "deadline":
            return Deadline(transfer.seconds)
    return Blocking()


def taking(channel: socket.socket, build: Callable[[socket.socket, Transfer], F]) -> Steps[F]:
    """Take the next connection that comes over `channel`, as `build` makes it.

    One whose giver has given up meanwhile is let go, and the next one waited for.
    """
    _check_channel(channel)
    while True:
        received = yield from _receive(channel)
        fds = received.descriptors
        try:
            body = _passing.unpack(received)
        except _passing.Unfit:
            body = None
        if received.truncated or len(fds) != 2 or body is None:
            raise _refuse(fds, received.truncated)
        with socket.socket(fileno=fds[0]) as answer:
            sock = socket.socket(fileno=fds[1])
            try:
                conn = build(sock, msgspec.msgpack.decode(body, type=Transfer))
            except BaseException:
                sock.close()
                raise
            try:
                answer.send(_TAKEN, socket.MSG_NOSIGNAL)
            except OSError:
                conn._give_up(GIVEN)
            else:
                return conn


def _check_channel(channel: socket.socket) -> None:
    if channel.family != socket.AF_UNIX or channel.type not in _KINDS:
        raise ValueError(
            "a channel is a connected Unix socket, SOCK_SEQPACKET or SOCK_STREAM (as "
            f"socket.socketpair() makes), not {channel!r}"
        )


def _send(channel: socket.socket, body: bytes, descriptors: list[int]) -> Steps[None]:
    try:
        payload, fds = _passing.pack(body, descriptors)
        memfd = fds[-1] if _passing.in_memfd(payload) else -1
        if channel.type == socket.SOCK_STREAM:
            payload = len(payload).to_bytes(_LENGTH, "big") + payload
        try:
            while payload:
                try:
                    payload = payload[_passing.send(channel, payload, fds) :]
                    fds = []  # they went with the first byte
                except BlockingIOError:
                    yield Want(channel.fileno(), "write")
        finally:
            if memfd >= 0:
                os.close(memfd)
    except (BrokenPipeError, ConnectionResetError) as error:
        reason = "failed: the other end closed the channel; the connection is still open here"
        raise PeerClosed(reason, operation="give") from error
    except OSError as error:
        raise translate(error, operation="give") from error


def _receive(channel: socket.socket) -> Steps[_passing.Received]:
    """Receive one whole message."""
    if channel.type == socket.SOCK_SEQPACKET:
        return (yield from _receive_some(channel, _passing.PAYLOAD_LIMIT))
    data, descriptors, truncated, wanted = b"", list[int](), False, _LENGTH
    try:
        while len(data) < wanted:
            part = yield from _receive_some(channel, wanted - len(data))
            data += part.data
            descriptors += part.descriptors
            truncated = truncated or part.truncated
            if len(data) == wanted == _LENGTH:
                wanted += int.from_bytes(data, "big")
                if wanted > _LENGTH + _passing.PAYLOAD_LIMIT:
                    raise _not_given()
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise
    return _passing.Received(data[_LENGTH:], descriptors, truncated)


def _receive_some(channel: socket.socket, size: int) -> Steps[_passing.Received]:
    while True:
        try:
            received = _passing.receive(channel, size)
        except BlockingIOError:
            yield Want(channel.fileno(), "read")
        except ConnectionResetError:
            continue  # the giver has gone; the kernel says so once, before what had been sent
        except OSError as error:
            raise translate(error, operation="take") from error
        else:
            if not received.data:
                raise PeerClosed("failed: the other end closed the channel", operation="take")
            return received


def _refuse(descriptors: list[int], truncated: bool) -> SystemFailure:
    """Close what came, tell the giver if there is a way to, and return the error."""
    if truncated and descriptors:
        with socket.socket(fileno=descriptors.pop(0)) as answer, suppress(OSError):
            answer.send(_NO_ROOM, socket.MSG_NOSIGNAL)
    for fd in descriptors:
        os.close(fd)
    if not truncated:
        return _not_given()
    return OutOfResources(
        "failed: this process is out of file descriptors; the connection stays with the process "
        "that gave it",
        operation="take",
    )


def _not_given() -> SystemFailure:
    return SystemFailure(
        "failed: what came over the channel is not a connection that `give` sent",
        code=errno.EPROTO,
        operation="take",
    )
