"""Commits that take an answer along, and the next worker after a death in between."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from socketkeep import AsyncConnection
from tests.harness.asgi import Application, Scope
from tests.harness.seam import KeptRow, order_to
from tests.library.conftest import tcp_pair
from tests.websocket.bench import PATIENCE, Bench, OnPush, bench, dial, echo, run, until

SAID = ["alpha beta gamma " * 9, "beta gamma alpha " * 9, "gamma alpha beta " * 9]


class OnRecord(Bench):
    """As with ``--ws-redeliver --keep crash``, over TCP."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        for each in (self._sock, self.client_sock):
            each.close()
        self._sock, self.client_sock = tcp_pair()
        self.kept = KeptRow()

    def begin(self, attached: str, state: bytes | None = None, unread: bytes = b"") -> None:
        told = {"unread": unread, "park_after": self.park_after}
        if attached == "crash":
            given = self.kept.after_a_crash(**told)
        else:
            given = self.kept.leased(attached=attached, state=state, **told)
        self.conn = AsyncConnection(self._sock, **given)
        self.enter_post()
        self.task = asyncio.get_running_loop().create_task(self._handle(self.conn))
        self.times_served += 1

    async def _handle(self, conn: AsyncConnection) -> None:
        await conn.complete_reply()
        await super()._handle(conn)

    async def die(self) -> None:
        """Have its worker die as it is, and serve it in the next one."""
        self._sock = socket.socket(fileno=os.dup(self.conn.fileno()))
        state, reply = self.kept.state, self.kept.reply
        self.conn._give_up()
        self.task.cancel()
        await asyncio.wait((self.task, *self.site.leaving))
        self.kept.commit(state, reply)
        self.begin("crash")

    def room(self) -> int:
        """Return the size of the socket's receive buffer."""
        with socket.socket(fileno=os.dup(self.conn.fileno())) as sock:
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def saved(self) -> Any:
        """What is on record of the WebSocket."""
        state = self.kept.state
        return None if state is None else msgspec.msgpack.decode(state)["websocket"]


@asynccontextmanager
async def on_record(app: Application, on_push: OnPush | None = None) -> AsyncIterator[OnRecord]:
    async with bench(app, kind=OnRecord, on_push=on_push) as served:
        assert isinstance(served, OnRecord)
        yield served


class Counter:
    """Replies to each message by its number.  It waits before those for which it is not let on."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.let_on = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        count = scope["extensions"]["socketkeep"]["state"] or 0
        while True:
            message = await receive()
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
                await send({"type": "socketkeep.commit", "state": count})
            elif message["type"] == "websocket.disconnect":
                return
            else:
                text = message["text"]
                self.received.append(text)
                await self.let_on.acquire()
                count += 1
                if text == "send":
                    await send({"type": "websocket.send", "text": "beside"})
                    await self.let_on.acquire()
                reply = f"{count} {text}"
                await send({"type": "socketkeep.commit", "state": count, "reply": reply})


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_message_is_had_again_and_answered_once(compression: str | None) -> None:
    async def main() -> None:
        app = Counter()
        async with (
            on_record(app) as served,
            await dial(served, compression=compression) as client,
        ):
            for said in SAID:
                await client.send(said)
            app.let_on.release()
            assert await client.recv() == f"1 {SAID[0]}"
            await until(lambda: len(app.received) == 2)
            await served.die()  # in the middle of the second message, with the third ahead
            for _ in SAID:
                app.let_on.release()
            assert await client.recv() == f"2 {SAID[1]}"
            assert await client.recv() == f"3 {SAID[2]}"
            assert app.received == [SAID[0], SAID[1], SAID[1], SAID[2]]
            await client.send("the last")
            assert await client.recv() == "4 the last"

    run(main())


def test_the_record_has_the_windows_as_they_are_after_the_reply() -> None:
    async def main() -> None:
        app = Counter()
        async with (
            on_record(app) as served,
            await dial(served, compression="deflate") as client,
        ):
            for said in SAID:
                await client.send(said)
            app.let_on.release()
            answer = f"1 {SAID[0]}"
            assert await client.recv() == answer
            await until(lambda: len(app.received) == 2)
            # The second message is inflated already, and the third has come: neither is in it.
            *_, inbound, outbound = served.saved["deflate"]
            assert inbound.decode() == SAID[0]
            assert outbound.decode() == answer
            assert msgspec.msgpack.decode(served.saved["state"]) == 1
            assert served.saved["deflate"][:2] == [12, 12]
            for _ in SAID:
                app.let_on.release()

    run(main())


def test_what_is_sent_beside_its_commit_binds_it_to_its_worker() -> None:
    async def main() -> None:
        app = Counter()
        async with on_record(app) as served, await dial(served) as client:
            await client.send("send")
            app.let_on.release()
            assert await client.recv() == "beside"
            assert served.kept.row.status == "bound"
            app.let_on.release()
            assert await client.recv() == "1 send"
            await until(lambda: served.kept.row.status != "bound")

    run(main())


@pytest.mark.parametrize("kind", [Bench, OnRecord])
def test_it_moves_after_its_reply_if_it_was_asked_before(kind: type[Bench]) -> None:
    async def main() -> None:
        app = Counter()
        async with bench(app, kind=kind) as served, await dial(served) as client:
            await client.send("a")
            await until(lambda: app.received == ["a"])
            served.conn.ask(order_to("move", PATIENCE))
            app.let_on.release()
            assert await client.recv() == "1 a"
            handoff = await served.left()
            served.begin("reload", handoff.state, handoff.unread)
            app.let_on.release()
            await client.send("b")
            assert await client.recv() == "2 b"

    run(main())


def test_a_message_is_larger_than_what_the_kernel_holds() -> None:
    async def main() -> None:
        async with on_record(echo) as served, await dial(served, max_size=None) as client:
            await client.send("first")
            assert await client.recv() == "first"
            room = served.room()
            await client.send(bytes(500_000))
            assert await client.recv() == bytes(500_000)
            await client.send([bytes(50_000)] * 10)
            assert await client.recv() == bytes(500_000)
            assert served.room() == room, "it was not enlarged"

    run(main())


def test_a_reply_that_the_peer_does_not_read_is_completed() -> None:
    async def main() -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            state = scope["extensions"]["socketkeep"]["state"] or 0
            while True:
                message = await receive()
                if message["type"] == "websocket.connect":
                    await send({"type": "websocket.accept"})
                    await send({"type": "socketkeep.commit", "state": state})
                elif message["type"] == "websocket.disconnect":
                    return
                else:
                    state += 1
                    reply = bytes((state % 256,)) * 50000
                    await send({"type": "socketkeep.commit", "state": state, "reply": reply})

        async with on_record(app) as served, await dial(served) as client:
            client.transport.pause_reading()
            asked = 0
            while served.conn._out is None or not served.conn._out:
                asked += 1
                await client.send("more")
                await asyncio.sleep(0.001)
                assert asked < 5000
            for _ in range(3):
                await client.send("more")
            await served.die()
            client.transport.resume_reading()
            for number in range(1, asked + 4):
                assert await client.recv() == bytes((number % 256,)) * 50000
            await client.send("more")
            assert await client.recv() == bytes(((asked + 4) % 256,)) * 50000

    run(main())
