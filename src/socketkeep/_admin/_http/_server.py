"""HTTP/1.1 on a listener: bounded in clients, in the size of requests and in time."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from io import FileIO
from typing import Final

import h11

from socketkeep._admin._guests import Full, Guests
from socketkeep._admin._http._pages import Page, Pages
from socketkeep._admin._http._source import ReportSource
from socketkeep._base import _log

_MOST_CLIENTS: Final = 64
_MOST_OF_ONE: Final = 32  # by address; that of a proxy is one
_MOST_HEAD: Final = 16384  # bytes of a request's line and headers
#: Seconds: for a request to be whole, until the next one on the connection, and for a client to
#: take what it is sent.
_HEAD_TIMEOUT: Final = 10.0
_IDLE_TIMEOUT: Final = 60.0
_WRITE_TIMEOUT: Final = 10.0


class HttpServer:
    """Answers GET and HEAD from what `source` says, to who has the token, if there is one.

    for_pushes: the token of who may push, by POST; "": nobody may.
    """

    def __init__(self, source: ReportSource, token: str, for_pushes: str = "") -> None:
        self._pages = Pages(source, token, for_pushes)
        self._clients: Guests[asyncio.Task[None]] = Guests(
            _MOST_CLIENTS, _MOST_OF_ONE, _MOST_CLIENTS
        )
        self._throttle = _log.Throttle()

    async def run(self, listener: socket.socket, lifeline: FileIO) -> None:
        """Serve until `lifeline` reads as ended."""
        over = asyncio.Event()
        loop = asyncio.get_running_loop()

        def heard() -> None:
            if not os.read(lifeline.fileno(), 1024):
                loop.remove_reader(lifeline.fileno())
                over.set()

        server = await asyncio.start_server(self._client, sock=listener)
        loop.add_reader(lifeline.fileno(), heard)
        await over.wait()
        server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        named = writer.get_extra_info("peername")
        peer = named[0] if isinstance(named, tuple) else named
        try:
            silent = self._clients.make_room(peer)
        except Full:
            writer.transport.abort()
            return
        if silent is not None:
            self._clients.leave(silent)
            silent.cancel()
        self._clients.enter(task, peer)
        try:
            await _Conversation(
                reader,
                writer,
                self._pages,
                partial(self._clients.busy, task),
                partial(self._clients.idle, task),
            ).hold()
        except (OSError, TimeoutError, h11.ProtocolError, asyncio.CancelledError):
            pass  # gone, too slow, or not HTTP: nobody is there to be told
        except Exception as error:
            self._throttle.error(
                "internal error, please report it",
                kind=_log.place_of(error),
                error_text="".join(traceback.format_exception(error)),
            )
        finally:
            self._clients.leave(task)
            if writer.transport.get_write_buffer_size():
                _reset(writer)
            else:
                writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection whose client does not read, and have the kernel hold nothing for it."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Conversation:
    """One connection: requests, one after another."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pages: Pages,
        busy: Callable[[], None],
        idle: Callable[[], None],
    ) -> None:
        """busy, idle: called when a request is there to be answered, and when it has been."""
        self._reader = reader
        self._writer = writer
        self._pages = pages
        self._busy = busy
        self._idle = idle
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)

    async def hold(self) -> None:
        """Answer until either side has had enough."""
        patience = _HEAD_TIMEOUT
        while True:
            try:
                async with asyncio.timeout(patience):
                    request, body = await self._request()
            except h11.RemoteProtocolError as error:
                if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    text = f"{error}\n"
                    await self._answer(Page(error.error_status_hint, text.encode()), None)
                return
            if request is None:
                return
            self._busy()
            if isinstance(body, Page):
                await self._answer(body, request)
                return  # what it still sends is not waited for
            await self._answer(await self._pages.reply(request, body), request)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()
            self._idle()
            patience = _IDLE_TIMEOUT

    async def _request(self) -> tuple[h11.Request | None, bytes | Page]:
        """Return the next request once it is whole, and its body; None at the end.

        Instead of the body the answer to what is refused for its head.
        """
        request: h11.Request | None = None
        most = 0
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._reader.read(_MOST_HEAD))
            elif isinstance(event, h11.Request):
                request = event
                room = self._pages.room_for_body(request)
                if isinstance(room, Page):
                    return request, room
                most = room
            elif isinstance(event, h11.EndOfMessage):
                return request, bytes(body)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > most:
                    text = f"a message has at most {most} bytes" if most else "a GET has no body"
                    raise h11.RemoteProtocolError(text, error_status_hint=413)
            else:
                return None, b""

    async def _answer(self, reply: Page, request: h11.Request | None) -> None:
        headers = [*reply.headers]
        if not isinstance(reply.body, bytes):
            headers.append(("connection", "close"))
        else:
            headers.append(("content-length", str(len(reply.body))))
        reason = HTTPStatus(reply.status).phrase
        await self._send(h11.Response(status_code=reply.status, headers=headers, reason=reason))
        # h11 knows of a HEAD that its answer has no body, and sends none.
        if isinstance(reply.body, bytes):
            await self._send(h11.Data(data=reply.body))
        elif request is not None and request.method != b"HEAD":
            await self._stream(reply.body)
        await self._send(h11.EndOfMessage())

    async def _stream(self, parts: AsyncGenerator[bytes, None]) -> None:
        async with aclosing(parts):
            async for part in parts:
                if self._reader.at_eof() or self._writer.is_closing():
                    raise ConnectionResetError
                await self._send(h11.Data(data=part))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            async with asyncio.timeout(_WRITE_TIMEOUT):
                await self._writer.drain()
