"""A counter over WebSockets, whose workers are killed: each answer comes once, by its commit."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.conformance.storm_of_kills import victims
from tests.harness import Server

_COUNTER: Final = """
async def app(scope, receive, send):
    count = scope["extensions"].get("socketkeep", {}).get("state") or 0
    while True:
        match await receive():
            case {"type": "websocket.connect"}:
                await send({"type": "websocket.accept"})
                await send({"type": "socketkeep.commit", "state": count})
            case {"type": "websocket.receive", "text": text}:
                count += 1
                reply = f"{count} {text}"
                await send({"type": "socketkeep.commit", "state": count, "reply": reply})
            case {"type": "lifespan.startup"}:
                await send({"type": "lifespan.startup.complete"})
            case _:
                return
"""
_WORKERS: Final = 4
_CLIENTS: Final = 6
_KILLS: Final = 100
_SEED: Final = 20261129
#: Seconds in which each answer has come, whatever is killed meanwhile.
_PATIENCE: Final = 10.0


class _Talk:
    """One client, which asks for several answers at once, and whether the server is there."""

    def __init__(self, client: ClientConnection, number: int) -> None:
        self.answered = 0
        self._client = client
        self._drawn = random.Random(number)

    async def go_on(self, over: asyncio.Event) -> None:
        drawn, client = self._drawn, self._client
        while not over.is_set():
            said = [
                "".join(drawn.choices(("alpha ", "beta ", "gamma "), k=drawn.randint(0, 99)))
                for _ in range(drawn.randint(1, 4))
            ]
            for each in said:
                await client.send(each)
                if drawn.random() < 0.2:
                    await client.ping()
            for each in said:
                self.answered += 1
                answer = await asyncio.wait_for(client.recv(), _PATIENCE)
                assert answer == f"{self.answered} {each}"


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_each_answer_comes_once_through_kills(tmp_path: Path, compression: str | None) -> None:
    async def main(server: Server) -> None:
        drawn = random.Random(_SEED)
        over = asyncio.Event()
        clients = [
            await connect(f"ws://{server.address}", compression=compression, ping_interval=None)
            for _ in range(_CLIENTS)
        ]
        talks = [_Talk(client, number) for number, client in enumerate(clients)]
        tasks = [asyncio.create_task(talk.go_on(over)) for talk in talks]

        def kept() -> bool:
            return bool(server.status()["connections"]["kept"] == _CLIENTS)

        await asyncio.to_thread(server.wait_until, kept, "all kept")
        kills = 0
        while kills < _KILLS and not any(task.done() for task in tasks):
            before = sum(talk.answered for talk in talks)
            until = asyncio.get_running_loop().time() + 2.0
            while sum(talk.answered for talk in talks) < before + drawn.randrange(1, 20):
                if asyncio.get_running_loop().time() > until:
                    break  # who is killed may be who has just begun
                await asyncio.sleep(0.0005)
            for pid in await asyncio.to_thread(victims, server):
                await asyncio.sleep(drawn.uniform(0.0, 0.004))  # any moment of a message, or none
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        over.set()
        await asyncio.gather(*tasks)
        totals = (await asyncio.to_thread(server.status))["totals"]
        assert totals["attached"]["crash"] > _KILLS / 2
        assert totals["lost"] == 0
        for client in clients:
            await client.close()

    (tmp_path / "counter.py").write_text(_COUNTER)
    arguments = f"--ws-redeliver --keep crash --keep-after 0 --workers {_WORKERS}"
    with Server(tmp_path, "counter:app", *arguments.split(), "--poison-limit", "1000000") as server:
        asyncio.run(asyncio.wait_for(main(server), 30))
