"""What is taken for a handler, and what is refused with which words."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from socketkeep import HandlerError, Service, resumable
from socketkeep._net._handlers import inspect_handler, served_as


def plain(conn: object) -> None: ...


async def coroutine(conn: object) -> None: ...


@resumable
def marked(conn: object) -> None: ...


@resumable(state=dict[str, int], on_crash="resume", redeliver=True)
async def marked_with_options(conn: object) -> None: ...


class Instance:
    def __call__(self, conn: object) -> None: ...

    @resumable
    async def method(self, conn: object) -> None: ...


class AsyncInstance:
    @resumable(state=int)
    async def __call__(self, conn: object) -> None: ...


def with_more(conn: object, *, greeting: str = "hello") -> None: ...


def of_two(prefix: str, conn: object) -> None: ...


def wrapped(call: Callable[[object], object]) -> Callable[[object], object]:
    @functools.wraps(call)
    def inner(conn: object) -> object:
        return call(conn)

    return inner


@pytest.mark.parametrize(
    ("target", "is_async", "is_resumable"),
    [
        (plain, False, False),
        (coroutine, True, False),
        (marked, False, True),
        (marked_with_options, True, True),
        (Instance(), False, False),
        (Instance().method, True, True),
        (AsyncInstance(), True, True),
        (functools.partial(marked), False, True),
        (functools.partial(functools.partial(marked_with_options)), True, True),
        (functools.partial(of_two, "x"), False, False),
        (with_more, False, False),
        (lambda conn: None, False, False),
        (lambda *conns: None, False, False),
        (wrapped(marked), False, True),
        (print, False, False),
    ],
)
def test_handlers(target: Any, is_async: bool, is_resumable: bool) -> None:
    handler = inspect_handler(target)
    assert (handler.is_async, handler.resumable) == (is_async, is_resumable)
    assert handler.call == target


def test_options_are_what_was_given() -> None:
    handler = inspect_handler(marked_with_options)
    assert handler.state_type == dict[str, int]
    assert (handler.on_crash, handler.redeliver) == ("resume", True)
    assert inspect_handler(AsyncInstance()).state_type is int
    bare = inspect_handler(marked)
    assert (bare.state_type, bare.on_crash, bare.redeliver) == (Any, "close", False)


def generator(conn: object) -> Iterator[None]:
    yield


async def async_generator(conn: object) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (3, "an object of type int is not callable"),
        (None, "NoneType is not callable"),
        (Instance, "Instance is a class: give a function, or an instance"),
        (generator, "generator has a yield"),
        (async_generator, "async_generator has a yield"),
        (functools.partial(generator), "has a yield"),
        (lambda: None, r"<lambda>\(\) cannot be called with one argument, the connection"),
        (of_two, "cannot be called with one argument.*missing a required argument: 'conn'"),
        (Instance.method, "cannot be called with one argument"),
        (Service(3), "int is not callable"),  # type: ignore[arg-type]
    ],
)
def test_refused(target: object, reason: str) -> None:
    with pytest.raises(HandlerError, match=reason):
        inspect_handler(target)


def test_an_unknown_way_to_crash() -> None:
    with pytest.raises(HandlerError, match="'close', 'reset' or 'resume', not 'explode'"):
        resumable(on_crash="explode")  # type: ignore[call-overload]


def test_what_cannot_be_marked() -> None:
    with pytest.raises(HandlerError, match="put it on the function itself"):
        resumable(Instance().method)


@contextmanager
def lifespan() -> Iterator[str]:
    yield "entered"


@asynccontextmanager
async def asgi_lifespan(app: object) -> AsyncIterator[None]:
    yield


def test_a_lifespan_of_no_argument() -> None:
    made = inspect_handler(Service(plain, lifespan=lifespan)).lifespan
    assert made is not None
    with made() as entered:  # type: ignore[union-attr]
        assert entered == "entered"


def test_a_lifespan_as_asgi_has_it_gets_the_service() -> None:
    service = Service(coroutine, lifespan=asgi_lifespan)
    made = inspect_handler(service).lifespan
    assert isinstance(made, functools.partial)
    assert made.args == (service,)
    assert hasattr(made(), "__aenter__")


def test_a_ready_made_context_manager() -> None:
    manager = lifespan()
    made = inspect_handler(Service(plain, lifespan=manager)).lifespan
    assert made is not None
    assert made() is manager


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (generator, "bare generator: put @contextmanager"),
        (async_generator, "bare generator"),
        (coroutine, "coroutine function, not a context manager"),
        (of_two, "takes nothing or one argument, the service"),
        (3, "is no context manager, nor makes one"),
    ],
)
def test_what_is_no_lifespan(bad: Any, reason: str) -> None:
    with pytest.raises(HandlerError, match=reason):
        inspect_handler(Service(plain, lifespan=bad))


async def _async_on_push(conn: object, message: bytes) -> None:
    """Never called."""


def _sync_handler(conn: object) -> None:
    """Never called."""


@pytest.mark.parametrize(
    ("on_push", "says"),
    [
        ("no function", "is not callable"),
        (lambda conn: None, "takes a connection and a message"),
        (_async_on_push, "is async, and the handler is not"),
    ],
)
def test_an_on_push_that_cannot_be(on_push: Any, says: str) -> None:
    service = Service(_sync_handler, on_push=on_push)
    with pytest.raises(HandlerError, match=says):
        served_as(inspect_handler(service), service)


async def _async_handler(conn: object) -> None:
    """Never called."""


@pytest.mark.parametrize("handler", [_sync_handler, _async_handler])
def test_an_async_on_error_is_to_be_sync_beside_every_handler(handler: Any) -> None:
    service = Service(handler, on_error=_async_on_push)  # type: ignore[arg-type]
    with pytest.raises(HandlerError, match=r"is async, and is called where .*: make it sync"):
        served_as(inspect_handler(service), service)


def test_an_on_taken_that_cannot_be() -> None:
    service = Service(_sync_handler, on_taken="ignore")  # type: ignore[arg-type]
    with pytest.raises(HandlerError, match="on_taken is 'close' or 'keep', not 'ignore'"):
        served_as(inspect_handler(service), service)


def test_a_service_says_what_its_handler_does_not() -> None:
    service = Service(_sync_handler, on_push=print, on_taken="keep")
    handler = served_as(inspect_handler(service), service)
    assert (handler.on_push, handler.on_taken) == (print, "keep")
