"""The application's side of a WebSocket, and its ways from worker to worker."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import sys
import weakref
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness.asgi import Message, Scope
from tests.harness.seam import NEVER_COMMITTED, Row, forget_warnings, order_to, row_of
from tests.websocket.bench import Bench, bench, dial, echo, run, until
from tests.websocket.test_replies import OnRecord


class Recorder:
    """An application that does what is said to it, and notes what it is told."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.told: list[Message] = []
        self.sends: list[Any] = []  # of each call, the latest last

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.sends.append(send)
        while True:
            message = await receive()
            self.told.append(message)
            match message:
                case {"type": "websocket.connect"}:
                    await send({"type": "websocket.accept"})
                case {"type": "websocket.disconnect"}:
                    return
                case {"text": "commit " as word} | {"text": str(word)} if word.startswith("commit"):
                    await send({"type": "websocket.send", "text": "committing"})
                    await send({"type": "socketkeep.commit", "state": word})
                case {"text": str(text)}:
                    await send({"type": "websocket.send", "text": f"{len(self.scopes)}: {text}"})

    @property
    def ends(self) -> list[int]:
        return [each["code"] for each in self.told if each["type"] == "websocket.disconnect"]


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("crash_safe", [False, True])
def test_echo_through_moves(compression: str | None, crash_safe: bool) -> None:
    async def main() -> None:
        rng = random.Random(7)
        async with (
            bench(echo, crash_safe=crash_safe) as served,
            await dial(served, compression=compression) as client,
        ):
            assert bool(client.protocol.extensions) is (compression is not None)
            for turn in range(40):
                said: Any = "héllo wörld " * rng.randint(0, 300)
                if rng.random() < 0.5:
                    said = said.encode()
                await client.send(said)
                assert await client.recv() == said
                if turn % 5 == 2:
                    await served.move()
                if turn % 5 == 4 and crash_safe:
                    await served.crash()
            # What is on its way while it moves is neither lost nor twice there.
            for turn in range(50):
                await client.send(str(turn))
                if turn % 10 == 5:
                    await served.move()
            assert [await client.recv() for _ in range(50)] == [str(turn) for turn in range(50)]
            assert served.times_served > 12
            assert served.site.request_log.noted == [101]

    run(main())


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_message_in_parts_is_waited_for(compression: str | None) -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app) as served, await dial(served, compression=compression) as client:
            parts: asyncio.Queue[str | None] = asyncio.Queue()

            async def from_queue() -> Any:
                while (part := await parts.get()) is not None:
                    yield part

            await client.send("a")
            assert await client.recv() == "1: a"
            await until(lambda: row_of(served.conn).status == "clean")
            sending = asyncio.create_task(client.send(from_queue()))
            parts.put_nowait("one ")
            parts.put_nowait("two ")
            await until(lambda: served.conn.core.ledger.sent)
            moving = asyncio.create_task(served.move())
            await asyncio.sleep(0)
            parts.put_nowait("three")
            parts.put_nowait(None)
            await sending
            assert await client.recv() == "1: one two three"
            await moving
            await client.send("b")
            assert await client.recv() == "2: b"

    run(main())


def test_part_of_a_frame_goes_along() -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app) as served, await dial(served) as client:
            frame = b"\x81\x89\0\0\0\0in pieces"
            for calls, byte in enumerate(frame[:-1], start=1):
                conn = served.conn
                client.transport.write(bytes((byte,)))
                await until(lambda conn=conn: conn.core.ledger.read)  # type: ignore[misc]
                if calls % 2:
                    await served.move()
            client.transport.write(frame[-1:])
            assert await client.recv() == f"{len(app.scopes)}: in pieces"
            assert len(app.scopes) > 5

    run(main())


def test_the_old_instance_is_told_and_cannot_send() -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app) as served, await dial(served) as client:
            await client.send("a")
            assert await client.recv() == "1: a"
            await served.move()
            await until(lambda: app.ends == [1012])
            with pytest.raises(OSError, match="gone to another worker"):
                await app.sends[0]({"type": "websocket.send", "text": "late"})
            await client.send("b")
            assert await client.recv() == "2: b"
            first, second = app.scopes
            assert first["extensions"]["socketkeep"] == {"attached": "accepted", "state": None}
            assert second["extensions"]["socketkeep"] == {"attached": "reload", "state": None}
            assert {**first, "extensions": 0} == {**second, "extensions": 0}

    run(main())


