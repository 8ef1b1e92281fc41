"""The steps of a giving or a taking, gone through on a running loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

from socketkeep._stream._async_sender import settle
from socketkeep._stream._modes import check_seconds
from socketkeep._stream._transfer import T, Want, timed_out


async def drive_async(steps: Generator[Want, None, T], operation: str, timeout: float | None) -> T:
    """Go through the steps, awaiting what they want; raise TimedOut when it takes too long."""
    begun = time.monotonic()
    end = None if timeout is None else begun + check_seconds(timeout)
    try:
        while True:
            want = next(steps)
            left = None if end is None else max(0.0, end - time.monotonic())
            if not await _ready(want, left):
                steps.close()
                raise timed_out(operation, begun, timeout)
    except StopIteration as done:
        value: T = done.value
        return value


async def _ready(want: Want, timeout: float | None) -> bool:
    fd, direction = want
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()
    if direction == "read":
        loop.add_reader(fd, settle, ready, True)
    else:
        loop.add_writer(fd, settle, ready, True)
    timer = None if timeout is None else loop.call_later(timeout, settle, ready, False)
    try:
        return await ready
    finally:
        if timer is not None:
            timer.cancel()
        if direction == "read":
            loop.remove_reader(fd)
        else:
            loop.remove_writer(fd)
