"""One connection: request after request, each answered before the next is looked at.

Between two requests nothing is uncommitted, so the connection is at a safe point: it moves to new
code, is parked, and outlives its worker.  From the moment that the application has a request until
its response is over it counts as sent: what the application does for it cannot be taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from socketkeep._base import _log
from socketkeep._base._errors import SocketkeepError, TimedOut
from socketkeep._base._tracebacks import users_place, users_traceback
from socketkeep._net._reporting import report_error
from socketkeep._serve.asgi._background import Next
from socketkeep._serve.asgi._context import run_in
from socketkeep._serve.asgi._exchange import Exchange
from socketkeep._serve.asgi._head import (
    BadRequest,
    HeadCache,
    Incomplete,
    RequestHead,
    is_websocket,
    read_head,
    take_head,
    take_rest_of_head,
)
from socketkeep._serve.asgi._response import AnswerInProgress, refusal
from socketkeep._serve.asgi._scope import Origin, http_scope, websocket_scope
from socketkeep._stream._lifecycle import Detached
from socketkeep._stream._record import HANDLER_ERRORS

if TYPE_CHECKING:
    from socketkeep._serve.asgi._site import Site
    from socketkeep._serve.asgi._types import Scope
    from socketkeep._stream._aio import AsyncConnection

#: Heads in a row that are nothing but empty lines.
_MOST_EMPTY_HEADS = 4


async def serve_connection(site: Site, conn: AsyncConnection) -> None:
    """Serve a connection until the client ends it, or a request does."""
    websocket = await _serve_http(site, conn)
    if websocket is not None:
        await websocket  # which may be there for days, without what served the requests


async def _serve_http(site: Site, conn: AsyncConnection) -> Awaitable[None] | None:
    """Serve a connection's requests; return what serves the WebSocket that one has opened."""
    origin = Origin(conn, site.trusted)
    state = conn.state
    after: Next | Awaitable[None]
    if conn.lease.redelivered and not _commits_by_itself(state):
        # Whoever died may have begun to answer.
        site.throttle.info(
            "closed after a crash",
            kind="closed after a crash",
            id=conn.id,
            peer=conn.peer,
            why="its worker has died in the middle of something that is not to be done again",
        )
        return None
    if isinstance(state, dict) and ("websocket" in state or "stream" in state):
        begun = state.get("websocket") or state["stream"]
        # Within the limits that held when it came: this server's may be narrower.
        request = read_head(begun["head"], len(begun["head"]))
        assert request is not None
        if "websocket" in state:
            return _websocket(site, conn, origin, request)
        after = await _serve_request(site, conn, origin, request, begun)
    else:
        conn.commit()  # else who receives a large body is taken for one that never commits
        after = await _serve_requests(site, conn, origin)
    if after is Next.GO_ON:
        conn.commit()
        after = await _serve_requests(site, conn, origin)
    if not isinstance(after, Next):
        return after
    if after is Next.LEFT:
        await origin.background.outcome()
    return None


def _commits_by_itself(state: Any) -> bool:
    """Return whether it is of a WebSocket whose application is to have a message again."""
    return isinstance(state, dict) and "websocket" in state and state["websocket"]["exact"]


async def _serve_requests(
    site: Site, conn: AsyncConnection, origin: Origin
) -> Next | Awaitable[None]:
    """Serve request after request.

    Returns END, LEFT if another task does it from here on, or what serves a WebSocket.
    """
    background = origin.background
    cache = HeadCache(site.options.limit_request_fields)
    bound = site.options.limit_request_head
    take = partial(take_head, conn.core.buffer)
    empty = 0
    try:
        while True:
            try:
                head = await conn.receive_by("recv", take, bound, _end)
            except Incomplete:
                head = await _rest_of_head(site, conn)
            if not head:
                return Next.END
            found = cache.read(head)
            if found is None:
                empty += 1
                if empty > _MOST_EMPTY_HEADS:
                    raise BadRequest(400, "there are only empty lines")
                continue
            empty = 0
            if is_websocket(found):
                return _websocket(site, conn, origin, found)
            after = await _serve_request(site, conn, origin, found)
            if after is not Next.GO_ON:
                return after
            if background.running:
                background.uncommitted = True
            else:
                conn.commit()
    except BadRequest as error:
        await _refuse(site, conn, error)
        return Next.END


