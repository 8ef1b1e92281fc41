"""Handlers: `resumable`, `Service`, and the inspection of what the user gave."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, cast, get_args, overload

from socketkeep._base._errors import HandlerError

OnCrash: TypeAlias = Literal["close", "reset", "resume"]
OnTaken: TypeAlias = Literal["close", "keep"]
Lifespan: TypeAlias = AbstractContextManager[object] | AbstractAsyncContextManager[object]
F = TypeVar("F", bound=Callable[..., object])

_MARK: Final = "__socketkeep_resumable__"
#: The functions of a `Service`: how many arguments each takes, and which.
_HOOKS: Final = {
    "on_push": (2, "a connection and a message"),
    "on_leaving": (3, "a connection, why it is to end, and a deadline"),
    "on_start": (1, "a worker's information"),
    "on_ready": (1, "a worker's information"),
    "on_connect": (1, "a connection"),
    "on_leave": (2, "a connection and how it leaves"),
    "on_error": (2, "a connection and an exception"),
}


@dataclass(frozen=True, slots=True)
class _Options:
    state_type: Any = Any
    on_crash: OnCrash = "close"
    redeliver: bool = False


class WorkerInfo(NamedTuple):
    """The worker that `Service`'s on_start and on_ready are called in.

    Attributes:
        server: The server's name.
        generation: The load of the code, counted from 1.
        slot: The worker's seat, from 0 on, which the one that replaces it takes over.
        model: "fork", "prefork", "thread" or "async".
    """

    server: str
    generation: int
    slot: int
    model: str


@dataclass(frozen=True, slots=True)
class Service:
    """A handler together with what each worker sets up for it.

    `on_start`, `on_ready`, `on_connect` and `on_leave` are sync; with an async handler they may be
    async, too.

    Args:
        handler: Called for each connection.
        lifespan: A context manager, sync or async, or a callable that returns one and takes nothing
            or, as ASGI frameworks have it, the service.  It is entered in each worker after the
            fork and before the worker is ready, and left when the worker ends.
        on_taken: The fate of a connection whose name another one takes: "close", or "keep": it goes
            on without a name.
        on_push: Called with the connection and the message for each push to one, between two
            messages of its handler, at a receive; sync, or with an async handler async, too.  It
            sends what it makes of the message.  Without one a message is sent as it is.  The one
            of an ASGI application is async, and called with the WebSocket's scope, the message and
            an ASGI `send`, by which it sends, closes and names.
        on_leaving: Called with the connection, why ("stop", "drain", "reload" or "disconnect") and
            the `Deadline` by which it must be over, when the server is to end it: at a receive of
            its handler, sync or async as `on_push`.  A connection that moves to another worker is
            not left.
        on_start: Called in each worker with its `WorkerInfo`, after the fork and before `lifespan`
            is entered.  Where it raises the worker does not start, and a reload is undone, as when
            the code cannot be loaded.
        on_ready: Called likewise once the worker serves.
        on_connect: Called with the connection before each call of the handler, in its task, thread
            or process: at the accept, and each time when the connection comes from another worker
            or was parked (`conn.attached` says which).  What it raises ends the connection as if
            the handler had raised it.
        on_leave: Called with the connection and how it goes ("ended", "moved" or "parked") after
            each call of the handler that followed an on_connect, before the connection is closed or
            given away; not where its process has died.
        on_error: Called with the connection and the exception for each failure that is logged of
            it: of the handler, of one of these functions, of an ASGI application.  It is sync.
    """

    handler: Callable[..., object]
    lifespan: Lifespan | Callable[..., Lifespan] | None = None
    on_taken: OnTaken = "close"
    on_push: Callable[..., object] | None = None
    on_leaving: Callable[[Any, Any, Any], object] | None = None
    on_start: Callable[[WorkerInfo], object] | None = None
    on_ready: Callable[[WorkerInfo], object] | None = None
    on_connect: Callable[[Any], object] | None = None
    on_leave: Callable[[Any, Any], object] | None = None
    on_error: Callable[[Any, BaseException], object] | None = None


@dataclass(frozen=True, slots=True)
class Handler:
    """The facts of a handler: everything that a server needs to call it."""

    call: Callable[[Any], Any]
    name: str
    is_async: bool
    resumable: bool
    state_type: Any
    on_crash: OnCrash
    redeliver: bool
    lifespan: Callable[[], Lifespan] | None
    on_taken: OnTaken = "close"
    on_push: Callable[[Any, bytes], object] | None = None
    on_leaving: Callable[[Any, Any, Any], object] | None = None
    on_start: Callable[[WorkerInfo], object] | None = None
    on_ready: Callable[[WorkerInfo], object] | None = None
    on_connect: Callable[[Any], object] | None = None
    on_leave: Callable[[Any, Any], object] | None = None
    on_error: Callable[[Any, BaseException], object] | None = None


@overload
def resumable(handler: F, /) -> F: ...
@overload
def resumable(
    *, state: object = ..., on_crash: OnCrash = ..., redeliver: bool = ...
) -> Callable[[F], F]: ...
def resumable(
    handler: F | None = None,
    /,
    *,
    state: object = Any,
    on_crash: OnCrash = "close",
    redeliver: bool = False,
) -> F | Callable[[F], F]:
    """Say that a handler may be called again, from the top, on a live connection.

    A decorator, bare or with options.

    Args:
        handler: The handler, where the decorator is bare.
        state: The type that `conn.state` is decoded to.
        on_crash: The fate of a connection whose worker died when it had something uncommitted:
            "close" (FIN), "reset" (RST) or "resume".
        redeliver: Bytes are taken from the kernel only by `commit`, so that after a crash the next
            worker gets them again: at least once.

    Raises:
        HandlerError: `on_crash` is none of the three, or the object cannot be marked.
    """
    if on_crash not in get_args(OnCrash):
        raise HandlerError(f"on_crash is 'close', 'reset' or 'resume', not {on_crash!r}")
    options = _Options(state, on_crash, redeliver)

    def mark(target: F) -> F:
        try:
            setattr(target, _MARK, options)
        except (AttributeError, TypeError):
            raise HandlerError(
                f"resumable cannot mark {_name(target)}: put it on the function itself"
            ) from None
        return target

    return mark if handler is None else mark(handler)


def inspect_handler(target: object) -> Handler:
    """Return what is known of `target`: a function, anything callable, or a `Service`.

    Raises HandlerError, a TypeError, when it cannot be a handler: not callable, a class, a
    generator, or not callable with exactly one argument, the connection.
    """
    target, lifespan = service_parts(target)
    name = _name(target)
    if not callable(target):
        raise HandlerError(f"{name} is not callable: a handler is a function of a connection")
    if inspect.isclass(target):
        raise HandlerError(f"{name} is a class: give a function, or an instance with __call__")
    body = _body(target)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise HandlerError(f"{name} has a yield: called as a handler, its body would never run")
    check_arity(target, 1, "one argument, the connection")
    is_async = inspect.iscoroutinefunction(body)
    return handler_of(target, target, is_async=is_async, lifespan=lifespan)


def handler_of(
    target: object,
    call: Callable[[Any], Any],
    *,
    is_async: bool,
    lifespan: Callable[[], Lifespan] | None,
) -> Handler:
    """Return the handler that `call` is, under the name of `target` and as resumable as that is."""
    options = _find_mark(target, _body(target))
    settings = options or _Options()
    return Handler(
        call=call,
        name=_name(target),
        is_async=is_async,
        resumable=options is not None,
        state_type=settings.state_type,
        on_crash=settings.on_crash,
        redeliver=settings.redeliver,
        lifespan=lifespan,
    )


def served_as(handler: Handler, target: object) -> Handler:
    """Return the handler with what else a `Service` says of it.  Raises HandlerError."""
    if not isinstance(target, Service):
        return handler
    if target.on_taken not in get_args(OnTaken):
        raise HandlerError(f"on_taken is 'close' or 'keep', not {target.on_taken!r}")
    if inspect.iscoroutinefunction(_body(target.on_error)):
        raise HandlerError(
            f"on_error, {_name(target.on_error)}, is async, and is called where nothing can be"
            " waited for: make it sync"
        )
    hooks = {name: getattr(target, name) for name in _HOOKS}
    if handler.on_push is not None:  # an adapter's, which has taken the service's
        hooks["on_push"] = None
    for name, hook in hooks.items():
        if hook is not None:
            _check_hook(f"{name}, {_name(hook)},", hook, *_HOOKS[name], handler)
    return replace(
        handler,
        on_taken=target.on_taken,
        on_push=handler.on_push or target.on_push,
        on_leaving=target.on_leaving,
        on_start=target.on_start,
        on_ready=target.on_ready,
        on_connect=target.on_connect,
        on_leave=target.on_leave,
        on_error=target.on_error,
    )


def _check_hook(name: str, hook: object, count: int, what: str, handler: Handler) -> None:
    """Raise HandlerError for what cannot be called beside the handler."""
    _check_arguments(name, hook, count, what)
    if inspect.iscoroutinefunction(_body(hook)) and not handler.is_async:
        raise HandlerError(f"{name} is async, and the handler is not: make both so, or none")


def _check_arguments(name: str, hook: object, count: int, what: str) -> None:
    """Raise HandlerError for what cannot be called with so many arguments."""
    if not callable(hook):
        raise HandlerError(f"{name} is not callable: give a function of {what.replace('a ', '')}")
    try:
        inspect.signature(hook).bind(*(object() for _ in range(count)))
    except TypeError as error:
        raise HandlerError(f"{name} takes {what}: {error}") from None
    except ValueError:
        pass  # a builtin that tells nothing of its parameters; a wrong call will say so


def checked_websocket_push(on_push: object) -> Callable[..., Awaitable[object]]:
    """Return the `on_push` of an ASGI application's `Service`.  Raises HandlerError."""
    name = f"on_push, {_name(on_push)},"
    _check_arguments(name, on_push, 3, "a scope, a message and send")
    if not inspect.iscoroutinefunction(_body(on_push)):
        raise HandlerError(f"{name} is sync, and what it sends is awaited: write async def")
    return cast("Callable[..., Awaitable[object]]", on_push)


