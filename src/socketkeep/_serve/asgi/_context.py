"""Running a coroutine in a context of its own, without a task of its own.

What one request sets in context variables must not be seen by the next on the same connection.  A
task for each request would do, and take a turn of the loop: here the connection's task goes through
the coroutine's steps, each in the request's context.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any


@types.coroutine
def run_in(
    context: Context, coroutine: Coroutine[Any, Any, None], waits: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Await the coroutine, each of its steps in `context`; call `waits` when it is to wait."""
    step: Any = coroutine.send
    value: Any = None
    while True:
        try:
            awaited = context.run(step, value)
        except StopIteration:
            return
        try:
            waits()
            value = yield awaited
            step = coroutine.send
        except GeneratorExit:
            context.run(coroutine.close)
            raise
        except BaseException as error:
            step, value = coroutine.throw, error
