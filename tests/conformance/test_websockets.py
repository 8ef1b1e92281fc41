"""WebSockets, by Autobahn's cases, a crowd of `websockets`' clients, Channels and python-socketio.

All of it while the server reloads.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.harness import Server
from tests.websocket.bench import until

kosoku = import_module("kosoku")  # it has no types

_ECHO: Final = """
async def app(scope, receive, send):
    while True:
        message = await receive()
        match message["type"]:
            case "websocket.connect":
                await send({"type": "websocket.accept"})
            case "websocket.receive":
                await send({**message, "type": "websocket.send"})
            case "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            case _:
                return
"""


@asynccontextmanager
async def _reloading(server: Server, every: float = 1.0) -> AsyncIterator[list[int]]:
    """Reload the server again and again; the list has the exit codes."""
    codes: list[int] = []
    over = asyncio.Event()

    async def reload() -> None:
        while not over.is_set():
            codes.append((await asyncio.to_thread(server.cli, "reload")).exit_code)
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), every)

    reloads = asyncio.create_task(reload())
    try:
        yield codes
    finally:
        over.set()
        await reloads


#: Of 12 and 13, a thousand compressed messages a case, one of each kind: all take many minutes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kosoku's files
@pytest.mark.parametrize(
    ("included", "count", "every"),
    [
        (["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"], 247, 1.0),
        (["9.*"], 54, 1.0),
        # These take little more than a second.
        (["12.1.1", "12.1.3", "12.3.3", "13.1.1", "13.3.3", "13.5.1", "13.7.3"], 7, 0.2),
    ],
)
def test_autobahns_cases_while_it_reloads(
    tmp_path: Path, included: list[str], count: int, every: float
) -> None:
    async def main(server: Server) -> None:
        async with _reloading(server, every) as codes:
            results = await kosoku.run_fuzzingclient(
                f"ws://{server.address}", included, None, concurrency=2
            )
        assert len(results) == count
        # NON-STRICT is a rule that is kept, but not at the first moment; INFORMATIONAL none at all.
        assert all(each.passed for each in results)
        assert len(codes) >= 2
        assert not any(codes)

    (tmp_path / "site_app.py").write_text(_ECHO)
    # A ping of the server's ends a case of Autobahn's, as if it had seen all that it waits for.
    arguments = ("--ws-resume", "on", "--keep", "crash", "-w", "2", "--ws-ping-interval", "0")
    with Server(tmp_path, "site_app:app", *arguments) as server:
        asyncio.run(main(server))


def test_a_thousand_clients_through_reloads(tmp_path: Path) -> None:
    async def talk(client: ClientConnection, over: asyncio.Event, said: Counter[str]) -> None:
        number = 0
        while not over.is_set():
            number += 1
            await client.send(f"message {number}")
            assert await client.recv() == f"message {number}"
            said["messages"] += 1
            await asyncio.sleep(0.5)

    async def main(server: Server) -> None:
        said: Counter[str] = Counter()
        over = asyncio.Event()
        gate = asyncio.Semaphore(50)

        async def one() -> ClientConnection:
            async with gate:
                return await connect(f"ws://{server.address}/", ping_interval=None)

        clients = await asyncio.gather(*(one() for _ in range(1000)))
        talks = [asyncio.create_task(talk(client, over, said)) for client in clients]
        for _ in range(3):
            before = said["messages"]
            done = await asyncio.to_thread(server.cli, "reload")
            assert done.exit_code == 0, done.stderr
            await until(lambda before=before: said["messages"] >= before + 1000)  # type: ignore[misc]
        over.set()
        await asyncio.gather(*talks)
        await asyncio.gather(*(client.close() for client in clients))

    (tmp_path / "site_app.py").write_text(_ECHO)
    with Server(tmp_path, "site_app:app", "--ws-resume", "on", "-w", "2") as server:
        asyncio.run(main(server))


def test_kills_and_reloads_under_load(tmp_path: Path) -> None:
    """A worker's death ends those that it was answering; no other message is lost or repeated."""

    async def talk(uri: str, number: int, over: asyncio.Event, told: Counter[str]) -> None:
        rng = random.Random(number)
        compression = "deflate" if number % 3 else None
        while not over.is_set():
            with suppress(ConnectionClosed):
                async with connect(uri, compression=compression, ping_interval=None) as client:
                    told["opened"] += 1
                    while not over.is_set():
                        said = "".join(
                            rng.choices(("alpha ", "beta ", "gamma "), k=rng.randint(0, 99))
                        )
                        told["sent"] += 1
                        said = f"{told['sent']} {said}"
                        await client.send(said)
                        assert await asyncio.wait_for(client.recv(), 20) == said
                        told["answered"] += 1
                        await asyncio.sleep(rng.random() / 10)

    async def main(server: Server) -> None:
        told: Counter[str] = Counter()
        over = asyncio.Event()
        uri = f"ws://{server.address}/"
        talks = [asyncio.create_task(talk(uri, number, over, told)) for number in range(40)]
        kills = 0
        for turn in range(12):
            before = told["answered"]
            if turn % 3 == 2:
                done = await asyncio.to_thread(server.cli, "reload")
                assert done.exit_code == 0, done.stderr
            else:
                workers = await asyncio.to_thread(server.workers)
                os.kill(workers[turn % len(workers)]["pid"], signal.SIGKILL)
                kills += 1
            await until(lambda before=before: told["answered"] > before + 200)  # type: ignore[misc]
        over.set()
        await asyncio.gather(*talks)
        # At a death most wait: they are clean, and stay open.
        assert told["opened"] < 40 + kills * 10

    (tmp_path / "site_app.py").write_text(_ECHO)
    arguments = ("--ws-resume", "on", "--keep", "crash", "--keep-after", "0", "-w", "2")
    with Server(tmp_path, "site_app:app", *arguments, "--poison-limit", "1000") as server:
        asyncio.run(main(server))