def service_parts(target: object) -> tuple[object, Callable[[], Lifespan] | None]:
    """Return the handler and the lifespan of a `Service`; anything else, and None, as it is."""
    if isinstance(target, Service):
        return target.handler, _inspect_lifespan(target)
    return target, None


def _name(target: object) -> str:
    if isinstance(target, functools.partial):
        return f"functools.partial({_name(target.func)})"
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", None)
    if name is None:
        return f"an object of type {type(target).__qualname__}"
    module = getattr(target, "__module__", None)
    return f"{module}.{name}" if module else str(name)


def _body(target: object) -> object:
    """Return the function that runs in the end, under partials and instances."""
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isroutine(target):
        return target
    return getattr(type(target), "__call__", target)  # noqa: B004 - the function, not a test


def _find_mark(target: object, body: object) -> _Options | None:
    while True:
        mark = getattr(target, _MARK, None)
        if mark is not None or not isinstance(target, functools.partial):
            break
        target = target.func
    mark = mark if mark is not None else getattr(body, _MARK, None)
    return cast("_Options | None", mark)


def check_arity(target: Callable[..., object], count: int, what: str) -> None:
    """Raise HandlerError for what cannot be called with so many arguments, named by `what`."""
    try:
        signature = inspect.signature(target)
    except ValueError:
        return  # a builtin that tells nothing of its parameters; a wrong call will say so
    try:
        signature.bind(*(object() for _ in range(count)))
    except TypeError as error:
        shown = signature if inspect.isroutine(target) or inspect.isclass(target) else ""
        raise HandlerError(
            f"{_name(target)}{shown} cannot be called with {what}: {error}"
        ) from None


def _inspect_lifespan(service: Service) -> Callable[[], Lifespan] | None:
    lifespan = service.lifespan
    if lifespan is None:
        return None
    if isinstance(lifespan, AbstractContextManager | AbstractAsyncContextManager):
        # Checked before callable(): what @contextmanager makes is both.
        manager: Lifespan = lifespan
        return lambda: manager
    name = _name(lifespan)
    if not callable(lifespan):
        raise HandlerError(f"the lifespan, {name}, is no context manager, nor makes one")
    body = _body(lifespan)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise HandlerError(
            f"the lifespan, {name}, is a bare generator: put @contextmanager or "
            "@asynccontextmanager on it"
        )
    if inspect.iscoroutinefunction(body):
        raise HandlerError(f"the lifespan, {name}, is a coroutine function, not a context manager")
    for arguments in ((), (service,)):
        try:
            inspect.signature(lifespan).bind(*arguments)
        except TypeError:
            continue
        return functools.partial(lifespan, *arguments)
    raise HandlerError(f"the lifespan, {name}, takes nothing or one argument, the service")
