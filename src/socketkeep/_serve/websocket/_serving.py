"""One WebSocket of an ASGI application, from its handshake to its end or its move.

The connection's handler reads; the application runs in a task beside it, so that pings are answered
and the peer's end is seen whatever the application does, and so that the connection can leave at
once when the application still has things to put away.

A commit of the connection is made where all that has come was given to the application, which asks
for more: then it is at a safe point, and what stands in the commit is enough to go on elsewhere.
Everywhere else the connection is held, by a ledger that says *sent*.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from enum import Enum
from secrets import token_bytes
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from socketkeep._base import _log
from socketkeep._base._errors import SocketkeepError, StateTooLarge, WouldBlock
from socketkeep._base._tracebacks import users_traceback
from socketkeep._net._reporting import report_error
from socketkeep._serve.asgi._head import read_head
from socketkeep._serve.asgi._response import MessageError, no_message
from socketkeep._serve.asgi._types import Message, Scope
from socketkeep._serve.websocket._deflate import Deflate
from socketkeep._serve.websocket._handshake import (
    HandshakeRefusal,
    Headers,
    Upgrade,
    accepted,
    ask,
    denied,
    refused,
)
from socketkeep._serve.websocket._protocol import Control, FrameKind, WebSocket
from socketkeep._serve.websocket._rounds import Rounds
from socketkeep._serve.websocket._settings import WebSocketSettings
from socketkeep._serve.websocket._trim import Trimmer
from socketkeep._stream._committed import STATE_LIMIT, pack_state, unpack_state
from socketkeep._stream._core import CHUNK
from socketkeep._stream._lease import Order, handling
from socketkeep._stream._lifecycle import Detached
from socketkeep._stream._record import HANDLER_ERRORS

if TYPE_CHECKING:
    from socketkeep._config._server_options import ServeConfig
    from socketkeep._serve.asgi._site import Site
    from socketkeep._stream._aio import AsyncConnection

OnPush = Callable[..., Awaitable[object]]

#: So much is read ahead of the application: as many messages, or as many bytes of them.
_MOST_AHEAD: Final = 16
_MOST_BYTES_AHEAD: Final = 65536
#: A frame of which more than this has come is waited for: it is not carried to another worker.
_MOST_CARRIED: Final = 4096
#: Seconds for the peer to answer a Close.
_CLOSING_TIME: Final = 10.0
#: Seconds of a deadline, at most, that are for closing in an orderly way.
_LAST_MOMENT: Final = 1.0
_MOST_OF_DENIAL: Final = 1 << 20
#: What the application says of how the WebSocket is called, by the key of what it says.
_CALLED: Final = {
    "socketkeep.name": "name",
    "socketkeep.join": "group",
    "socketkeep.leave": "group",
    "socketkeep.labels": "labels",
    "socketkeep.pushes": "to",
}
#: Where pushes go: to the service's function, the application's `receive`, or the peer as they are.
_PUSHES_TO: Final = ("on_push", "receive", "text", "bytes")

_NORMAL: Final = 1000
_ABNORMAL: Final = 1006
_FAILURE: Final = 1011
_RESTART: Final = 1012

#: What is sent here counts as no answer of the application's: see `handling`.
_ELSEWHERE: Final = Context()
_throttle: Final = _log.Throttle()


class Disconnected(OSError):
    """The WebSocket has ended, or gone to another worker: nothing can be sent over it here."""


class _Pushed(bytes):
    """A push, among the messages that have come."""


class _Phase(Enum):
    CONNECTING = "connecting"
    DENYING = "denying"
    OPEN = "open"
    OVER = "over"


class WebSockets:
    """All WebSockets of one application in one worker.

    on_push: the service's, called with a scope, the message and a `send`.
    """

    def __init__(self, options: ServeConfig, on_push: OnPush | None = None) -> None:
        self.settings = WebSocketSettings.of(options)
        self.on_push = on_push
        self.rounds = Rounds(self.settings.ping_interval)
        self.trimmer = Trimmer()
        self.chores: set[asyncio.Task[None]] = set()  # the loop itself would forget them
        self.called: dict[str, _Session] = {}  # by id of the connection: what is called something

    def pushed(self, conn: AsyncConnection, message: bytes) -> Awaitable[None] | None:
        """Something is pushed to a connection, in a receive of its reader's: see `Service`."""
        session = self.called.get(conn.id)
        return None if session is None else session.pushed(message)

    def serve(
        self, conn: AsyncConnection, site: Site, scope: Scope, head: bytes
    ) -> Coroutine[Any, Any, None]:
        """Serve a request for a WebSocket, or go on with one that has come from elsewhere.

        head: the head of its request, from which the scope was made.  What stands behind it is
        unread.
        """
        settings = self.settings
        saved = (conn.state or {}).get("websocket")
        if saved is not None:
            deflate = saved.get("deflate")
            socket = WebSocket(settings.most, Deflate(*deflate) if deflate else None)
            session = _Session(self, conn, site, scope, head, socket)
            session.restore(saved)
            return session.serve()
        asked = ask(scope["headers"], settings.window_bits)
        if isinstance(asked, HandshakeRefusal):
            _note(conn, "handshake refused", asked.why)
            _log_request(site, scope, head, asked.status)
            return conn.send(refused(asked, site.default_headers()))
        session = _Session(self, conn, site, scope, head, WebSocket(settings.most, asked.deflate))
        session.asked = asked
        return session.serve()