#: Of the tutorial of Channels: https://channels.readthedocs.io/en/latest/tutorial/part_3.html
_CHAT: Final = """
import json, os

from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)

import django

django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import re_path


class ChatConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.room_group_name = "chat_" + self.scope["url_route"]["kwargs"]["room_name"]
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        await self.accept()

    async def disconnect(self, close_code):
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    async def receive(self, text_data):
        message = json.loads(text_data)["message"]
        event = {"type": "chat.message", "message": message, "pid": os.getpid()}
        await self.channel_layer.group_send(self.room_group_name, event)

    async def chat_message(self, event):
        await self.send(text_data=json.dumps({"message": event["message"], "pid": event["pid"]}))


routes = [re_path(r"ws/chat/(?P<room_name>\\w+)/$", ChatConsumer.as_asgi())]
application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": AllowedHostsOriginValidator(URLRouter(routes)),
})
"""


def test_the_chat_of_channels_tutorial(tmp_path: Path) -> None:
    import json

    async def main(server: Server) -> None:
        uri = f"ws://{server.address}/ws/chat/lobby/"
        async with (
            connect(uri, origin="http://localhost") as one,  # type: ignore[arg-type]
            connect(uri, origin="http://localhost") as two,  # type: ignore[arg-type]
        ):
            pids = set()
            for round_ in range(4):
                # A group is joined again at the move: until both are, one may miss a message.
                for speaker, text in ((one, f"a{round_}"), (two, f"b{round_}")):
                    await speaker.send(json.dumps({"message": text}))
                    for listener in (one, two):
                        heard = json.loads(await listener.recv())
                        assert heard["message"] == text
                        pids.add(heard["pid"])
                done = await asyncio.to_thread(server.cli, "reload")
                assert done.exit_code == 0, done.stderr
                await asyncio.to_thread(server.wait_clean)
            assert len(pids) == 4

    (tmp_path / "chat.py").write_text(_CHAT)
    with Server(tmp_path, "chat:application", "--asgi", "--ws-resume", "on") as server:
        asyncio.run(main(server))


#: A program that is no worker sends to the group, as a command of Django's does.
_OUTSIDE: Final = """
import sys
from asgiref.sync import async_to_sync
from socketkeep.channels import Layer

layer = Layer(control=sys.argv[1])
event = {"type": "chat.message", "message": "outside", "pid": 0}
async_to_sync(layer.group_send)("chat_lobby", event)
"""


def test_channels_over_several_workers(tmp_path: Path) -> None:
    """The same chat by the server's own layer: all hear all, once, and through a reload too."""
    import json

    number = 6

    async def hear(client: ClientConnection, last: str) -> list[str]:
        heard: list[str] = []
        while last not in heard:
            heard.append(json.loads(await asyncio.wait_for(client.recv(), 20))["message"])
        return heard

    async def main(server: Server) -> None:
        uri = f"ws://{server.address}/ws/chat/lobby/"
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    connect(uri, origin="http://localhost")  # type: ignore[arg-type]
                )
                for _ in range(number)
            ]
            assert len({each["owner"] for each in server.connections()}) == 2
            for _ in range(2):
                # Whoever hears itself has joined, after a move too.
                for each, client in enumerate(clients):
                    await client.send(json.dumps({"message": f"joined {each}"}))
                    await hear(client, f"joined {each}")
                for client in clients[:-1]:
                    await hear(client, f"joined {number - 1}")
                said = [f"{each}{text}" for each in range(number) for text in "xyz"]
                for text in said:
                    await clients[int(text[0])].send(json.dumps({"message": text}))
                for client in clients:
                    heard = [json.loads(await client.recv())["message"] for _ in said]
                    assert sorted(heard) == said
                    for speaker in range(number):
                        mine = [each for each in heard if each[0] == str(speaker)]
                        assert mine == sorted(mine)
                outside = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", _OUTSIDE, str(server.control))
                )
                assert await outside.wait() == 0
                for client in clients:
                    assert await hear(client, "outside") == ["outside"]
                done = await asyncio.to_thread(server.cli, "reload")
                assert done.exit_code == 0, done.stderr
                await asyncio.to_thread(server.wait_clean)

    layer = "socketkeep.channels.Layer"
    (tmp_path / "chat.py").write_text(_CHAT.replace("channels.layers.InMemoryChannelLayer", layer))
    options = ("--asgi", "--ws-resume", "on", "-w", "2")
    with Server(tmp_path, "chat:application", *options) as server:
        asyncio.run(main(server))


