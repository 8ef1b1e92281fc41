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
    from socketkeep._forking_server import ForkingServer

__all__ = [
    "AddressError",
    "AsyncConnection",
    "Blocking",
    "Busy",
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
    "OutOfResources",
    "PeerClosed",
    "PeerReset",
    "Refused",
    "Released",
    "Service",
    "Socket",
    "SocketkeepError",
    "StateMismatch",
    "StateNotEncodable",
    "StateTooLarge",
    "SystemFailure",
    "TimedOut",
    "Timeout",
    "Unreachable",
    "Unresolved",
    "WouldBlock",
    "connect",
    "fork",
    "guard_forks",
    "resumable",
]


def __getattr__(name: str) -> object:
    # The async half comes with asyncio, and the forking server with logging, which programs that
    # do without need not pay for.
    if name == "AsyncConnection":
        from socketkeep._aio import AsyncConnection

        globals()[name] = AsyncConnection
        return AsyncConnection
    if name == "ForkingServer":
        from socketkeep._forking_server import ForkingServer

        globals()[name] = ForkingServer
        return ForkingServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
