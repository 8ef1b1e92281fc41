"""Telling an ASGI application from a handler, a WSGI application and what is none."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from socketkeep import Service
from socketkeep._serve.asgi._application import handler_of, is_asgi, is_wsgi
from tests.harness.configuration import code_refused, configured


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


async def handler(conn: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    del environ, start_response
    return []


def sync(scope: Any, receive: Any, send: Any) -> None: ...


def factory() -> Callable[..., Any]:
    return asgi


class Framework:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Flask:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return wsgi(environ, start_response)


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    "target", [asgi, Framework(), functools.partial(asgi), Framework().__call__]
)
def test_an_application_is_seen_without_being_told(target: object) -> None:
    assert is_asgi(target)
    assert handler_of(target, configured("a:b")).resumable


@pytest.mark.parametrize("target", [handler, wsgi, sync, factory, Framework, Flask(), Asgi2, 1])
def test_others_are_not_taken_for_one(target: object) -> None:
    assert not is_asgi(target)


@pytest.mark.parametrize("target", [wsgi, Flask()])
def test_wsgi_is_seen(target: object) -> None:
    assert is_wsgi(target)


@pytest.mark.parametrize("target", [asgi, handler, Framework(), factory])
def test_others_are_not_taken_for_wsgi(target: object) -> None:
    assert not is_wsgi(target)


@pytest.mark.parametrize(
    ("target", "way"),
    [
        (wsgi, "is a WSGI application .* a2wsgi"),
        (Flask(), "is a WSGI application .* a2wsgi"),
        (sync, "is sync, and an ASGI application is async"),
        (handler, "a handler of a connection is served without --asgi"),
        (factory, "give --factory"),
        (Asgi2, "guarantee_single_callable"),
        (1, "is not callable"),
    ],
)
def test_what_is_none_is_named_with_the_way(target: object, way: str) -> None:
    with code_refused(way):
        handler_of(target, configured("a:b", asgi=True))


def test_a_service_of_one() -> None:
    """It is served as the application is, and has what pushes to WebSockets need."""
    served = handler_of(Service(asgi, on_taken="keep"), configured("a:b"))
    assert served.resumable
    assert served.on_push is not None


@pytest.mark.parametrize(
    ("service", "way"),
    [
        (Service(asgi, on_leaving=lambda conn, why, by: None), "on_leaving: .* sends .* a Close"),
        (Service(asgi, lifespan=nullcontext), "lifespan: .* one of its own"),
    ],
)
def test_what_a_service_of_one_cannot_have(service: Service, way: str) -> None:
    with code_refused() as caught:
        handler_of(service, configured("a:b"))
    assert re.search(f"a:b is a Service of an ASGI application, and has {way}", caught.value.text)
    assert "\n" not in caught.value.text


async def _of_a_connection(conn: object, message: bytes) -> None:
    """An `on_push` as a handler's service has it."""


@pytest.mark.parametrize(
    ("on_push", "said"),
    [
        (_of_a_connection, "on_push, .*_of_a_connection, takes a scope, a message and send: "),
        (lambda scope, message, send: None, "on_push, .*, is sync, .*: write async def"),
        ("none", "on_push, .*, is not callable: give a function of scope, message and send"),
    ],
)
def test_an_on_push_that_cannot_be(on_push: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        handler_of(Service(asgi, on_push=on_push), configured("a:b"))