_SOCKETIO: Final = """
import socketio

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)


@server.event
async def double(sid, number):
    return 2 * number
"""


def test_python_socketio_connects_again(tmp_path: Path) -> None:
    """Its sessions are in the memory of the process: it is told to come again, by 1012."""
    import socketio

    async def main(server: Server) -> None:
        client: Any = socketio.AsyncClient(reconnection_delay=0.1)
        connected = asyncio.Queue[None]()
        client.on("connect", lambda: connected.put_nowait(None))
        await client.connect(f"http://{server.address}", transports=["websocket"])
        await asyncio.wait_for(connected.get(), 10)
        assert await client.call("double", 21, timeout=10) == 42
        done = await asyncio.to_thread(server.cli, "reload")
        assert done.exit_code == 0, done.stderr
        await asyncio.wait_for(connected.get(), 20)
        assert await client.call("double", 4, timeout=10) == 8
        await client.disconnect()

    (tmp_path / "site_app.py").write_text(_SOCKETIO)
    with Server(tmp_path, "site_app:app", "--asgi", "--graceful-timeout", "2") as server:
        asyncio.run(main(server))


_LITESTAR: Final = """
from collections.abc import AsyncGenerator
import asyncio, os
from litestar import Litestar, WebSocket, websocket, websocket_listener, websocket_stream


def note(what):
    with open("notes", "a") as file:
        print(what, file=file)


async def on_accept(socket: WebSocket) -> None:
    note("accept")


async def on_disconnect(socket: WebSocket) -> None:
    note("disconnect")


@websocket_listener("/listener", on_accept=on_accept, on_disconnect=on_disconnect)
async def listener(data: str) -> str:
    return f"{os.getpid()} {data}"


@websocket("/route")
async def route(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("welcome")
    try:
        while True:
            await socket.send_text(f"{os.getpid()} {await socket.receive_text()}")
    except BaseException as error:
        note(type(error).__name__)
        raise


@websocket_stream("/stream")
async def stream() -> AsyncGenerator[str, None]:
    for number in range(1000):
        yield f"{os.getpid()} {number}"
        await asyncio.sleep(0.05)


app = Litestar([listener, route, stream])
"""

_QUART: Final = """
import asyncio, os
from quart import Quart, websocket

app = Quart(__name__)


@app.websocket("/listener")
async def listener():
    while True:
        await websocket.send(f"{os.getpid()} {await websocket.receive()}")


@app.websocket("/route")
async def route():
    await websocket.accept()
    await websocket.send("welcome")
    try:
        while True:
            await websocket.send(f"{os.getpid()} {await websocket.receive()}")
    except BaseException as error:
        with open("notes", "a") as file:
            print(type(error).__name__, file=file)
        raise


@app.websocket("/stream")
async def stream():
    for number in range(1000):
        await websocket.send(f"{os.getpid()} {number}")
        await asyncio.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("source", "notes"),
    [
        (_LITESTAR, ["WebSocketDisconnect", "accept", "accept", "disconnect"]),
        (_QUART, ["CancelledError"]),
    ],
    ids=["litestar", "quart"],
)
def test_what_frameworks_do_at_a_move(tmp_path: Path, source: str, notes: list[str]) -> None:
    """As the page on WebSockets lists it: greetings come again, and streams begin anew."""

    async def number(client: ClientConnection) -> tuple[int, int]:
        pid, count = str(await asyncio.wait_for(client.recv(), 20)).split()
        return int(pid), int(count)

    async def main(server: Server) -> None:
        uri = f"ws://{server.address}"
        async with (
            connect(f"{uri}/listener") as listener,
            connect(f"{uri}/route") as route,
            connect(f"{uri}/stream") as stream,
        ):
            assert await route.recv() == "welcome"
            old, _ = await number(stream)
            for client in (listener, route):
                await client.send("a")
                assert await client.recv() == f"{old} a"
            done = await asyncio.to_thread(server.cli, "reload")
            assert done.exit_code == 0, done.stderr
            assert await asyncio.wait_for(route.recv(), 20) == "welcome"
            while (heard := await number(stream))[0] == old:
                pass
            new, count = heard
            assert count == 0
            for client in (listener, route):
                await client.send("b")
                assert await client.recv() == f"{new} b"
            noted = tmp_path / "notes"
            await until(lambda: sorted(noted.read_text().split()) == notes)

    (tmp_path / "site_app.py").write_text(source)
    with Server(tmp_path, "site_app:app", "--asgi", "--ws-resume", "on") as server:
        asyncio.run(main(server))
