"""`push` and `publish`: a message to a connection by its name, or to all of a group.

What carries them out is the worker's own, see `Office`; a program that is no worker has
`socketkeep.Client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from socketkeep._base._errors import HandlerError
from socketkeep._names._naming import check_message, check_text

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

T_co = TypeVar("T_co", covariant=True)

#: Seconds that a push has to be handed over, where its sender says nothing else.
PATIENCE: Final = 5.0
#: Seconds in which a connection is to have ended that was asked to.
DISCONNECT_PATIENCE: Final = 10.0
#: A day: what waits for longer is no push.
LONGEST_PATIENCE: Final = 86400.0


class PushOutcome(IntEnum):
    """The outcome of a push to one connection.  The numbers are the wire's: they stay."""

    DELIVERED = 1
    NOT_CONNECTED = 2
    TIMED_OUT = 3
    FULL = 4
    UNCERTAIN = 5
    UNREACHABLE = 7  # 6 says to the keeper alone that it has begun

    @property
    def text(self) -> str:
        """The outcome in words."""
        return _TEXTS[self]


_TEXTS: Final = {
    PushOutcome.DELIVERED: "delivered",
    PushOutcome.NOT_CONNECTED: "not connected",
    PushOutcome.TIMED_OUT: "timed out",
    PushOutcome.FULL: "full",
    PushOutcome.UNCERTAIN: "uncertain",
    PushOutcome.UNREACHABLE: "unreachable",
}


@dataclass(frozen=True, slots=True)
class Pushed:
    """The outcome of a push.

    Attributes:
        outcome: "delivered": the owner of the connection has it: the system has taken all of its
            bytes, or `on_push` will be called.
            "not connected": nobody has the name, or the connection has ended before.
            "timed out": it was not handed over in time, and never will be.
            "full": too much waits for the connection already.
            "uncertain": the worker has died with it, or does not answer; it may have been sent, and
            will not be again.
            "unreachable": nobody on this machine has the name, and the cluster's other nodes cannot
            be asked.
        id: The id of the connection that it was for, "" where there is none.
        epoch: The number of that connection's owner: each worker that takes a connection over has
            the next one.  0 where there is none.
        node: The node where that is, when it is another one of the cluster.
    """

    outcome: str
    id: str = ""
    epoch: int = 0
    node: str = ""

    @property
    def delivered(self) -> bool:
        """Return whether the owner of the connection has it."""
        return self.outcome == "delivered"


@dataclass(frozen=True, slots=True)
class Published:
    """The outcome of a message to a group.

    Attributes:
        delivered: The number of connections that it was handed over to.
        failed: The number of those that it was not; a node of the cluster that does not answer
            counts for one.
    """

    delivered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Presence:
    """A connection that has the name that was asked for, or is in the group of that name.

    Attributes:
        node: The node where it is, "" on this machine.
        id: The connection's id.
        epoch: The number of its owner, as in `Pushed`.
        name: Its own name, "" when it has none.
        member: Whether it is in the group.
    """

    node: str
    id: str
    epoch: int
    name: str = ""
    member: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """The holders of a name, or the members of a group, on all nodes.

    Attributes:
        found: The connections, at most 1000 of each node.
        complete: Whether all nodes of the cluster have answered.
    """

    found: tuple[Presence, ...] = ()
    complete: bool = True


class Pushing(Protocol[T_co]):
    """A message that is under way.

    It goes whether it is waited for or not; of several those called first go first.
    """

    def __await__(self) -> Generator[Any, None, T_co]:
        """Wait, in async code, for what becomes of it."""

    def result(self) -> T_co:
        """Wait, in sync code, for what becomes of it."""


class Endpoint(Protocol):
    """A place in a worker that is pushed to as a connection is, and is none."""

    def call(self, name: str, groups: frozenset[str]) -> None:
        """Give it this name and these groups, no others; with none of either it is no more."""


