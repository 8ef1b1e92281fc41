"""Serve TCP and Unix-socket connections, and keep them when the code behind them is replaced."""

from typing import TYPE_CHECKING

from socketkeep._assignment import Detached
from socketkeep._connecting import Connecting, connect
from socketkeep._connection import Connection
from socketkeep._errors import (
    AddressError,
    Busy,
    Closed,
    HandlerError,
    LimitExceeded,
    ListenError,
    Malformed,
    NotCommitted,
    OutOfResources,
    PeerClosed,
    PeerReset,
    Refused,
    Released,
    SocketkeepError,
    StateMismatch,
    StateNotEncodable,
    StateTooLarge,
    SystemFailure,
    TimedOut,
    Truncated,
    Unreachable,
    Unresolved,
    WouldBlock,
)
from socketkeep._forking import fork
from socketkeep._guarding import Guard, guard_forks
from socketkeep._handlers import Service, resumable
from socketkeep._handles import Handle
from socketkeep._holding import Holder, Holders
from socketkeep._listener import Listener
from socketkeep._modes import Blocking, Deadline, Mode, NonBlocking, Timeout
from socketkeep._socket import Socket

if TYPE_CHECKING:
    from socketkeep._aio import AsyncConnection
    from socketkeep._async_connecting import open_connection
    from socketkeep._forking_server import ForkingServer
    from socketkeep._serving import Server, serve
    from socketkeep._tls import CertificateRefused, TlsFailure

__all__ = [
    "AddressError",
    "AsyncConnection",
    "Blocking",
    "Busy",
    "CertificateRefused",
    "Closed",
    "Connecting",
    "Connection",
    "Deadline",
    "Detached",
    "ForkingServer",
    "Guard",
    "Handle",
    "HandlerError",
    "Holder",
    "Holders",
    "LimitExceeded",
    "ListenError",
    "Listener",
    "Malformed",
    "Mode",
    "NonBlocking",
    "NotCommitted",
    "OutOfResources",
    "PeerClosed",
    "PeerReset",
    "Refused",
    "Released",
    "Server",
    "Service",
    "Socket",
    "SocketkeepError",
    "StateMismatch",
    "StateNotEncodable",
    "StateTooLarge",
    "SystemFailure",
    "TimedOut",
    "Timeout",
    "TlsFailure",
    "Truncated",
    "Unreachable",
    "Unresolved",
    "WouldBlock",
    "connect",
    "fork",
    "guard_forks",
    "open_connection",
    "resumable",
    "serve",
]


# The async half comes with asyncio, the forking server with logging, and TLS with ssl, which
# programs that do without need not pay for.
_LAZY = {
    "AsyncConnection": "_aio",
    "CertificateRefused": "_tls",
    "ForkingServer": "_forking_server",
    "Server": "_serving",
    "TlsFailure": "_tls",
    "open_connection": "_async_connecting",
    "serve": "_serving",
}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"socketkeep.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
