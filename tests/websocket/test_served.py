"""WebSockets of a whole server, by `websockets`' own client: reloads, kills, upgrades, parking."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.harness import Server
from tests.websocket.bench import PATIENCE, run

_APP = """
import os

async def app(scope, receive, send):
    ours = scope["extensions"].get("socketkeep", {}) if scope["type"] == "websocket" else {}
    count, commits = ours.get("state") or 0, scope.get("path") == "/counted"
    while True:
        message = await receive()
        match message:
            case {"type": "websocket.connect"}:
                await send({"type": "websocket.accept"})
            case {"type": "websocket.receive", "text": "who"}:
                await send({"type": "websocket.send", "text": f"VERSION {os.getpid()}"})
                if commits:
                    await send({"type": "socketkeep.commit", "state": count})
            case {"type": "websocket.receive", "text": text}:
                count += 1
                await send({"type": "websocket.send", "text": f"{count} {text}"})
                if commits:
                    await send({"type": "socketkeep.commit", "state": count})
            case {"type": "lifespan.startup"}:
                await send({"type": "lifespan.startup.complete"})
            case _:
                return
"""


def _write(directory: Path, version: str) -> str:
    (directory / "site_app.py").write_text(_APP.replace("VERSION", version))
    return "site_app:app"


async def _who(client: ClientConnection) -> tuple[str, int]:
    await client.send("who")
    version, pid = str(await client.recv()).split()
    return version, int(pid)


def _port(client: ClientConnection) -> int:
    return int(client.local_address[1])


def test_through_reloads_kills_and_an_upgrade(tmp_path: Path) -> None:
    target = _write(tmp_path, "1")

    async def main(server: Server) -> None:
        rng = random.Random(11)
        uri = f"ws://{server.address}"
        async with (
            connect(f"{uri}/counted") as client,
            connect(f"{uri}/", compression=None) as plain,
        ):
            assert client.protocol.extensions
            ports = _port(client), _port(plain)
            count = 0

            async def talk() -> None:
                nonlocal count
                for _ in range(20):
                    count += 1
                    said = "".join(rng.choices(("hello ", "world ", "é"), k=rng.randint(0, 300)))
                    await client.send(said)
                    assert await client.recv() == f"{count} {said}"
                    await plain.send(said)
                    assert str(await plain.recv()).partition(" ")[2] == said

            await talk()
            _write(tmp_path, "2")
            assert (await asyncio.to_thread(server.reload)).exit_code == 0
            assert (await _who(client))[0] == (await _who(plain))[0] == "2"
            await talk()
            for each in (client, plain):
                _, pid = await _who(each)
                await asyncio.to_thread(server.wait_clean)
                os.kill(pid, signal.SIGKILL)
                await talk()
            assert (await asyncio.to_thread(server.cli, "upgrade")).exit_code == 0
            await talk()
            assert ports == (_port(client), _port(plain))

    arguments = ("--ws-resume", "on", "--keep", "crash", "--keep-after", "0", "-w", "2")
    with Server(tmp_path, target, *arguments) as server:
        run(main(server))


_BESIDE = """
import asyncio

done = asyncio.Event()

async def app(scope, receive, send):
    while True:
        match await receive():
            case {"type": "websocket.connect"}:
                await send({"type": "websocket.accept"})
            case {"type": "websocket.receive", "text": "done"}:
                done.set()
            case {"type": "websocket.receive"}:
                await send({"type": "websocket.send", "text": "answer"})
                await done.wait()
            case {"type": "lifespan.startup"}:
                await send({"type": "lifespan.startup.complete"})
            case _:
                return
"""


def test_what_is_answered_is_not_committed_before_the_application_asks_for_more(
    tmp_path: Path,
) -> None:
    # The server's reader waits meanwhile, so that `busy` does not tell: a kill would cost it.
    (tmp_path / "site_app.py").write_text(_BESIDE)

    async def main(server: Server) -> None:
        async with connect(f"ws://{server.address}/") as client:
            await client.send("ask")
            assert await client.recv() == "answer"
            (row,) = await asyncio.to_thread(server.connections)
            assert (row["busy"], row["committed"]) == (False, False)
            async with connect(f"ws://{server.address}/") as other:
                await other.send("done")
                await asyncio.to_thread(server.wait_clean)

    arguments = ("--ws-resume", "on", "--keep", "crash", "-w", "1")
    with Server(tmp_path, "site_app:app", *arguments) as server:
        run(main(server))


async def _closed(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(client.recv(), PATIENCE)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def test_what_is_not_kept_is_told_to_come_again(tmp_path: Path) -> None:
    target = _write(tmp_path, "1")

    async def main(server: Server) -> None:
        async with connect(f"ws://{server.address}/") as client:
            assert (await _who(client))[0] == "1"
            _write(tmp_path, "2")
            assert (await asyncio.to_thread(server.reload)).exit_code == 0
            assert (await _who(client))[0] == "1"
            assert await _closed(client) == 1012
        async with connect(f"ws://{server.address}/") as client:
            assert (await _who(client))[0] == "2"
            server.signal(signal.SIGTERM)
            assert await _closed(client) == 1012
        assert await asyncio.to_thread(server.wait_exit) == 0

    with Server(tmp_path, target, "--graceful-timeout", "2") as server:
        run(main(server))


def test_parked(tmp_path: Path) -> None:
    target = _write(tmp_path, "1")

    async def main(server: Server) -> None:
        def parked() -> bool:
            (only,) = server.connections()
            return bool(only["state"] == "parked")

        async with connect(f"ws://{server.address}/counted") as client:
            await client.send("a")
            assert await client.recv() == "1 a"
            await asyncio.to_thread(server.wait_until, parked, "parked")
            await client.send("marco")
            assert await client.recv() == "polo"
            await asyncio.to_thread(server.wait_until, parked, "parked again")
            pid = server.workers()[0]["pid"]
            os.kill(pid, signal.SIGKILL)  # it has no part in what is parked
            await client.send("b")
            assert await client.recv() == "2 b"

    arguments = ("--park-after", "0.05", "--ws-auto-response", "marco=polo", "-w", "1")
    with Server(tmp_path, target, *arguments) as server:
        run(main(server))


_CALLED = """
async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    ours = scope["extensions"]
    while True:
        match await receive():
            case {"type": "websocket.connect"}:
                await send({"type": "websocket.accept"})
                if ours["socketkeep"]["attached"] == "accepted":
                    name = scope["path"][1:]
                    await send({"type": "socketkeep.name", "name": name})
                    await send({"type": "socketkeep.join", "group": "all"})
                    if name == "raw":
                        await send({"type": "socketkeep.pushes", "to": "text"})
                await send({"type": "socketkeep.commit"})
            case {"type": "socketkeep.push", "message": message}:
                how = ours["socketkeep"]["attached"], ours["socketkeep.push"]["name"]
                await send({"type": "websocket.send", "text": f"VERSION {how} {message}"})
                await send({"type": "socketkeep.commit"})
            case {"type": "websocket.disconnect"}:
                return