async def _rest_of_head(site: Site, conn: AsyncConnection) -> bytes:
    """Return a head of which a part is there, b"" when no more comes.  Raises BadRequest."""
    limit = site.options.request_head_timeout or None
    take = partial(take_rest_of_head, conn.core.buffer)
    bound = site.options.limit_request_head
    try:
        return await conn.receive_by("recv", take, bound, _end, timeout=limit)
    except TimedOut:
        raise BadRequest(408, f"the request's head has not come within {limit:g} s") from None


def _end() -> bytes:
    return b""


async def _refuse(site: Site, conn: AsyncConnection, error: BadRequest) -> None:
    """Answer a bad request, and note it at a bounded rate."""
    note_bad_request(site, conn, error)
    await conn.send(refusal(error.status, error.reason, site.default_headers()))


def note_bad_request(site: Site, conn: AsyncConnection, error: BadRequest) -> None:
    """Note a request that is not served, and whose it is, at a bounded rate."""
    site.throttle.info(
        "bad request",
        kind=f"bad request {error.status}",
        id=conn.id,
        peer=conn.peer,
        status=error.status,
        error=error.reason,
    )


def _websocket(
    site: Site, conn: AsyncConnection, origin: Origin, request: RequestHead
) -> Awaitable[None]:
    """Return what serves a WebSocket; it has the connection from here on."""
    scope = websocket_scope(site, origin, request)
    serve = site.serve_websocket
    if serve is None:
        raise BadRequest(501, "WebSockets are not served here")
    return serve(conn, site, scope, request.raw)


async def _serve_request(
    site: Site,
    conn: AsyncConnection,
    origin: Origin,
    request: RequestHead,
    begun: dict[str, Any] | None = None,
) -> Next:
    """Have the application answer a request; return what becomes of the connection.

    begun: what other code has committed of the response.
    """
    response = AnswerInProgress(
        request.method,
        request.http_version,
        keep_alive=request.keep_alive,
        takes_trailers=request.takes_trailers,
        defaults=site.default_headers(),
    )
    exchange = Exchange(conn, request, response, origin.task)
    background = origin.background
    if begun is None:
        conn.core.ledger.sending()
        background.uncommitted = False
    else:
        exchange.resume(conn.attached, begun)
    scope = http_scope(site, origin, request)
    scope["extensions"]["socketkeep"] = {"attached": exchange.attached, "state": exchange.state}
    left = noted = False

    def note() -> None:
        nonlocal noted
        if site.request_log is not None and not noted and not exchange.detached:
            site.request_log.note(scope, request, response.status, response.body_size)
            noted = True

    def waits() -> None:
        nonlocal left
        if response.over and not left:
            left = True
            note()
            background.begin(_go_on(site, conn, origin, exchange))

    try:
        keep = await _run(site, conn, request, exchange, scope, waits)
    except asyncio.CancelledError:
        if left:
            background.cancel()
        raise
    finally:
        note()
        if left:
            background.end()
    if left:
        return Next.LEFT
    if keep and (exchange.body is None or await exchange.drop_rest()):
        return Next.GO_ON
    return Next.END


async def _go_on(site: Site, conn: AsyncConnection, origin: Origin, exchange: Exchange) -> Next:
    """Serve on a connection whose last response is over, and its application not."""
    origin.task = asyncio.current_task()
    if exchange.watches:
        await exchange.end()
    if not exchange.response.keep_alive or not await exchange.drop_rest():
        return Next.END
    origin.background.uncommitted = True
    after = await _serve_requests(site, conn, origin)
    if isinstance(after, Next):
        return after
    await after
    return Next.END


