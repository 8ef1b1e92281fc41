"""One request and its response: what the application receives and sends."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from socketkeep._base._errors import SocketkeepError
from socketkeep._serve.asgi._body import Body, Chunked, Sized
from socketkeep._serve.asgi._head import BadRequest, RequestHead
from socketkeep._serve.asgi._response import CONTINUE, AnswerInProgress, MessageError, no_message
from socketkeep._serve.asgi._types import Message
from socketkeep._stream._lifecycle import Detached

if TYPE_CHECKING:
    from socketkeep._stream._aio import AsyncConnection

#: Bytes of the body in one message, and of a file in one send.
_PART: Final = 65536
_PART_OF_FILE: Final = 262144
#: What is received while nobody reads it, the next requests: then the client's end is not seen.
_MOST_AHEAD: Final = 65536


class Exchange:
    """The two ends that an application is given: `receive` and `send`.

    request: what is answered.  response: the answer.  body: what is left of the request's body.
    gone: the client is.  detached: the connection has left, to other code.  attached, state: what
    that code is told.
    """

    __slots__ = (
        "_conn",
        "_continue",
        "_gone",
        "_park_after",
        "_raw",
        "_task",
        "_told",
        "_watch",
        "attached",
        "bad",
        "body",
        "detached",
        "gone",
        "limit",
        "response",
        "state",
    )

    def __init__(
        self,
        conn: AsyncConnection,
        request: RequestHead,
        response: AnswerInProgress,
        task: asyncio.Task[Any] | None,
    ) -> None:
        self._conn = conn
        self._raw = request.raw
        self._task = task  # the connection's, in which the application runs
        self.response = response
        self.attached = "accepted"
        self.state: Any = None
        self.detached = False
        self._park_after: float | None = None
        length = request.length
        self.body: Body | None = None  # None: there is none
        if length is None:
            self.body = Chunked()
        elif length:
            self.body = Sized(length)
        self._continue = request.expects and self.body is not None
        self._told = False  # the application has had all of the body
        self.gone = False
        self.bad: BadRequest | None = None  # what was wrong with the body
        self.limit: asyncio.Timeout | None = None  # until the response begins
        self._gone: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    def resume(self, attached: str, stream: dict[str, Any]) -> None:
        """Go on with a response that other code has begun, from what it has committed."""
        self.body = None  # the other code has had it
        self.attached = attached
        self.state = stream["state"]
        self.response.resume(stream["response"])
        self._stay()
        self._begin_watch()

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client is gone or the response over."""
        if self.gone:
            return {"type": "http.disconnect"}
        body = self.body
        if body is None or body.over:
            if not self._told:
                self._told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return await self._disconnect()
        if self.response.over:
            return {"type": "http.disconnect"}
        data = await self._receive_body(body)
        if data is None:
            return {"type": "http.disconnect"}
        self._told = body.over
        return {"type": "http.request", "body": data, "more_body": not body.over}

    async def _receive_body(self, body: Body) -> bytes | None:
        """Return the next part of the body; None when the client is gone, or it is none."""
        conn = self._conn
        try:
            if self._continue:
                self._continue = False
                if not self.response.begun and not conn.core.buffer.size:
                    await conn.send(CONTINUE)
            take = partial(body.take, conn.core.buffer)
            part = await conn.receive_by("recv", take, _PART, _cut_short)
            if conn.core.transport.peeks:
                conn.core.buffer.commit()  # a body may be larger than what the kernel holds
            return part
        except BadRequest as error:
            self.bad = error
        except SocketkeepError:
            pass  # the connection has ended, for whatever reason
        self.gone = True
        return None

    async def _disconnect(self) -> Message:
        """Wait until the client is gone, or the response over."""
        if not self.response.over:
            await asyncio.shield(self._begin_watch())
        return {"type": "http.disconnect"}

    def _begin_watch(self) -> asyncio.Future[None]:
        """Watch for the client's end; return what is done when there is one."""
        if self._gone is None:
            loop = asyncio.get_running_loop()
            self._gone = loop.create_future()
            self._watch = loop.create_task(self._wait_for_end())
        return self._gone

    async def _wait_for_end(self) -> None:
        """Wait for the client's end; the next requests may come, and are left to be read."""
        conn = self._conn
        buffer = conn.core.buffer

        def take(_: int) -> bytes | None:
            return b"full" if buffer.size >= _MOST_AHEAD else None

        try:
            came: bytes = await conn.receive_by("recv", take, 1, _nothing)
            if came:
                return
        except SocketkeepError:
            pass
        except Detached:
            # At a commit: the application is not in the middle of anything that counts.
            self.detached = True
            if self._task is not None:
                self._task.cancel()
        self.gone = True
        self._wake()

    def _wake(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    @property
    def watches(self) -> bool:
        """Return whether somebody waits, or has waited, for the client's end."""
        return self._gone is not None

    async def end(self) -> None:
        """Have who still waits for the client's end go on: the exchange is over."""
        self._wake()
        conn = self._conn
        if self._park_after is not None:
            conn.lease = conn.lease._replace(park_after=self._park_after)
            conn.deadline = conn.deadline  # have it look when to
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    def _commit(self, message: Message) -> None:
        """Note what other code can go on from with the response: the extension `socketkeep`."""
        response, body = self.response, self.body
        if body is not None and not body.over:
            raise MessageError("socketkeep.commit was sent before the request's body was received")
        if response.held or response.over:
            raise MessageError("socketkeep.commit was sent where no part of a body has gone before")
        if message.get("reply") is not None:
            raise MessageError("socketkeep.commit with a reply is not known here")
        conn = self._conn
        stream = {"head": self._raw, "response": response.export(), "state": message.get("state")}
        conn.commit({"stream": stream})
        self._stay()
        self._begin_watch()
        conn.committed_beside_receive()

    def _stay(self) -> None:
        """Keep the connection from being parked, where nobody would send the next event."""
        lease = self._conn.lease
        if lease.park_after is not None:
            self._park_after = lease.park_after
            self._conn.lease = lease._replace(park_after=None)

    async def send(self, message: Message) -> None:
        """Send a message of the application's.

        Raises MessageError for what cannot be sent, and an OSError when the client is gone.
        """
        if self.bad is not None:
            raise BrokenPipeError(errno.EPIPE, f"the request is bad: {self.bad.reason}")
        response = self.response
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise no_message(message) from None
        if kind == "http.response.body":
            data = response.body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start":
            if self.body is not None:
                self._close_if_unread(self.body)
            if self._conn.stops:  # told, so that the client sends nothing more
                response.keep_alive = False
            if self.limit is not None:
                self.limit.reschedule(None)
            response.start(message)
            return
        elif kind == "http.response.pathsend":
            await self._send_file(message)
            return
        elif kind == "socketkeep.commit":
            self._commit(message)
            return
        else:
            data = response.take(message)
        if data:
            await self._conn.send(data)
        if response.over and self._gone is not None:
            self._wake()

    def _close_if_unread(self, body: Body) -> None:
        """Have the connection end with this response if much of the body is still to come."""
        if not body.over and (self._continue or body.left > _PART):
            self.response.keep_alive = False

    async def _send_file(self, message: Message) -> None:
        """Send a file as the body: the extension `http.response.pathsend`."""
        path = message.get("path")
        if not isinstance(path, str) or not os.path.isabs(path):
            raise MessageError(f"http.response.pathsend has the path of a file, not {path!r}")
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(None, partial(open, path, "rb", buffering=0))
        try:
            left = os.fstat(file.fileno()).st_size
            self.response.body_is(left)
            while True:
                part = await loop.run_in_executor(None, file.read, min(left, _PART_OF_FILE))
                left -= len(part)
                more = bool(part) and left > 0
                body = {"type": "http.response.body", "body": part, "more_body": more}
                await self.send(body)
                if not more:
                    return
        finally:
            file.close()

    async def drop_rest(self) -> bool:
        """Read what is left of the body, and drop it; return whether that was little enough."""
        body = self.body
        if body is None or body.over:
            return True
        if self.gone or self._continue:
            return False
        dropped = 0
        while dropped + body.left <= _PART:
            data = await self._receive_body(body)
            if data is None:
                return False
            if _is_over(body):
                return True
            dropped += len(data)
        return False


def _cut_short() -> bytes:
    raise BadRequest(400, "the client ended in the middle of the body")


def _is_over(body: Body) -> bool:
    return body.over


def _nothing() -> bytes:
    return b""