"""


def test_pushed_to(tmp_path: Path) -> None:
    """By the command line: with a worker, parked, and after a reload; to a group; one by name."""

    def write(version: str) -> str:
        (tmp_path / "site_app.py").write_text(_CALLED.replace("VERSION", version))
        return "site_app:app"

    async def main(server: Server) -> None:
        def parked() -> bool:
            return bool(server.status()["connections"]["parked"] == 2)

        async def push(*command: str) -> None:
            done = await asyncio.to_thread(server.cli, *command)
            assert done.exit_code == 0, done.stderr

        uri = f"ws://{server.address}"
        async with connect(f"{uri}/bob") as bob, connect(f"{uri}/raw") as raw:
            await asyncio.to_thread(server.wait_until, parked, "both are parked")
            await push("push", "bob", "one")
            assert await bob.recv() == "1 ('pushed', 'bob') b'one'"
            await push("push", "raw", "two")
            assert await raw.recv() == "two"
            write("2")
            assert (await asyncio.to_thread(server.reload)).exit_code == 0
            await push("publish", "all", "three")
            assert str(await bob.recv()).startswith("2 ")
            assert await raw.recv() == "three"
            async with connect(f"{uri}/bob") as other:
                assert await _ended(bob) == 1006
                await push("push", "bob", "four")
                assert str(await other.recv()).endswith("'bob') b'four'")

    with Server(tmp_path, write("1"), "--park-after", "0.05", "-w", "2") as server:
        run(main(server))


_FRAMED = """
import json
from socketkeep import Service

async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    while True:
        match await receive():
            case {"type": "websocket.connect"}:
                await send({"type": "websocket.accept"})
                if scope["extensions"]["socketkeep"]["attached"] == "accepted":
                    await send({"type": "socketkeep.name", "name": "bob"})
                await send({"type": "socketkeep.commit"})
            case {"type": "websocket.disconnect"}:
                return
            case other:
                raise ValueError(other)

async def on_push(scope, message, send):
    if message == b"bye":
        await send({"type": "websocket.close", "code": 4001})
    text = json.dumps({"VERSION": message.decode(), "path": scope["path"]})
    await send({"type": "websocket.send", "text": text})

service = Service(app, on_push=on_push)
"""


def test_pushed_to_through_the_services_function(tmp_path: Path) -> None:
    """Parked, after its worker's death, and by the new code after a reload; it may close, too."""

    def write(version: str) -> str:
        (tmp_path / "site_app.py").write_text(_FRAMED.replace("VERSION", version))
        return "site_app:service"

    async def main(server: Server) -> None:
        def parked() -> bool:
            return bool(server.status()["connections"]["parked"] == 1)

        async def push(message: str) -> None:
            await asyncio.to_thread(server.wait_until, parked, "it is parked")
            done = await asyncio.to_thread(server.cli, "push", "bob", message)
            assert done.exit_code == 0, done.stderr

        async with connect(f"ws://{server.address}/a") as bob:
            await push("one")
            assert await bob.recv() == '{"1": "one", "path": "/a"}'
            (only,) = server.workers()
            os.kill(only["pid"], signal.SIGKILL)
            await push("two")
            assert await bob.recv() == '{"1": "two", "path": "/a"}'
            write("2")
            assert (await asyncio.to_thread(server.reload)).exit_code == 0
            await push("three")
            assert await bob.recv() == '{"2": "three", "path": "/a"}'
            await push("bye")
            assert await _ended(bob) == 4001
        assert not server.find("on_push failed")

    options = ("--park-after", "0.05", "-w", "1", "--keep", "crash")
    with Server(tmp_path, write("1"), *options) as server:
        run(main(server))


async def _ended(client: ClientConnection) -> int:
    await asyncio.wait_for(client.wait_closed(), PATIENCE)
    return client.close_code or 0
