"""Telling from outside whether an application is ASGI, WSGI or neither."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Final

from socketkeep._base._mistakes import LoadError
from socketkeep._net._handlers import Handler, Service, checked_websocket_push

if TYPE_CHECKING:
    from socketkeep._config._server_options import ServeConfig


#: What a `Service` of an application does not have, and what an application has instead.
_NOT_OF_APPLICATIONS: Final = {
    "lifespan": "leave it out; the application has one of its own, with which it is called",
    "on_leaving": "leave it out; the server sends each WebSocket a Close, and other connections end"
    " between two requests",
}


def is_asgi(target: object) -> bool:
    """Return whether a target cannot be but an ASGI application: a coroutine function of three.

    A handler takes one argument, so none is ever taken for it.
    """
    return _is_async(target) and _takes(target, 3) and not _takes(target, 1)


def is_wsgi(target: Any) -> bool:
    """Return whether a target looks like a WSGI application.

    One is sync, and takes environ and start_response.
    """
    if not callable(target) or inspect.isclass(target) or _is_async(target):
        return False
    try:
        names = list(inspect.signature(target).parameters)
    except ValueError:
        return False
    return len(names) == 2 and names[1] == "start_response"


def check_application(target: object, name: str) -> None:
    """Raise LoadError, with the way, for what is no ASGI application."""
    if not callable(target):
        raise LoadError(
            f"{name} is not callable, so it is no ASGI application: expected an async function of"
            " scope, receive and send, or an object with such a __call__"
        )
    if inspect.isclass(target):
        raise LoadError(
            f"{name} is a class, as an ASGI 2 application or a factory: give an instance, or"
            " --factory if it takes no arguments, or wrap it by"
            " asgiref.compatibility.guarantee_single_callable"
        )
    if is_wsgi(target):
        raise LoadError(wsgi_way(name))
    if not _takes(target, 3):
        hint = ""
        if _takes(target, 0):
            hint = "; if it is a function that makes the application, give --factory"
        elif _takes(target, 1):
            hint = "; a handler of a connection is served without --asgi"
        raise LoadError(
            f"{name} is no ASGI application: it cannot be called with scope, receive and send{hint}"
        )
    if not _is_async(target) and _is_plain_function(target):
        raise LoadError(
            f"{name} is sync, and an ASGI application is async: write async def, or serve a WSGI"
            " application by a2wsgi.WSGIMiddleware"
        )


def wsgi_way(name: str) -> str:
    """Return what to tell of a WSGI application."""
    return (
        f"{name} is a WSGI application (it takes environ and start_response), and what is served"
        " is ASGI: wrap it, as in app = a2wsgi.WSGIMiddleware(app), and give --asgi"
    )


def handler_of(target: Any, config: ServeConfig) -> Handler:
    """Return the handler that serves an application, or the `Service` of one.

    Raises LoadError, and HandlerError for a service's `on_push` that cannot be.
    """
    on_push = None
    if isinstance(target, Service):
        _check_service(target, config.target)
        if target.on_push is not None:
            on_push = checked_websocket_push(target.on_push)
        target = target.handler
    check_application(target, config.target)
    try:
        from socketkeep._serve.asgi._loop import serve_connection  # httptools: for who serves ASGI
        from socketkeep._serve.asgi._site import Site
        from socketkeep._serve.websocket._serving import WebSockets
    except ModuleNotFoundError as error:
        if error.name not in ("httptools", "websockets"):
            raise
        from socketkeep._base._extras import install_extra  # for who lacks it

        raise LoadError(
            f"an ASGI application needs the package {error.name}: {install_extra('asgi')}"
        ) from None
    site = Site(target, config)
    websockets = WebSockets(config, on_push)
    site.serve_websocket = websockets.serve
    return Handler(
        call=functools.partial(serve_connection, site),
        name=config.target,
        is_async=True,
        resumable=True,
        state_type=Any,
        on_crash="close",
        redeliver=config.ws_redeliver,
        lifespan=site.lifespan,
        on_push=websockets.pushed,
    )


def _check_service(service: Service, name: str) -> None:
    """Raise LoadError, with the way, for what a `Service` of an application cannot have."""
    for said, way in _NOT_OF_APPLICATIONS.items():
        if getattr(service, said) is not None:
            raise LoadError(f"{name} is a Service of an ASGI application, and has {said}: {way}")


def _is_async(target: object) -> bool:
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isclass(target):
        return False
    if inspect.iscoroutinefunction(target):
        return True
    return inspect.iscoroutinefunction(getattr(type(target), "__call__", None))  # noqa: B004


def _is_plain_function(target: object) -> bool:
    return inspect.isfunction(target) and "__wrapped__" not in vars(target)


def _takes(target: object, count: int) -> bool:
    if not callable(target):
        return False
    try:
        inspect.signature(target).bind(*([None] * count))
    except (TypeError, ValueError):
        return False
    return True