def test_silent() -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app, options={"ws_resume": "silent"}) as served:
            async with await dial(served) as client:
                await client.send("a")
                assert await client.recv() == "1: a"
                (old,) = served.site.leaving
                await served.move()
                await client.send("b")
                assert await client.recv() == "2: b"
                assert app.ends == []
                old.cancel()
            await until(lambda: app.ends == [1000])

    run(main())


def test_without_resumption_it_stays_and_is_closed_at_the_end() -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app, options={"ws_resume": "off"}) as served:
            client = await dial(served)
            await client.send("a")
            assert await client.recv() == "1: a"
            served.conn.ask(order_to("move", 0.4))
            await client.send("b")
            assert await client.recv() == "1: b"
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            await served.task
            assert app.ends == [1012]

    run(main())


def test_nobody_is_told_that_a_commit_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with (
            bench(echo, options={"ws_resume": "off"}) as served,
            await dial(served) as client,
        ):
            for _ in range(NEVER_COMMITTED + 10):
                await client.send(b"x")
                await client.recv()

    forget_warnings()
    run(main())
    assert caplog.text == ""


def test_a_stop_closes_what_waits_and_lets_what_works_finish() -> None:
    async def main() -> None:
        released = asyncio.Event()

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await released.wait()
            await send({"type": "websocket.send", "text": "done"})
            assert (await receive())["code"] == 1012

        async with bench(app) as served:
            client = await dial(served)
            await client.send("work")
            await until(lambda: bool(served.conn.core.ledger.sent))
            served.conn.ask(order_to("close", 10))
            released.set()
            assert await client.recv() == "done"
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            await served.task

    run(main())


def test_an_application_that_commits_goes_on_from_its_state() -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app, options={"ws_resume": "off"}) as served:
            client = await dial(served, compression="deflate")
            await client.send("commit 1")
            assert await client.recv() == "committing"
            await served.move()
            await until(lambda: len(app.scopes) == 2)
            told = app.scopes[1]["extensions"]["socketkeep"]
            assert told == {"attached": "reload", "state": "commit 1"}
            # It has answered since: not before the next commit.
            await client.send("a")
            assert await client.recv() == "2: a"
            moving = asyncio.create_task(served.move())
            await client.send("b")
            assert await client.recv() == "2: b"
            assert not moving.done()
            await client.send("commit 2")
            assert await client.recv() == "committing"
            await moving
            await until(lambda: len(app.scopes) == 3)
            assert app.scopes[2]["extensions"]["socketkeep"]["state"] == "commit 2"
            await client.close()

    run(main())


def test_a_state_that_is_too_large_is_refused() -> None:
    async def main() -> None:
        caught: list[str] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            for state in ("x" * 60_000, "x" * 70_000, object()):
                try:
                    await send({"type": "socketkeep.commit", "state": state})
                except Exception as error:
                    caught.append(str(error))
            await receive()

        async with bench(app) as served, await dial(served, compression="deflate") as client:
            await until(lambda: len(caught) == 3)
            assert "windows" in caught[0]
            assert "70005 bytes" in caught[1]
            assert "cannot be encoded" in caught[2]
            await client.close()

    run(main())


async def woken(served: Bench, unread: bytes = b"") -> None:
    """Serve a parked one again."""
    handoff = await served.left()
    assert handoff.parked
    served.begin("parked", handoff.state, handoff.unread + unread)


