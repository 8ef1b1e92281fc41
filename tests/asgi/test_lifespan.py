"""The lifespan: what the application is told at the start and the end of a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from socketkeep._serve.asgi._lifespan import lifespan_of
from tests.harness.asgi import Application, Receive, Scope, Send
from tests.harness.configuration import code_refused


async def live(app: Application, mode: str = "auto") -> dict[str, Any]:
    async with asyncio.timeout(10), lifespan_of(app, mode) as state:
        return dict(state)


def test_it_is_told_of_both_ends_and_leaves_a_state() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])
        scope["state"]["pool"] = 1
        await send({"type": "lifespan.startup.complete"})
        heard.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    assert asyncio.run(live(app)) == {"pool": 1}
    assert heard == ["lifespan.startup", "lifespan.shutdown"]


def test_one_that_says_it_cannot_start_does_not() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with code_refused("did not start: no database"):
        asyncio.run(live(app))


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    del receive, send
    assert scope["type"] == "http", "only HTTP"


async def returns(scope: Scope, receive: Receive, send: Send) -> None: ...


@pytest.mark.parametrize("app", [refuses, returns])
def test_one_that_has_none_is_served_without(app: Application) -> None:
    assert asyncio.run(live(app)) == {}


def test_one_that_must_have_one_and_raises_does_not_start() -> None:
    with code_refused("only HTTP"):
        asyncio.run(live(refuses, "on"))


def test_it_is_not_asked_where_it_is_off() -> None:
    assert asyncio.run(live(refuses, "off")) == {}


def test_one_that_fails_at_its_end_is_told_of() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise LookupError("the pool was gone")

    with pytest.raises(LookupError):
        asyncio.run(live(app))


def test_one_that_ends_early_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise LookupError("in the middle")

    async def run() -> None:
        async with asyncio.timeout(10), lifespan_of(app, "auto"):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert "lifespan failed" in caplog.text
