"""The awaitable of a receiving task: as a future, but that it resumes the task at once.

The callbacks of a future go through the loop's queue.  The task is then resumed a turn of the loop
later, and each turn asks the system anew which descriptors are ready: for a receive that is as much
as all else it does.  A waiter resumes the task from the loop's callback that has made it ready.

A task takes whatever has the attribute `_asyncio_future_blocking` for a future (`asyncio.isfuture`)
and asks of it what stands here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from socketkeep import _native

#: What a task asks for the outcome of what it awaited.
Awaited: TypeAlias = "asyncio.Future[None] | Waiter"
Resume: TypeAlias = Callable[[Awaited], object]

_NOWHERE: Final = Context()


def _nobody(outcome: Awaited) -> None:
    """Resume no task: none waits."""


class _NoLoop:
    """The loop of a future that has been done for ever: nobody is told of it any more."""

    def get_debug(self) -> bool:
        return False


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.Future(loop=cast("asyncio.AbstractEventLoop", _NoLoop()))
    future.set_result(None)
    return future


#: What a task is resumed with when it has not been cancelled: of a real future it sees so at once.
DONE: Final = _done()


class Turn(tuple["Waiter"]):
    """The thing awaited: yields the waiter to the task, once.  A tuple, as in C."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __await__(self) -> Generator[Any, Any, None]: ...
    else:
        __await__ = tuple.__iter__


class Waiter:
    """An awaitable for one task at a time; made once, and used again for each wait.

    To wait, set `pending` and `_asyncio_future_blocking` and await its `Turn`; then `came` says
    what ended the wait.  `resume` and `context` are the task's.

    And what of its connection the compiled core looks at, and Python alone changes but for this:
    watching: the reader is registered.  ordered: there is an order of the server's,
    or a rate to receive at.  claimed: a
    task receives.  tended: `since`, when the wait has begun, is looked at.  unwaited: how many
    receives in a row did not wait.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_cancelled",
        "_loop",
        "came",
        "claimed",
        "context",
        "ordered",
        "pending",
        "resume",
        "since",
        "tended",
        "unwaited",
        "watching",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop  # where a task finds no get_loop() it looks here: a call less
        self._cancelled: asyncio.CancelledError | None = None
        self.pending = False  # a task waits, and nothing has ended its wait
        self.came = 0
        self.resume: Resume = _nobody
        self.context = _NOWHERE
        self.claimed = self.ordered = self.tended = self.watching = False
        self.since = 0.0
        self.unwaited = 0

    # For the connection.

    def end(self, came: int) -> None:
        """Resume the task now, if it waits: only from a callback of the loop's, never from a task.

        A task cannot be resumed from within another.
        """
        if self.pending:
            self.pending = False
            self.came = came
            self.context.run(self.resume, DONE)

    def end_soon(self, came: int) -> None:
        """Resume the task in the loop's next turn, if it waits."""
        if self.pending:
            self.came = came
            self._resume_soon(DONE)

    def _resume_soon(self, outcome: Awaited) -> None:
        self.pending = False
        self._loop.call_soon(self.resume, outcome, context=self.context)
        self.forget()

    def forget(self) -> None:
        """Let go of the task, which holds all that its handler holds."""
        self.resume = _nobody
        self.context = _NOWHERE

    # For the task.

    def add_done_callback(self, resume: Resume, *, context: Context) -> None:
        """Take what resumes the task."""
        self.resume = resume
        self.context = context

    def cancel(self, msg: object = None) -> bool:
        """End the wait by a cancellation of the task; return whether there was a wait to end."""
        if not self.pending:
            return False
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._resume_soon(self)
        return True

    def done(self) -> bool:
        """Return whether the wait has ended."""
        return not self.pending

    def result(self) -> None:
        """Raise the cancellation that ended the wait, if one did."""
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            raise cancelled


make_waiter: Final = _native.compiled_or(Waiter, "Waiter")