def test_parked() -> None:
    async def main() -> None:
        app = Recorder()
        options = {"ws_resume": "off", "ws_auto_response": "marco=polo"}
        async with bench(app, park_after=0.05, options=options) as served:
            client = await dial(served, compression="deflate")
            await client.send("commit 1")
            assert await client.recv() == "committing"
            await served.left()
            calls = len(app.scopes)
            # What takes no application does not wake it.
            for _ in range(2):
                pong = await client.ping()
                await woken(served)
                await pong
                await client.send("marco")
                await woken(served)
                assert await client.recv() == "polo"
            assert len(app.scopes) == calls
            await client.send("hello")
            await woken(served)
            assert await client.recv() == f"{calls + 1}: hello"
            assert app.scopes[-1]["extensions"]["socketkeep"] == {
                "attached": "parked",
                "state": "commit 1",
            }
            await client.send("commit 2")
            assert await client.recv() == "committing"
            await served.left()
            # The peer's end is the application's to know.
            closing = asyncio.create_task(client.close(3001, "bye"))
            await woken(served)
            await closing
            await served.task
            assert app.told[-1] == {
                "type": "websocket.disconnect",
                "code": 3001,
                "reason": "bye",
            }

    run(main())


def test_what_has_left_is_freed_without_the_garbage_collector() -> None:
    async def main() -> None:
        async with bench(echo) as served:
            client = await dial(served)
            await client.send("hello")
            assert await client.recv() == "hello"
            (application,) = served.site.leaving
            left = weakref.ref(application)
            del application
            gc.disable()
            try:
                await served.move()
                await until(lambda: left() is None)
            finally:
                gc.enable()

    run(main())


def test_what_knows_nothing_of_it_is_not_parked() -> None:
    async def main() -> None:
        async with bench(echo, park_after=0.01) as served, await dial(served) as client:
            await asyncio.sleep(0.1)  # ten times as long as it would take
            assert not served.task.done()
            await client.send("still here")
            assert await client.recv() == "still here"

    run(main())


def test_a_push_keeps_the_safe_point_and_the_context() -> None:
    async def main() -> None:
        app = Recorder()
        text = "".join(random.Random(3).choices("abcdef", k=500))
        async with bench(app, crash_safe=True) as served:
            client = await dial(served, compression="deflate")
            await client.send("a")
            assert await client.recv() == "1: a"
            for turn in range(6):
                await app.sends[-1]({"type": "websocket.send", "text": text})
                assert await client.recv() == text
                await (served.crash() if turn % 2 else served.move())
                await until(lambda turn=turn: len(app.scopes) == turn + 2)  # type: ignore[misc]
                await until(lambda: row_of(served.conn).status == "clean")
            await client.close()

    run(main())


def test_a_push_while_nobody_waits_is_in_the_next_commit() -> None:
    async def main() -> None:
        turns: asyncio.Queue[str] = asyncio.Queue()
        sends: list[Any] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            sends.append(send)
            await receive()
            await send({"type": "websocket.accept"})
            receiving = asyncio.ensure_future(receive())
            while await turns.get() != "go on":
                receiving.cancel()
            await receive()

        text = "".join(random.Random(4).choices("abcdef", k=500))
        async with bench(app, crash_safe=True) as served:
            client = await dial(served, compression="deflate")
            record = served.conn.core.record
            await until(lambda: Row(record).status == "clean")
            turns.put_nowait("stop")
            await until(turns.empty)
            await asyncio.sleep(0)
            await sends[-1]({"type": "websocket.send", "text": text})
            assert Row(record).status != "clean", "the committed context has not what was sent"
            assert await client.recv() == text
            turns.put_nowait("go on")
            await served.crash()
            turns.put_nowait("go on")
            await until(lambda: len(sends) == 2)
            await sends[-1]({"type": "websocket.send", "text": text})
            assert await client.recv() == text

    run(main())


def test_a_sender_that_is_cancelled_does_not_break_the_context() -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app) as served:
            client = await dial(served, compression="deflate", max_size=None)
            await client.send("a")
            assert await client.recv() == "1: a"
            client.transport.pause_reading()
            noise = random.Random(5).randbytes(500_000).hex()
            cancelled = 0
            for _ in range(4):
                sending = asyncio.create_task(
                    app.sends[-1]({"type": "websocket.send", "text": noise})
                )
                _done, waits = await asyncio.wait((sending,), timeout=0.05)
                cancelled += len(waits)
                sending.cancel()
            assert cancelled >= 2, "there was room for all of it"
            last = asyncio.create_task(app.sends[-1]({"type": "websocket.send", "text": "last"}))
            client.transport.resume_reading()
            assert [await client.recv() == noise for _ in range(4)] == [True] * 4
            assert await client.recv() == "last"
            await last

    run(main())