async def _run(
    site: Site,
    conn: AsyncConnection,
    request: RequestHead,
    exchange: Exchange,
    scope: Scope,
    waits: Callable[[], None],
) -> bool:
    """Run the application for a request, and end what it leaves unfinished.

    Returns whether its response lets the connection go on.
    """
    context = copy_context()
    try:
        called: Any = context.run(site.app, scope, exchange.receive, exchange.send)
        if type(called) is not CoroutineType:
            called = _awaiting(called)
        if site.options.request_timeout:
            async with asyncio.timeout(site.options.request_timeout) as exchange.limit:
                await run_in(context, called, waits)
        else:
            await run_in(context, called, waits)
    except asyncio.CancelledError as error:
        if exchange.detached:
            raise Detached("the connection was detached from this worker") from None
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Of something that the application waited for: nobody has cancelled this.
        await _end_failed(site, conn, request, exchange, error)
        return False
    except (Exception, SystemExit) as error:  # of this application: not the worker's end
        await _end_failed(site, conn, request, exchange, error)
        return False
    finally:
        if exchange.watches:
            await exchange.end()
    if not exchange.response.over:
        await _end_unfinished(site, conn, request, exchange)
        return False
    return exchange.response.keep_alive


async def _awaiting(called: Any) -> None:
    """Await what a callable has returned that is no coroutine of Python's own."""
    await called


async def _end_failed(
    site: Site,
    conn: AsyncConnection,
    request: RequestHead,
    exchange: Exchange,
    error: BaseException,
) -> None:
    """Tell of an application that has raised, and answer what can be answered."""
    parts = list(_parts(error))
    if exchange.bad is not None:
        await _end_unfinished(site, conn, request, exchange)
        return
    if all(isinstance(part, SocketkeepError) and part.peer == conn.peer for part in parts):
        return  # the client went, or the server ended it: nothing of the application's
    if exchange.gone and not exchange.response.over:
        # As frameworks say that they were told so: Starlette's ClientDisconnect.
        site.throttle.info(
            "application raised when its client had gone",
            kind="client gone",
            id=conn.id,
            peer=conn.peer,
            request=f"{request.method} {request.target.decode('latin-1')}",
            error=repr(parts[0]),
            at=users_place(parts[0]),
        )
        return
    limit = exchange.limit
    if limit is not None and limit.expired():
        reason = f"it has not begun to answer within {site.options.request_timeout:g} s"
        _note_failure(site, conn, request, reason)
        await _answer_failure(site, conn, request, exchange, 503)
        return
    conn.core.record[HANDLER_ERRORS] += 1
    _log.error(
        "application failed",
        id=conn.id,
        peer=conn.peer,
        request=f"{request.method} {request.target.decode('latin-1')}",
        traceback=users_traceback(error),
    )
    report_error(conn, error)
    await _answer_failure(site, conn, request, exchange, 500)


def _parts(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _parts(part)
    else:
        yield error


async def _end_unfinished(
    site: Site, conn: AsyncConnection, request: RequestHead, exchange: Exchange
) -> None:
    """End a connection whose request has no whole response."""
    if exchange.bad is not None:
        note_bad_request(site, conn, exchange.bad)
        await _answer_failure(site, conn, request, exchange, exchange.bad.status)
    elif not exchange.gone:
        reason = "it has returned before the end of its response"
        if not exchange.response.begun:
            reason = "it has returned without a response"
        _note_failure(site, conn, request, reason)
        await _answer_failure(site, conn, request, exchange, 500)


def _note_failure(site: Site, conn: AsyncConnection, request: RequestHead, reason: str) -> None:
    conn.core.record[HANDLER_ERRORS] += 1
    site.throttle.error(
        "application failed",
        kind=reason,
        id=conn.id,
        peer=conn.peer,
        request=f"{request.method} {request.target.decode('latin-1')}",
        error=reason,
    )


async def _answer_failure(
    site: Site, conn: AsyncConnection, request: RequestHead, exchange: Exchange, status: int
) -> None:
    """Answer with a status if nothing has gone out yet, else let the client see that it is cut."""
    response = exchange.response
    if not response.held:
        if response.close_delimited and not response.over:
            await conn.abort()  # an end in order would be the end of the body
        return
    response.status = status
    reason = "Internal Server Error"
    if exchange.bad is not None:
        reason = exchange.bad.reason
    elif status == 503:
        reason = "Service Unavailable"
    is_head = request.method == "HEAD"
    await conn.send(refusal(status, reason, site.default_headers(), is_head=is_head))