class Office(Protocol):
    """The part that carries out pushes for one process.  until: on the monotonic clock, in ns.

    loop: in which it lives, None in sync models.
    """

    @property
    def loop(self) -> AbstractEventLoop | None: ...

    def push(self, name: str, data: bytes, until: int) -> Pushing[Pushed]: ...
    def publish(self, group: str, data: bytes, until: int) -> Pushing[Published]: ...
    def who(self, text: str, until: int) -> Pushing[Present]: ...

    def endpoint(
        self, receive: Callable[[bytes], bool], lost: Callable[[], None] | None = None
    ) -> Endpoint:
        """Return a new endpoint; in the loop's thread.

        receive: called with what is pushed to it; returns whether there was room for that.  lost:
        called when another has its name now.  Raises HandlerError in sync models, and when it is
        called something Busy where this worker has 64.
        """


class _SavedPlace(Generic[T_co]):
    """The place of the process's office, once it has one."""

    office: Office | None = None


place: Final[_SavedPlace[None]] = _SavedPlace()


def push(
    name: str, message: bytes | bytearray | memoryview, *, timeout: float = PATIENCE
) -> Pushing[Pushed]:
    """Send `message` to the connection that has this `name`, whichever worker serves it.

    In a handler, sync or async: ``pushed = await push("device-17", b"on")`` in async code,
    ``pushed = push("device-17", b"on").result()`` in sync code.  It goes whether that is waited for
    or not.  Where the service has an `on_push`, that is called with it; otherwise it is sent to the
    peer as it is, between two sends of the handler.

    Messages from one sender to one connection arrive in order, each at most once.  That the peer
    has read it is not promised.

    Args:
        name: The connection's name.
        message: At most 64 KiB.
        timeout: Seconds in which it is to be handed over.

    Returns:
        An awaitable, with a `result()` for sync code, of what has become of it: `Pushed`.

    Raises:
        TypeError: The name is no text.
        ValueError: It cannot be a name.
        LimitExceeded: The message is longer.
        HandlerError: This is not in a server's worker, or before the worker is ready.
    """
    name, data, until = check_text("a name", name), check_message(message), _until(timeout)
    return office_for("push").push(name, data, until)


def publish(
    group: str, message: bytes | bytearray | memoryview, *, timeout: float = PATIENCE
) -> Pushing[Published]:
    """Send `message` to each connection that is in this `group` now.

    It goes as by `push`, and is waited for in the same way; to a group that nobody is in it is sent
    to nobody.  A connection that has joined gets its own messages, too.

    Args:
        group: The group's name.
        message: At most 64 KiB.
        timeout: Seconds in which it is to be handed over.

    Returns:
        An awaitable, with a `result()` for sync code, of what has become of it: `Published`.

    Raises:
        SocketkeepError: What `push` raises.
    """
    group, data, until = check_text("a group", group), check_message(message), _until(timeout)
    return office_for("publish").publish(group, data, until)


def who(text: str, *, timeout: float = PATIENCE) -> Pushing[Present]:
    """Ask who has this name, and who is in the group of this name.

    In a handler: ``present = await who("device-17")`` in async code, ``who("device-17").result()``
    in sync code.  In a cluster its other nodes are asked, too; those that do not answer in time are
    left out, and `complete` says so.

    Args:
        text: The name.
        timeout: Seconds in which the nodes are to answer.

    Returns:
        An awaitable, with a `result()` for sync code, of the answer: `Present`.

    Raises:
        SocketkeepError: What `push` raises.
    """
    return office_for("who").who(check_text("a name", text), _until(timeout))


def office_for(verb: str) -> Office:
    """Return the process's office.  Raises HandlerError where there is none."""
    if place.office is None:
        raise HandlerError(
            f"refused: {verb} is for the handlers of a server that runs: this process is no worker"
            " of one, or is not ready yet; other programs have socketkeep.Client"
        )
    return place.office


def _until(timeout: float) -> int:
    if not 0 <= timeout <= LONGEST_PATIENCE:
        raise ValueError(f"a timeout has 0 to {LONGEST_PATIENCE:.0f} seconds, not {timeout}")
    return time.monotonic_ns() + int(timeout * 1e9)