class _Session:
    """The two ends of one WebSocket: the connection's, and the application's.

    asked: the request, where the handshake is still to be answered.
    """

    __slots__ = (
        "_ahead",
        "_all",
        "_answer",
        "_app",
        "_conn",
        "_deadline",
        "_denial",
        "_dirty",
        "_exact",
        "_fed",
        "_gone",
        "_head",
        "_inbox",
        "_keeps",
        "_lazy",
        "_loop",
        "_moved_on",
        "_opening",
        "_order",
        "_packed",
        "_park_after",
        "_phase",
        "_pinged",
        "_pushes_to",
        "_reading",
        "_room",
        "_scope",
        "_sends",
        "_settings",
        "_ships",
        "_site",
        "_socket",
        "_stained",
        "_state",
        "_timer",
        "_told",
        "_turn",
        "_wanted",
        "asked",
    )

    def __init__(
        self,
        all_of_them: WebSockets,
        conn: AsyncConnection,
        site: Site,
        scope: Scope,
        head: bytes,
        socket: WebSocket,
    ) -> None:
        self.asked: Upgrade | None = None
        self._conn = conn
        self._site = site
        self._scope = scope
        self._head = head
        self._all = all_of_them
        self._settings = settings = all_of_them.settings
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._phase = _Phase.CONNECTING
        self._opening: asyncio.Future[None] | None = None  # answered, or over before that
        self._told = False  # the application has received websocket.connect
        self._answer: tuple[str | None, Headers] | None = None  # what it accepted with
        self._denial: tuple[int, Headers, bytearray] | None = None
        self._gone: Message | None = None  # what it is told at the end
        self._app: asyncio.Task[None] | None = None

        self._pushes_to: str | None = None  # as the application says
        self._inbox: list[str | bytes | _Pushed] = []
        self._ahead = 0  # bytes in it
        self._wanted: asyncio.Future[None] | None = None  # the application waits for a message
        self._room: asyncio.Future[None] | None = None  # the reader waits until one is taken
        self._reading = False  # the reader waits for bytes, and all that came is in the inbox
        self._fed = 0  # bytes of a frame that the connection has beside the protocol
        self._sends = 0  # that have not ended
        self._moved_on = False  # something has been dealt with since the last commit

        self._keeps = conn.lease.resumable and settings.resume != "off"
        self._exact = False  # the application commits by itself
        self._dirty = False  # and has received or sent since
        self._state: bytes | None = None  # what it has committed
        self._packed: bytes | None = None
        self._park_after = conn.lease.park_after
        # With it a state is shipped by each commit, before anything counts as clean.
        self._ships = socket.deflate is not None and conn.hooks.shelf is not None

        # What was received is in the kernel until it is committed, and a message is not looked at
        # before it is wanted: so a reply's commit ends where the message that it answers does.
        self._lazy = conn.core.transport.peeks
        self._stained = False  # what has gone out since the last commit is not on record
        self._turn: asyncio.Future[None] | None = None  # lazy: when what is going out has gone

        self._order: Order | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._pinged = b""

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `_record` has made."""
        subprotocol, headers = saved["answer"]
        self._answer = subprotocol, [(name, value) for name, value in headers]
        self._state = saved.get("state")
        self._exact = saved["exact"]
        self._pushes_to = saved.get("pushes_to")
        self._keeps = self._keeps or self._exact

    # From the beginning to the end.

    async def serve(self) -> None:
        """Have the application serve it, until it has ended or left."""
        conn, lease = self._conn, self._conn.lease
        conn.hooks.ordered = self._ordered
        if not self._exact and lease.park_after is not None:
            conn.park_later(None)
        if not self._keeps:
            conn.core.commit(conn.core.committed)  # nobody is to be told that a commit is missing
            self._hold()
        if conn.order is not None:
            self._ordered(conn.order)
        app = None
        if conn.registration is not None:
            self._all.called[conn.id] = self
        try:
            if lease.attached == "parked" and self._answer is not None:
                await self._deal_with_what_woke()
            state = None if self._state is None else unpack_state(self._state, Any)
            self._scope["extensions"] = {
                "websocket.http.response": {},
                "socketkeep": {"attached": lease.attached, "state": state},
                "socketkeep.push": {
                    "name": conn.name,
                    "groups": sorted(conn.groups),
                    "labels": dict(conn.labels),
                },
            }
            app = self._app = self._loop.create_task(self._run_app(), name="websocket application")
            self._site.leaving.add(app)
            app.add_done_callback(self._site.leaving.discard)
            if self._answer is not None or await self._is_opened():
                if self._gone is None:
                    self._tick_later()
                    await self._read()
            elif self._denial is not None:
                status, headers, body = self._denial
                _log_request(self._site, self._scope, self._head, status, len(body))
                defaults = self._site.default_headers()
                await conn.send(denied(status, headers, bytes(body), defaults))
        except Detached:
            self._leave()
            raise
        except SocketkeepError:
            self._end(_ABNORMAL)
        except asyncio.CancelledError:
            if app is not None:
                app.cancel()
            raise
        finally:
            self._all.called.pop(conn.id, None)
            self._stop_timers()
        with suppress(SocketkeepError):
            await conn.close()
        self._end(_ABNORMAL)
        conn.hooks.ordered = None
        if app is None:
            return
        try:
            await asyncio.wait((app,))
        except asyncio.CancelledError:
            app.cancel()
            raise

    async def _is_opened(self) -> bool:
        """Wait for the application's answer to the handshake; return whether it has accepted."""
        self._opening = self._loop.create_future()
        try:
            await self._opening
        finally:
            self._opening = None
        return self._answer is not None

    def _opened(self) -> None:
        """Have the reader look at the answer."""
        if self._opening is not None and not self._opening.done():
            self._opening.set_result(None)

    async def _run_app(self) -> None:
        failed = False
        try:
            await self._site.app(self._scope, self.receive, self.send)
        except SystemExit as error:
            failed = True  # of this WebSocket's application, not of the worker
            self._note_failure("it has raised SystemExit")
            report_error(self._conn, error)
        except Exception as error:
            failed = True
            # Frameworks raise it where the application does not care that the peer has gone.
            if self._phase is not _Phase.OVER or not _tells_of_end(error):
                self._note_failure("", traceback=users_traceback(error))
                report_error(self._conn, error)
        if self._phase is _Phase.OVER:
            return
        if self._answer is None:
            if not failed:
                self._note_failure("it has returned without an answer")
            self._refuse(500, b"Internal Server Error\n")
            return
        with suppress(OSError):
            await self._close(_FAILURE if failed else _NORMAL)

    def _refuse(self, status: int, body: bytes) -> None:
        """Answer the handshake in the application's place."""
        self._phase = _Phase.OVER
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        self._denial = status, headers, bytearray(body)
        self._opened()

    def _note_failure(self, reason: str, **more: str) -> None:
        self._conn.core.record[HANDLER_ERRORS] += 1
        if reason:
            more["error"] = reason
        _log.error(
            "application failed",
            id=self._conn.id,
            peer=self._conn.peer,
            request=f"WebSocket {self._scope['path']}",
            **more,
        )

    def _leave(self) -> None:
        """Have the next worker go on, and the application here know that it does not."""
        # Nothing was received or sent since the commit.  The windows may be those of now.
        self._conn.core.committed = pack_state(self._record())
        self._rest()
        silent = self._settings.resume == "silent" and not self._exact
        if silent and self._app is not None:
            self._phase = _Phase.OVER
            self._site.leaving.discard(self._app)
        else:
            self._end(_RESTART)
        self._conn.hooks.ordered = None  # which refers to all of this

    def _end(self, code: int, reason: str = "") -> None:
        """Have the application know that it is over."""
        if self._gone is None:
            self._phase = _Phase.OVER
            self._gone = {"type": "websocket.disconnect", "code": code, "reason": reason}
            self._conn.hooks.deaf = True
            self._wake()
        self._opened()

    # The application's ends.

    async def receive(self) -> Message:
        """Return the application's next event."""
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        while not self._inbox:
            if self._gone is not None:
                return dict(self._gone)
            if self._wanted is not None:
                raise MessageError("another task of the application receives already")
            self._wanted = wanted = self._loop.create_future()
            self._settle()
            if self._lazy:
                self._make_room()
            try:
                await wanted
            finally:
                if self._wanted is wanted:
                    self._wanted = None
        message = self._inbox.pop(0)
        self._dirty = True
        self._ahead -= len(message)
        self._make_room()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        if type(message) is _Pushed:
            return {"type": "socketkeep.push", "message": bytes(message)}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: Message) -> None:
        """Do what the application says.

        Raises MessageError for what cannot be sent, and Disconnected when the WebSocket is over.
        """
        kind = _kind(message)
        if kind in _CALLED:
            self._call(kind, message)
            return
        if self._phase is _Phase.OPEN:
            if kind == "websocket.send":
                if self._exact and handling.get() is self._conn:
                    self._dirty = True
                if self._turn is not None:
                    await self._until_turn()
                waits = self._put(self._frame(message))
                if waits is not None:
                    await waits
            elif kind == "websocket.close":
                await self._close(message.get("code", _NORMAL), message.get("reason") or "")
            elif kind == "socketkeep.commit":
                reply = message.get("reply")
                if not isinstance(reply, str | bytes | None):
                    raise MessageError(
                        "the reply of socketkeep.commit is text or bytes, not "
                        f"{type(reply).__name__}"
                    )
                if self._turn is not None:
                    await self._until_turn()
                self._commit(message.get("state"))
                waits = self._reply(reply)
                if waits is not None:
                    await waits
            else:
                raise _out_of_order(kind)
        elif self._phase is _Phase.OVER:
            if kind == "websocket.accept" and self._answer is not None:
                return  # it ended before the new code could know of it
            raise Disconnected("the WebSocket has ended, or gone to another worker")
        elif self._answer is not None:
            await self._answer_again(kind, message)
        elif self._phase is _Phase.DENYING:
            self._deny(kind, message)
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            self._denial = 403, [], bytearray()
            self._phase = _Phase.OVER
            self._opened()
        elif kind == "websocket.http.response.start":
            headers = _headers(message)
            status: Any = message.get("status")
            denied(status, headers, b"", b"")  # raises for what cannot be sent
            self._denial = status, headers, bytearray()
            self._phase = _Phase.DENYING
        else:
            raise _out_of_order(kind)

    def _frame(self, message: Message) -> bytes:
        text = message.get("text")
        if text is not None:
            if not isinstance(text, str):
                raise MessageError(
                    f"the text of websocket.send is a str, not {type(text).__name__}"
                )
            return self._socket.text(text)
        data = message.get("bytes")
        if data is None:
            raise MessageError("websocket.send has neither text nor bytes")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise MessageError(f"the bytes of websocket.send are bytes, not {type(data).__name__}")
        return self._socket.binary(bytes(data))

    async def _accept(self, message: Message) -> None:
        assert self.asked is not None
        answer = message.get("subprotocol"), _headers(message)
        data = accepted(self.asked, *answer, self._site.default_headers())
        self.asked = None
        self._answer = answer
        self._phase = _Phase.OPEN
        _log_request(self._site, self._scope, self._head, 101)
        if self._keeps and not self._fits():
            self._keeps = False
            _throttle.warning(
                "a WebSocket cannot be kept: its request's head is too large",
                id=self._conn.id,
                size=len(self._head),
            )
        try:
            await self._put_whole(data)
        finally:
            self._opened()

    async def _answer_again(self, kind: str, message: Message) -> None:
        """Take the answer to a handshake that has been answered long ago."""
        if kind == "websocket.accept":
            self._phase = _Phase.OPEN
            if (message.get("subprotocol"), _headers(message)) != self._answer:
                _note(self._conn, "accepted otherwise", "the new code accepts a kept one otherwise")
                await self._close(_RESTART)
            return
        code = message.get("code", _NORMAL) if kind == "websocket.close" else _RESTART
        if not kind.startswith("websocket.http.response") and kind != "websocket.close":
            raise _out_of_order(kind)
        self._phase = _Phase.OPEN
        await self._close(code, message.get("reason") or "")

    def _deny(self, kind: str, message: Message) -> None:
        if kind != "websocket.http.response.body":
            raise _out_of_order(kind)
        assert self._denial is not None
        body = self._denial[2]
        body += message.get("body", b"")
        if len(body) > _MOST_OF_DENIAL:
            raise MessageError(f"a denial has {_MOST_OF_DENIAL} bytes at most")
        if not message.get("more_body", False):
            self._phase = _Phase.OVER
            self._opened()

    def _commit(self, state: object) -> None:
        """Take the application's commit: it goes on from `state`."""
        packed = None if state is None else pack_state(state)
        before, self._state = self._state, packed
        if not self._fits():
            self._state = before
            raise StateTooLarge(
                "commit: the state, the request's head and the compression's windows take more "
                f"than {STATE_LIMIT} bytes: commit what identifies the state, and keep the rest "
                "elsewhere"
            )
        self._packed = None
        self._dirty = False
        if not self._exact:
            self._exact = True
            self._keeps = self._conn.lease.resumable
            self._conn.park_later(self._park_after)

    def _reply(self, reply: str | bytes | None) -> Awaitable[None] | None:
        """Send a commit's reply, None for none; on record with the commit, where that can be."""
        socket = self._socket
        frame = b""
        if reply is not None:
            frame = socket.text(reply) if isinstance(reply, str) else socket.binary(reply)
        begun = self._wanted is not None or self._inbox or not socket.between_messages
        if not self._lazy or begun or socket.closing or self._lacks_rest():
            return self._put(frame) if frame else None
        conn = self._conn
        packed = pack_state(self._record())
        if frame and not conn.has_record_for(len(frame) + len(packed)):
            self._bind()
        steps = conn.reply_but(self._not_fed, frame, packed).__await__()
        try:
            awaited = next(steps)
        except StopIteration:
            self._has_replied()
            return None
        except SocketkeepError as error:
            raise Disconnected(str(error)) from error
        return self._wait_beside(self._go_on_replying(awaited, steps))

    async def _go_on_replying(self, awaited: Any, steps: Any) -> None:
        try:
            await _rest(awaited, steps)
        except SocketkeepError as error:
            raise Disconnected(str(error)) from error
        else:
            self._has_replied()
        finally:
            self._end_turn()

    def _has_replied(self) -> None:
        self._stained = self._moved_on = False
        if self._conn.core.life.sends:
            self._hold()  # until the application asks for more

    def _lacks_rest(self) -> bool:
        """Return whether nobody else has what was received and not looked at."""
        core = self._conn.core
        return self._socket.rest_size > core.transport.kept + len(core.buffer.replay())

    def _not_fed(self) -> bytes:
        """Return what was received and not looked at, but for what counts as unread anyway."""
        return b"" if self._fed else self._socket.rest

    # What it is called, and what is pushed to it.

    def _call(self, kind: str, message: Message) -> None:
        """Take what the application says of how it is called.  Raises as `send` does."""
        conn = self._conn
        if self._phase is _Phase.OVER:
            raise Disconnected("the WebSocket has ended, or gone to another worker")
        if self._phase is _Phase.DENYING:
            raise _out_of_order(kind)
        try:
            said = message[_CALLED[kind]]
            if kind == "socketkeep.name":
                conn.name = said
            elif kind == "socketkeep.join":
                conn.join(said)
            elif kind == "socketkeep.leave":
                conn.leave(said)
            elif kind == "socketkeep.labels":
                conn.labels = said
            elif said not in _PUSHES_TO:
                raise ValueError(f"to is one of {', '.join(_PUSHES_TO)}, not {said!r}")
            elif said == "on_push" and self._all.on_push is None:
                raise ValueError("to is on_push, and the application has no Service with one")
            else:
                self._pushes_to = said
                self._packed = None
        except KeyError:
            raise MessageError(f"{kind} lacks {_CALLED[kind]!r}") from None
        except (TypeError, ValueError) as error:
            raise MessageError(f"{kind}: {error}") from error
        except SocketkeepError as error:
            raise Disconnected(str(error)) from error
        self._all.called[conn.id] = self
        if self._wanted is not None:
            self._settle()

    def pushed(self, message: bytes) -> Awaitable[None] | None:
        """Give a push to the service's function, to the application, or to the peer."""
        to, on_push = self._pushes_to, self._all.on_push
        if on_push is not None and to in (None, "on_push"):
            return self._have_sent(on_push, message)
        if to in ("text", "bytes"):
            return self._pass_on(message)
        if self._has_no_room():
            return self._give_later(message)
        self._give(message)
        return None

    def _has_no_room(self) -> bool:
        """Return whether a push must wait for the application."""
        if self._lazy:  # what it was given before may be on record with a reply
            return self._wanted is None or bool(self._inbox) or self._turn is not None
        return len(self._inbox) >= _MOST_AHEAD or self._ahead >= _MOST_BYTES_AHEAD

    def _give(self, message: bytes) -> None:
        self._hold()
        self._inbox.append(_Pushed(message))
        self._ahead += len(message)
        self._wake()

    async def _give_later(self, message: bytes) -> None:
        while self._gone is None and self._has_no_room():
            await self._until_taken()
        self._give(message)

    async def _pass_on(self, message: bytes) -> None:
        """Send it as one message, unless a Close is on its way: nothing may follow that."""
        text = None
        if self._pushes_to == "text":
            with suppress(UnicodeDecodeError):
                text = message.decode()
        if self._socket.closing:
            return
        with suppress(Disconnected):
            await self._send_in_turn({"bytes": message} if text is None else {"text": text})

    async def _have_sent(self, on_push: OnPush, message: bytes) -> None:
        """Have the service's function send what it makes of a push, if no Close is on its way."""
        if self._socket.closing:
            return
        self._sends += 1  # it does not leave meanwhile, whatever else the function waits for
        try:
            with suppress(Disconnected):
                await on_push(self._scope, message, self._send_beside)
        finally:
            self._sends -= 1
            if self._wanted is not None:
                self._settle()

    async def _send_beside(self, message: Message) -> None:
        """Do what `on_push` says, which is not the application's to say.  Raises as `send` does."""
        kind = _kind(message)
        if kind in _CALLED:
            self._call(kind, message)
        elif kind == "websocket.close":
            await self._close(message.get("code", _NORMAL), message.get("reason") or "")
        elif kind == "websocket.send":
            await self._send_in_turn(message)
        else:
            raise MessageError(
                f"on_push sends websocket.send, websocket.close and what names a WebSocket, not"
                f" {kind}"
            )

    async def _send_in_turn(self, message: Message) -> None:
        """Send a message once nothing else is going out.  Raises as `send` does."""
        await self._until_turn()
        waits = self._put(self._frame(message))
        if waits is not None:
            await waits

    # What goes out beside the record, so that nobody else can go on after a death meanwhile.

    def _begin_push(self, data: bytes, *, stains: bool) -> None:
        """Note that `data` is about to go out, and nothing else is.

        stains: what follows has to know of it, and the committed state does not.
        """
        conn = self._conn
        if stains or not conn.has_record_for(len(data) + len(conn.core.committed or b"")):
            self._bind()

    def _bind(self) -> None:
        ledger = self._conn.core.ledger
        ledger.bound = True
        ledger.show()

    def _unbind(self, *, stains: bool) -> None:
        """Note that it has gone."""
        self._stained = self._stained or stains
        core = self._conn.core
        core.ledger.bound = self._stained or core.transport.binds
        core.ledger.show()

    def _wait_beside(self, rest: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """Return what is to be awaited until what has begun to go out has gone."""
        self._sends += 1
        if self._lazy:
            self._turn = self._loop.create_future()
        return asyncio.shield(self._loop.create_task(rest))

    def _end_turn(self) -> None:
        self._sends -= 1
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.set_result(None)
            self._make_room()

    async def _until_turn(self) -> None:
        """Wait until nothing is going out.  Raises Disconnected."""
        while self._turn is not None:
            await asyncio.wait((self._turn,))
        if self._phase is _Phase.OVER:
            raise Disconnected("the WebSocket has ended, or gone to another worker")

    # What the next worker goes on from.

    def _record(self, *, windows: bool = True) -> dict[str, Any]:
        deflate = self._socket.deflate
        return {
            "websocket": {
                "head": self._head,
                "answer": self._answer,
                "exact": self._exact,
                "state": self._state,
                "deflate": deflate.export() if windows and deflate is not None else None,
                "pushes_to": self._pushes_to,
            }
        }

    def _fits(self) -> bool:
        deflate = self._socket.deflate
        windows = 0 if deflate is None else deflate.most_exported
        try:
            return len(pack_state(self._record(windows=False))) + windows <= STATE_LIMIT
        except StateTooLarge:
            return False

    def _hold(self) -> None:
        """Keep the connection from being moved, parked, or taken for clean."""
        ledger = self._conn.core.ledger
        if not ledger.sent:
            ledger.sending()

    def _settle(self) -> bool:
        """Commit, if this is a safe point; return whether it is one."""
        socket = self._socket
        if self._wanted is None or self._inbox or self._sends or not self._reading:
            return False
        core, order = self._conn.core, self._order
        if order is not None and order.how in ("close", "end"):
            self._close_soon()
            return False
        if not self._keeps or (self._exact and self._dirty):
            if not (self._lazy and self._exact):
                core.buffer.commit()  # what was received is retained no longer, for it never moves
            return False
        rest = socket.rest_size
        if not socket.between_messages or socket.closing or rest > _MOST_CARRIED:
            return False
        if self._lazy and self._lacks_rest():
            return False
        if core.buffer.size > self._fed:
            return False  # more has been received, and is about to be read
        if self._packed is None or self._ships:
            self._packed = pack_state(self._record(windows=self._ships))
        if rest and not self._fed:
            # What it has of the next frame goes along as bytes that nobody has received.
            core.buffer.feed(socket.rest)
            self._fed = rest
        core.commit(self._packed)
        self._moved_on = self._stained = False
        if order is not None:  # it may have come while the reader waited, and this was none
            self._loop.call_soon(self._conn.leave_if_asked)
        return True

    # Reading.

    async def _deal_with_what_woke(self) -> None:
        """Answer what has woken a parked connection, if that takes no application, and park again.

        Returns where the application is needed.
        """
        conn, socket = self._conn, self._socket
        while self._gone is None and not self._inbox:
            event = socket.next()
            if event is None:
                try:
                    data = await conn.recv(CHUNK, timeout=0)
                except WouldBlock:
                    if self._inbox or socket.rest_size or not socket.between_messages:
                        return
                    conn.core.commit(pack_state(self._record()))
                    self._stained = False
                    await conn.park()
                    return
                if not data:
                    self._end(_ABNORMAL)
                socket.feed(data)
            elif isinstance(event, Control):
                await self._act_on(event)
            elif event == self._settings.request:
                await self._answer_itself()
            else:
                self._hold()
                self._inbox.append(event)
                self._ahead += len(event)
                return

    async def _read(self) -> None:
        """Read until both sides have closed, or the peer has gone."""
        conn, socket, inbox = self._conn, self._socket, self._inbox
        request = self._settings.request
        try:
            while True:
                if self._lazy and self._holds_back():
                    await self._until_taken()
                    continue
                event = socket.next()
                if event is None:
                    while inbox and self._order is not None:
                        await self._until_taken()  # so that there is a moment for it to be moved
                    self._reading = True
                    if not self._settle() and (self._moved_on or not socket.between_messages):
                        self._hold()  # the windows are not those of the last commit any more
                    waits = conn.core.ledger.sent or socket.rest_size > _MOST_CARRIED
                    if self._lazy and not self._exact and waits:
                        self._hold()
                        conn.core.buffer.commit()  # it may be more than the kernel holds
                    if self._fed:
                        data = await conn.receive_by("recv", self._take_more, CHUNK, bytes)
                    else:
                        data = await conn.recv(CHUNK)
                    self._reading = False
                    if not data:
                        self._end(_ABNORMAL)
                        return
                    if self._fed:
                        data = data[self._fed :]
                        self._fed = 0
                    socket.feed(data)
                    del data  # else it has them while it waits for the next ones
                    continue
                self._moved_on = True
                if isinstance(event, Control):
                    if not await self._act_on(event):
                        return
                elif socket.closing:
                    pass  # it is no more looked at
                elif request is not None and event == request:
                    await self._answer_itself()
                else:
                    self._hold()
                    inbox.append(event)
                    self._ahead += len(event)
                    self._wake()
                    while len(inbox) >= _MOST_AHEAD or self._ahead >= _MOST_BYTES_AHEAD:
                        await self._until_taken()
        finally:
            self._reading = False

    def _holds_back(self) -> bool:
        """Return whether the next message is not to be looked at yet."""
        if self._gone is not None or not self._socket.message_waits:
            return False
        return self._wanted is None or bool(self._inbox) or self._turn is not None

    def _take_more(self, most: int) -> bytes | None:
        buffer = self._conn.core.buffer
        return buffer.take(buffer.size) if buffer.size > self._fed else None

    async def _until_taken(self) -> None:
        if self._gone is not None:
            self._inbox.clear()
            self._ahead = 0
            return
        self._room = self._loop.create_future()
        await self._room

    def _wake(self) -> None:
        wanted = self._wanted
        if wanted is not None:
            self._wanted = None
            if not wanted.done():
                wanted.set_result(None)
        if self._gone is not None:
            self._make_room()

    def _make_room(self) -> None:
        """Have the reader go on, if it waits for a message to be taken."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    async def _act_on(self, control: Control) -> bool:
        """Do as something says that is no message; return whether the WebSocket goes on."""
        if control.kind is FrameKind.PONG:
            if self._pinged and control.payload == self._pinged:
                self._pinged = b""
                self._tick_later()
            return True
        if control.kind is FrameKind.PING:
            await self._push(control.reply)
            return True
        if control.kind is FrameKind.FAILED:
            _note(self._conn, f"code {control.code}", f"{control.code}: {control.reason}")
        self._hold()
        if self._lazy:
            if self._turn is not None:
                await asyncio.wait((self._turn,), timeout=_CLOSING_TIME)
            self._bind()
        if control.reply:
            with suppress(SocketkeepError):
                await self._conn.send(control.reply, timeout=_CLOSING_TIME)
        self._end(control.code, control.reason)
        return False

    # Sending.

    def _put(self, data: bytes) -> Awaitable[None] | None:
        """Send; return what is to be awaited where the peer must read before all has gone.

        What has begun goes out whole, even if its sender is cancelled: what was compressed is part
        of the context of all that follows.  Raises Disconnected, as the awaitable does.
        """
        conn = self._conn
        if self._ships:
            conn.core.ledger.push_begins()
        stains = self._socket.deflate is not None or handling.get() is conn
        if self._lazy:
            self._begin_push(data, stains=stains)
        steps = conn.send(data).__await__()
        try:
            awaited = next(steps)
        except StopIteration:
            if self._lazy:
                self._unbind(stains=stains)
            if self._wanted is not None or self._ships:
                self._has_sent()
            return None
        except SocketkeepError as error:
            self._has_sent()
            self._end(_ABNORMAL)  # before the reader sees it: the application may raise this
            raise Disconnected(str(error)) from error
        return self._wait_beside(self._go_on_sending(awaited, steps, stains))

    async def _put_whole(self, data: bytes) -> None:
        while self._turn is not None:
            await asyncio.wait((self._turn,))
        waits = self._put(data)
        if waits is not None:
            await waits

    async def _go_on_sending(self, awaited: Any, steps: Any, stains: bool) -> None:
        try:
            await _rest(awaited, steps)
        except SocketkeepError as error:
            self._end(_ABNORMAL)
            raise Disconnected(str(error)) from error
        finally:
            self._end_turn()
            if self._lazy:
                self._unbind(stains=stains)
            self._has_sent()

    def _has_sent(self) -> None:
        """Commit where the application waits meanwhile."""
        settled = self._wanted is not None and self._settle()
        if self._ships:
            if not settled:
                self._hold()  # the committed state has not what was compressed
            self._conn.core.ledger.push_ends()

    async def _push(self, data: bytes) -> None:
        """Send what is no answer of the application's, and not compressed.

        Raises SocketkeepError.
        """
        if data:
            sending = self._send_elsewhere(data)
            await self._loop.create_task(sending, context=_ELSEWHERE.copy())

    async def _answer_itself(self) -> None:
        """Answer what the application is not asked for."""
        with suppress(Disconnected):  # the reader meets the end itself
            if self._turn is not None:
                await self._until_turn()
            # Frames go out in the order in which they are compressed: nothing may come in between.
            frame = self._socket.text(self._settings.response)
            waits = _ELSEWHERE.copy().run(self._put, frame)
            if waits is not None:
                await waits

    async def _send_elsewhere(self, data: bytes) -> None:
        if not self._lazy:
            await self._conn.send(data)
            return
        while self._turn is not None:
            await asyncio.wait((self._turn,))
        self._turn = self._loop.create_future()
        self._sends += 1
        self._begin_push(data, stains=False)
        try:
            await self._conn.send(data)
        finally:
            self._end_turn()
            self._unbind(stains=False)
            if self._wanted is not None:
                self._settle()

    # Pings.

    def _tick_later(self) -> None:
        self._stop_timer()
        self._all.rounds.add(self)

    def _on_round(self) -> None:
        """Ask whether the peer is still there, and give up memory."""
        if self._socket.between_messages:
            self._rest()
        if self._socket.closing:
            return
        self._pinged = token_bytes(4)
        self._later(self._push(self._socket.ping(self._pinged)))
        if self._settings.ping_timeout:
            self._timer = self._loop.call_later(self._settings.ping_timeout, self._unanswered)
        else:
            self._tick_later()

    def _rest(self) -> None:
        """Give up the memory of the compression, which can be made anew."""
        deflate = self._socket.deflate
        if deflate is not None and deflate.rest():
            self._all.trimmer.soon()

    def _unanswered(self) -> None:
        if self._lazy and self._holds_back():
            self._tick_later()  # the pong may stand behind a message that is not looked at yet
            return
        _note(self._conn, "no pong", "the peer has not answered a ping")
        self._later(self._break_off())

    async def _break_off(self) -> None:
        data = self._socket.close(_FAILURE, "keepalive ping timeout")
        self._end(_ABNORMAL)
        with suppress(SocketkeepError):
            await self._conn.send(data, timeout=_LAST_MOMENT)
        with suppress(SocketkeepError):
            await self._conn.close()

    # Closing.

    async def _close(self, code: int, reason: str = "") -> None:
        """Send a Close, and have the application know.  Raises Disconnected, ValueError."""
        data = self._socket.close(code, reason)
        if not data:
            return
        self._hold()
        self._stop_timer()
        self._timer = self._loop.call_later(_CLOSING_TIME, self._hang_up)
        self._end(code, reason)
        await self._put_whole(data)

    def _hang_up(self) -> None:
        self._later(self._conn.close())

    def _close_soon(self) -> None:
        """Close for the server's sake."""
        if self._answer is None:
            if self._phase is not _Phase.OVER:
                self._refuse(503, b"Service Unavailable\n")
        elif not self._socket.closing:
            self._later(self._close(_RESTART))

    def _ordered(self, order: Order) -> None:
        """Hear how the worker's connections are to end."""
        self._order = order
        if order.how in ("close", "end"):
            self._hold()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if order.deadline != float("inf"):
            left = max(0.0, order.deadline - monotonic())
            after = left - min(_LAST_MOMENT, left / 4)
            self._deadline = self._loop.call_later(after, self._close_soon)
        self._settle()

    def _stop_timer(self) -> None:
        self._all.rounds.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_timers(self) -> None:
        self._stop_timer()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _later(self, chore: Any) -> None:
        task = self._loop.create_task(_quietly(chore))
        self._all.chores.add(task)
        task.add_done_callback(self._all.chores.discard)


async def _quietly(chore: Any) -> None:
    with suppress(OSError, SocketkeepError):
        await chore


@types.coroutine
def _rest(awaited: Any, steps: Any) -> Generator[Any, Any, None]:
    """Go on with what has begun, and waits."""
    yield awaited
    yield from steps


def _log_request(site: Site, scope: Scope, head: bytes, status: int, size: int = 0) -> None:
    """Write the line of a handshake to the log of requests, where there is one."""
    if site.request_log is not None:
        request = read_head(head, site.options.limit_request_fields)
        if request is not None:
            site.request_log.note(scope, request, status, size)


def _tells_of_end(error: BaseException) -> bool:
    """Return whether it says no more than that the WebSocket has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(_tells_of_end(each) for each in error.exceptions)
    return isinstance(error, Disconnected) or type(error).__name__ == "WebSocketDisconnect"


def _headers(message: Message) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]


def _kind(message: Message) -> Any:
    """Return a message's type.  Raises MessageError for what is no message."""
    try:
        return message["type"]
    except (KeyError, TypeError):
        raise no_message(message) from None


def _out_of_order(kind: str) -> MessageError:
    return MessageError(f"a message of type {kind!r} is not to be sent at this point")


def _note(conn: AsyncConnection, kind: str, why: str) -> None:
    _throttle.info("websocket", kind=kind, id=conn.id, peer=conn.peer, why=why)
