"""`serve --socketserver`: handler classes of the standard library's `socketserver`.

The handler is made, and runs, in the worker that has the connection: its three parts, `setup`,
`handle` and `finish`, are its own.  What `socketserver` does around it (accept, fork or thread, end
the connection) is the worker's.
"""

from __future__ import annotations

import functools
import inspect
import socket
import socketserver
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias

from socketkeep._base._errors import HandlerError
from socketkeep._net._handlers import Handler, check_arity, handler_of, service_parts
from socketkeep._serve._peer_names import Name, family_of, name_of
from socketkeep._serve._socket_view import ConnectionSocket
from socketkeep._stream._connection import Connection

#: A class of `socketserver`'s, or what makes an instance, as ``partial(Handler, directory=…)``.
HandlerClass: TypeAlias = Callable[[Any, Any, Any], object]


class ServingServer:
    """`self.server` of a handler: what the servers of `socketserver` and `http.server` have.

    A handler that reads more of its server, which only the class of that server has, is served by
    an instance of it as TARGET, made with ``bind_and_activate=False``.
    """

    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 5
    socket_type = socket.SOCK_STREAM
    timeout = None

    def __init__(self, handler_class: HandlerClass, address: Name, listener: str) -> None:
        self.RequestHandlerClass: Final = handler_class
        self.server_address: Final = address
        self.address_family: Final = family_of(listener)

    @property
    def server_name(self) -> str:
        """The name of the host, as `http.server.HTTPServer` looks it up."""
        return _full_name(self.server_address[0]) if self.server_address else ""

    @property
    def server_port(self) -> int:
        return self.server_address[1] if isinstance(self.server_address, tuple) else 0

    def shutdown_request(self, request: ConnectionSocket) -> None:
        """End the connection in order; the worker does it when the handler returns."""
        request.close()

    def close_request(self, request: ConnectionSocket) -> None:
        request.close()

    def shutdown(self) -> NoReturn:
        raise HandlerError(
            "refused: server.shutdown() would end the handler's worker, not the server: run"
            " `socketkeep stop`, or send SIGTERM to the keeper"
        )

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"the server that Socketkeep stands in for has no {name!r}: where a server of your own"
            " class has it, give an instance of that class as TARGET, made with"
            " bind_and_activate=False"
        )


def adapt_socketserver(target: object) -> Handler:
    """Return the handler of connections that serves by `target`: a handler class, or a server.

    Raises HandlerError for what is neither.
    """
    target, lifespan = service_parts(target)
    if isinstance(target, socketserver.BaseServer):
        call = _server_call(target)
        target = target.RequestHandlerClass
    else:
        call = _class_call(_checked(target))
    return handler_of(target, call, is_async=False, lifespan=lifespan)


def _class_call(handler_class: HandlerClass) -> Callable[[Connection], None]:
    servers: dict[str, ServingServer] = {}  # by listener: a handler's server is one for all

    def call(conn: Connection) -> None:
        server = servers.get(conn.listener)
        if server is None:
            address = name_of(conn.listener)
            server = servers[conn.listener] = ServingServer(handler_class, address, conn.listener)
        handler_class(ConnectionSocket(conn), name_of(conn.peer), server)

    return call


def _server_call(server: socketserver.BaseServer) -> Callable[[Connection], None]:
    if not isinstance(server, socketserver.TCPServer) or isinstance(server, socketserver.UDPServer):
        raise HandlerError(f"a {type(server).__qualname__} serves datagrams, not connections")
    if _is_bound(server.socket):
        raise HandlerError(
            f"the {type(server).__qualname__} is bound to an address already, which is --bind's to"
            " do: make it with bind_and_activate=False"
        )
    # Its socket is never served, and would be one descriptor more in each worker.
    server.socket.close()

    def call(conn: Connection) -> None:
        request: Any = ConnectionSocket(conn)
        address = name_of(conn.peer)
        if server.verify_request(request, address):
            server.finish_request(request, address)

    return call


def _is_bound(sock: socket.socket) -> bool:
    try:
        name = sock.getsockname()
    except OSError:
        return False  # closed
    return bool(name[1] if isinstance(name, tuple) else name)


def _checked(target: object) -> HandlerClass:
    inner = target
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isclass(inner) and issubclass(inner, socketserver.DatagramRequestHandler):
        raise HandlerError(f"{inner.__qualname__} handles datagrams, not connections")
    if inspect.iscoroutinefunction(inner):
        raise HandlerError("it is async: a handler of --socketserver is sync")
    if not callable(target):
        raise HandlerError(
            "it is no handler class: --socketserver takes a class of socketserver's, such as"
            " StreamRequestHandler, or a server made with bind_and_activate=False"
        )
    check_arity(target, 3, "three arguments, the request, the client's address and the server")
    return target


@functools.cache
def _full_name(host: str) -> str:
    return socket.getfqdn(host)
