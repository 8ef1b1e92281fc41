"""What is pushed to a WebSocket, and what its application says of how it is called."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.websocket.bench import bench, dial, run, until
from tests.websocket.test_replies import on_record


class Called:
    """An application that does as its client says, and tells what it is pushed."""

    def __init__(self) -> None:
        self.scopes: list[MutableMapping[str, Any]] = []
        self.pushed: list[bytes] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        while True:
            message: MutableMapping[str, Any] = await receive()
            match message:
                case {"type": "websocket.connect"}:
                    await send({"type": "websocket.accept"})
                case {"type": "websocket.disconnect"}:
                    return
                case {"type": "socketkeep.push", "message": bytes(said)}:
                    self.pushed.append(said)
                    await self.free.wait()
                    await send({"type": "websocket.send", "text": f"pushed {said.decode()}"})
                case {"text": str(text)} if text.startswith("socketkeep."):
                    kind, key, value = text.split()
                    await send({"type": kind, key: value})
                    await send({"type": "websocket.send", "text": "ok"})
                case {"text": str(text)}:
                    await send({"type": "websocket.send", "text": text})
            if "socketkeep.commits" in scope["path"]:
                await send({"type": "socketkeep.commit", "state": None})


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_push_is_received_by_the_application(compression: str | None) -> None:
    """In the order in which it came, and after a move in the next worker, which knows the name."""

    async def main() -> None:
        app = Called()
        async with bench(app) as served, await dial(served, compression=compression) as peer:
            for said in ("socketkeep.name name bob", "socketkeep.join group room"):
                await peer.send(said)
                assert await peer.recv() == "ok"
            told = app.scopes[0]["extensions"]["socketkeep.push"]
            assert told == {"name": "", "groups": [], "labels": {}}
            served.push(b"1")
            await peer.send("between")
            assert await peer.recv() == "pushed 1"
            assert await peer.recv() == "between"
            app.free.clear()
            served.push(b"2")
            await until(lambda: app.pushed == [b"1", b"2"])
            served.push(b"3")
            moving = asyncio.create_task(served.move())
            app.free.set()
            assert await peer.recv() == "pushed 2"
            assert await peer.recv() == "pushed 3"
            await moving
            await until(lambda: len(app.scopes) == 2)
            told = app.scopes[1]["extensions"]["socketkeep.push"]
            assert told == {"name": "bob", "groups": ["room"], "labels": {}}
            served.push(b"4")
            assert await peer.recv() == "pushed 4"

    run(main())


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_push_goes_to_the_peer_as_a_message(compression: str | None) -> None:
    """As text or bytes, as the application wants; also in the next worker, after its death too."""

    async def main() -> None:
        app = Called()
        async with (
            bench(app, crash_safe=True) as served,
            await dial(served, compression=compression) as peer,
        ):
            for said in ("socketkeep.name name bob", "socketkeep.pushes to text"):
                await peer.send(said)
                assert await peer.recv() == "ok"
            served.push("hé".encode())
            assert await peer.recv() == "hé"
            served.push(b"\xff")
            assert await peer.recv() == b"\xff"
            await served.crash()
            served.push(b"again " * 100)
            assert await peer.recv() == "again " * 100
            await peer.send("socketkeep.pushes to bytes")
            assert await peer.recv() == "ok"
            served.push(b"again " * 100)
            assert await peer.recv() == b"again " * 100
            await served.move()
            served.push(b"x")
            assert await peer.recv() == b"x"
            assert app.pushed == []

    run(main())


@pytest.mark.parametrize("to", ["text", "receive"])
def test_nothing_is_pushed_behind_a_close(to: str) -> None:
    """Ours, which the peer has not answered: what waits is dropped, and no more is taken."""

    async def main() -> None:
        received: list[MutableMapping[str, Any]] = []
        close = asyncio.Event()

        async def app(_scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "socketkeep.name", "name": "bob"})
            await send({"type": "socketkeep.pushes", "to": to})
            await send({"type": "websocket.send", "text": "called"})
            await close.wait()
            await send({"type": "websocket.close", "code": 4000})
            received.append(await receive())

        async with bench(app) as served:
            reader, writer = await asyncio.open_connection(sock=served.client_sock)
            writer.write(handshake())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(8) == b"\x81\x06called"
            close.set()
            assert await reader.readexactly(4) == b"\x88\x02" + (4000).to_bytes(2, "big")
            assert served.conn.hooks.deaf
            mail = served.conn.hooks.mail
            assert served.push(b"too late")
            await until(lambda: mail is not None and not mail.waiting)
            writer.write(b"\x88\x82\0\0\0\0" + (4000).to_bytes(2, "big"))
            assert await reader.read() == b""
            assert [each["type"] for each in received] == ["websocket.disconnect"]
            writer.close()

    run(main())


@pytest.mark.parametrize("to", ["text", "receive"])
def test_a_push_waits_for_the_accept(to: str) -> None:
    """The answer to the handshake goes out first, however early a name is given."""

    async def main() -> None:
        accept = asyncio.Event()
        called = asyncio.Event()

        async def app(_scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "socketkeep.name", "name": "bob"})
            await send({"type": "socketkeep.pushes", "to": to})
            called.set()
            await accept.wait()
            await send({"type": "websocket.accept"})
            message = await receive()
            await send({"type": "websocket.send", "text": message["message"].decode()})

        async with bench(app) as served:
            reader, writer = await asyncio.open_connection(sock=served.client_sock)
            writer.write(handshake())
            await called.wait()
            assert served.push(b"early")
            for _ in range(10):
                await asyncio.sleep(0)  # so that it could go out
            accept.set()
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(7) == b"\x81\x05early"
            writer.close()

    run(main())


async def framed(scope: MutableMapping[str, Any], message: bytes, send: Any) -> None:
    """An `on_push` that sends its message twice, or does as that says."""
    match message.split(b" "):
        case [b"raise"]:
            raise LookupError("as it was told")
        case [b"say", kind, key, value]:
            await send({"type": kind.decode(), key.decode(): value.decode()})
        case [b"close"]:
            await send({"type": "websocket.close", "code": 4001, "reason": "pushed off"})
        case _:
            for each in (b"", b"again "):
                text = (each + message).decode()
                await send({"type": "websocket.send", "text": f"{scope['path']}: {text}"})


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("kind", [bench, on_record])
def test_a_push_goes_through_the_services_function(kind: Any, compression: str | None) -> None:
    """The application is not asked; likewise in the next worker, until it says else."""

    async def main() -> None:
        app = Called()
        async with (
            kind(app, on_push=framed) as served,
            await dial(served, compression=compression) as peer,
        ):
            await peer.send("socketkeep.name name bob")
            assert await peer.recv() == "ok"
            path = app.scopes[0]["path"]
            for said in ("é", "x" * 1000):
                served.push(said.encode())
                assert await peer.recv() == f"{path}: {said}"
                assert await peer.recv() == f"{path}: again {said}"
            await peer.send("between")
            assert await peer.recv() == "between"
            if kind is bench:
                await served.move()
                served.push(b"moved")
                assert await peer.recv() == f"{path}: moved"
                assert await peer.recv() == f"{path}: again moved"
            await peer.send("socketkeep.pushes to receive")
            assert await peer.recv() == "ok"
            served.push(b"1")
            assert await peer.recv() == "pushed 1"
            await peer.send("socketkeep.pushes to on_push")
            assert await peer.recv() == "ok"
            served.push(b"2")
            assert await peer.recv() == f"{path}: 2"
            assert app.pushed == [b"1"]

    run(main())


def test_what_the_services_function_may_do(caplog: pytest.LogCaptureFixture) -> None:
    """It names and closes; what it raises, and what is not its to send, ends nothing."""

    async def main() -> None:
        app = Called()
        told: list[str] = []
        async with bench(app, on_push=framed) as served, await dial(served) as peer:
            served.conn.hooks.on_error = lambda conn, error: told.append(str(error))
            await peer.send("socketkeep.name name bob")
            assert await peer.recv() == "ok"
            served.push(b"raise")
            served.push(b"say socketkeep.commit state 1")
            served.push(b"say websocket.accept subprotocol x")
            served.push(b"say socketkeep.join group room")
            served.push(b"x")
            assert str(await peer.recv()).endswith(": x")
            assert str(await peer.recv()).endswith(": again x")
            assert served.conn.groups == {"room"}
            assert told[0] == "as it was told"
            beside = "on_push sends websocket.send, websocket.close and what names a WebSocket, not"
            assert told[1:] == [f"{beside} socketkeep.commit", f"{beside} websocket.accept"]
            served.push(b"close")
            served.push(b"too late")
            with pytest.raises(ConnectionClosed):
                await peer.recv()
            assert (peer.close_code, peer.close_reason) == (4001, "pushed off")
        assert len(told) == 3

    run(main())


def test_it_does_not_leave_while_the_services_function_waits() -> None:
    """Whatever that waits for: what is pushed is sent before the move, and once."""

    async def main() -> None:
        called, let_on = asyncio.Event(), asyncio.Event()

        async def on_push(scope: MutableMapping[str, Any], message: bytes, send: Any) -> None:
            called.set()
            await let_on.wait()
            await send({"type": "websocket.send", "bytes": message})

        app = Called()
        async with bench(app, on_push=on_push) as served, await dial(served) as peer:
            await peer.send("socketkeep.name name bob")
            assert await peer.recv() == "ok"
            served.push(b"1")
            await called.wait()
            moving = asyncio.create_task(served.move())
            for _ in range(10):
                await asyncio.sleep(0)  # so that it could go
            assert not served.task.done()
            let_on.set()
            assert await peer.recv() == b"1"
            await moving
            served.push(b"2")
            assert await peer.recv() == b"2"

    run(main())


def handshake() -> bytes:
    return (
        b"GET /path HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )


def test_what_waits_is_bounded() -> None:
    """An application that is busy gets 16 ahead, and the rest waits in the mail, which has an end;
    and what the client says behind them is not lost."""

    async def main() -> None:
        app = Called()
        async with bench(app) as served, await dial(served) as peer:
            await peer.send("socketkeep.name name bob")
            assert await peer.recv() == "ok"
            app.free.clear()
            number = 0
            while served.push(b"%d" % number):
                number += 1
                if number % 100 == 0:
                    await asyncio.sleep(0)
                assert number < 1100
            assert number >= 1000
            await peer.send("and this")
            app.free.set()
            for each in range(number):
                assert await peer.recv() == f"pushed {each}"
            assert await peer.recv() == "and this"

    run(main())


def test_a_push_waits_while_a_reply_is_made() -> None:
    """Where answers are on record: the application has it when it asks, and replies to it, too."""

    async def main() -> None:
        received: list[object] = []
        let_on = asyncio.Semaphore(0)

        async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            count = scope["extensions"]["socketkeep"]["state"] or 0
            while True:
                message = await receive()
                match message:
                    case {"type": "websocket.connect"}:
                        await send({"type": "websocket.accept"})
                        await send({"type": "socketkeep.name", "name": "bob"})
                        await send({"type": "socketkeep.commit", "state": count})
                        continue
                    case {"type": "websocket.disconnect"}:
                        return
                    case {"type": "socketkeep.push", "message": said}:
                        pass
                    case {"text": said}:
                        pass
                received.append(said)
                await let_on.acquire()
                count += 1
                await send({"type": "socketkeep.commit", "state": count, "reply": f"{count}"})

        async with on_record(app) as served, await dial(served) as peer:
            await peer.send("one")
            await until(lambda: received == ["one"])
            served.push(b"two")
            mail = served.conn.hooks.mail
            await until(lambda: mail is not None and not mail.waiting)
            await peer.send("three")
            assert received == ["one"]
            let_on.release()
            assert await peer.recv() == "1"
            await until(lambda: received == ["one", b"two"])
            await served.die()  # a push comes at most once
            await until(lambda: received == ["one", b"two", "three"])
            let_on.release()
            assert await peer.recv() == "2"
            served.push(b"four")
            await until(lambda: received[3:] == [b"four"])
            let_on.release()
            assert await peer.recv() == "3"

    run(main())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "socketkeep.name"}, "socketkeep.name lacks 'name'"),
        ({"type": "socketkeep.name", "name": "n" * 129}, "a name has at most 128 characters"),
        ({"type": "socketkeep.name", "name": "a\nb"}, "a name has printable characters alone"),
        ({"type": "socketkeep.name", "name": 7}, "a name is text, not int"),
        ({"type": "socketkeep.join", "group": ""}, "a group has at least one character"),
        ({"type": "socketkeep.labels", "labels": []}, "labels are a mapping of texts to texts"),
        (
            {"type": "socketkeep.pushes", "to": "me"},
            "to is one of on_push, receive, text, bytes, not 'me'",
        ),
        ({"type": "socketkeep.pushes", "to": "on_push"}, "the application has no Service with one"),
    ],
)
def test_what_cannot_be_is_refused(message: MutableMapping[str, Any], said: str) -> None:
    """Where it is said, and the WebSocket goes on."""

    async def main() -> None:
        raised: list[str] = []

        async def app(_scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            try:
                await send(message)
            except RuntimeError as error:
                raised.append(str(error))
            await send({"type": "websocket.send", "text": "on"})
            await receive()

        async with bench(app) as served, await dial(served) as peer:
            assert await peer.recv() == "on"
            assert len(raised) == 1
            assert said in raised[0]

    run(main())