@pytest.mark.parametrize("kind", [Bench, OnRecord])
def test_the_servers_answers_among_the_applications_sends_keep_the_context(
    kind: type[Bench],
) -> None:
    """The application sends in each turn of the loop, so also in the one of an answer."""

    async def main() -> None:
        answered = asyncio.Event()
        sent: list[str] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            rng = random.Random(6)

            async def tick() -> None:
                while not answered.is_set():
                    sent.append("".join(rng.choices("abcdef", k=200)))
                    await send({"type": "websocket.send", "text": sent[-1]})
                    await asyncio.sleep(0)

            await receive()
            await send({"type": "websocket.accept"})
            ticking = asyncio.create_task(tick())
            await receive()
            await ticking

        options = {"ws_auto_response": "marco=polo"}
        async with bench(app, options=options, kind=kind) as served:
            client = await dial(served, compression="deflate")
            received: list[Any] = []
            for asked in range(1, 51):
                await client.send("marco")
                while received.count("polo") < asked:
                    received.append(await client.recv())
            answered.set()
            ticks = [each for each in received if each != "polo"]
            assert ticks == sent[: len(ticks)]
            assert len(ticks) > 50

    run(main())


def test_accepted_otherwise_by_the_next_worker() -> None:
    async def main() -> None:
        answers = iter(("one", "one", "two"))

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept", "subprotocol": next(answers)})
            await receive()

        async with bench(app) as served:
            client = await dial(served, subprotocols=["one", "two"])
            assert client.subprotocol == "one"
            await served.move()
            await served.move()
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012

    run(main())


def test_denied() -> None:
    async def main() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            headers = [(b"x-why", b"because"), (b"content-length", b"999")]
            start = {"type": "websocket.http.response.start", "status": 404, "headers": headers}
            await send(start)
            body = {"type": "websocket.http.response.body", "body": b"not ", "more_body": True}
            await send(body)
            await send({"type": "websocket.http.response.body", "body": b"here"})

        async with bench(app) as served:
            with pytest.raises(InvalidStatus) as refused:
                await dial(served)
            response = refused.value.response
            assert (response.status_code, response.body) == (404, b"not here")
            assert served.site.request_log.noted == [404]
            assert response.headers["x-why"] == "because"

    run(main())


def test_a_handshake_that_is_not_answered_in_time() -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await never.wait()
            with pytest.raises(OSError, match="ended"):
                await send({"type": "websocket.accept"})

        async with bench(app) as served:
            dialling = asyncio.create_task(dial(served))
            await until(lambda: bool(served.site.leaving))
            served.conn.ask(order_to("move", 0.1))
            with pytest.raises(InvalidStatus) as refused:
                await dialling
            assert refused.value.response.status_code == 503
            never.set()
            await served.task

    run(main())


async def closes(scope: Scope, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def returns(scope: Scope, receive: Any, send: Any) -> None:
    await receive()


async def raises(scope: Scope, receive: Any, send: Any) -> None:
    raise KeyError("the application's own")


@pytest.mark.parametrize(("app", "status"), [(closes, 403), (returns, 500), (raises, 500)])
def test_not_accepted(app: Any, status: int) -> None:
    async def main() -> None:
        async with bench(app) as served:
            with pytest.raises(InvalidStatus) as refused:
                await dial(served)
            assert refused.value.response.status_code == status
            await served.task

    run(main())


@pytest.mark.parametrize(
    ("after", "code"),
    [
        ("close", 4001),
        ("return", 1000),
        ("raise", 1011),
        ("exit", 1011),
        ("accept again", 1011),
        ("reply a number", 1011),
        ("no message", 1011),
        ("bytes as text", 1011),
        ("text as bytes", 1011),
        ("no type", 1011),
    ],
)
def test_how_the_application_ends_it(after: str, code: int) -> None:
    async def main() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            if after == "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
                assert (await receive())["code"] == 4001
                with pytest.raises(OSError, match="ended"):
                    await send({"type": "websocket.send", "text": "late"})
            if after == "raise":
                raise KeyError("the application's own")
            if after == "exit":
                sys.exit(3)
            if after == "reply a number":
                await send({"type": "socketkeep.commit", "state": 1, "reply": 1})
            if after == "accept again":
                await send({"type": "websocket.accept"})
            if after == "no message":
                await send({"type": "websocket.send"})
            if after == "bytes as text":
                await send({"type": "websocket.send", "text": b"a"})
            if after == "text as bytes":
                await send({"type": "websocket.send", "bytes": "a"})
            if after == "no type":
                await send({})

        async with bench(app) as served:
            client = await dial(served)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code
            await served.task

    run(main())


@pytest.mark.parametrize(
    ("without", "instead", "status"),
    [
        (b"Sec-WebSocket-Key", b"", b"400"),
        (b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: AAAA\r\n", b"400"),
        (b"Sec-WebSocket-Version", b"", b"426"),
        (b"Sec-WebSocket-Version", b"Sec-WebSocket-Version: 8\r\n", b"426"),
        (b"", b"Sec-WebSocket-Extensions: ;;\r\n", b"400"),
    ],
)
def test_no_handshake(without: bytes, instead: bytes, status: bytes) -> None:
    async def main() -> None:
        lines = [
            b"GET / HTTP/1.1\r\n",
            b"Host: test\r\n",
            b"Upgrade: websocket\r\n",
            b"Connection: Upgrade\r\n",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            b"Sec-WebSocket-Version: 13\r\n",
        ]
        kept = [line for line in lines if not (without and line.startswith(without))]
        async with bench(echo) as served:
            served.client_sock.setblocking(False)
            loop = asyncio.get_running_loop()
            request = b"".join((*kept, instead, b"\r\n"))
            await loop.sock_sendall(served.client_sock, request)
            answer = await loop.sock_recv(served.client_sock, 65536)
            served.client_sock.shutdown(socket.SHUT_WR)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert (b"sec-websocket-version: 13" in answer) is (status == b"426")
            assert served.site.request_log.noted == [int(status)]
            await served.task

    run(main())


def test_what_is_received_is_bounded_by_what_the_application_takes() -> None:
    async def main() -> None:
        going = asyncio.Event()
        taken: list[str] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await going.wait()
            while (message := await receive())["type"] == "websocket.receive":
                taken.append(message["text"])

        async with bench(app) as served:
            client = await dial(served)
            texts = [str(n) * 2000 for n in range(1000)]

            async def flood() -> None:
                for text in texts:
                    await client.send(text)

            flooding = asyncio.create_task(flood())
            await until(lambda: row_of(served.conn).status != "clean")
            await asyncio.wait((flooding,), timeout=0.2)
            assert not flooding.done()
            going.set()
            await flooding
            await client.close()
            await served.task
            assert taken == texts

    run(main())


def test_a_silent_peer_is_given_up() -> None:
    async def main() -> None:
        app = Recorder()
        options = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.05}
        async with bench(app, options=options) as served:
            client = await dial(served)
            await asyncio.sleep(0.3)  # six intervals
            await client.send("there")
            assert await client.recv() == "1: there"
            client.transport.pause_reading()
            await until(lambda: app.ends == [1006])
            await served.task

    run(main())


def test_a_peer_that_goes_is_told_as_1006() -> None:
    async def main() -> None:
        app = Recorder()
        async with bench(app) as served:
            client = await dial(served)
            client.transport.abort()
            await served.task
            assert app.ends == [1006]

    run(main())


def test_a_send_to_a_peer_that_has_gone_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """An application that lets the OSError through, as most do, has done nothing wrong."""

    async def main() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while True:
                await send({"type": "websocket.send", "bytes": bytes(100_000)})

        async with bench(app) as served:
            client = await dial(served)
            client.transport.pause_reading()
            client.transport.abort()
            await served.task

    run(main())
    assert "application failed" not in caplog.messages
