"""Serve TCP and Unix-socket connections, and keep them when the code behind them is replaced."""

# Not `typing`'s, which is a lot to import, and from an import path that is not yet in order.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from socketkeep._base._errors import (
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
    from socketkeep._base._forking import fork
    from socketkeep._base._guarding import Guard, guard_forks
    from socketkeep._base._handles import Handle
    from socketkeep._base._holding import Holder, Holders
    from socketkeep._base._tls_facts import TlsInfo
    from socketkeep._names._client import Client
    from socketkeep._names._pushing import Presence, Present, Published, Pushed, publish, push, who
    from socketkeep._net._async_connecting import open_connection
    from socketkeep._net._connecting import Connecting, connect
    from socketkeep._net._forking_server import ForkingServer
    from socketkeep._net._handlers import Service, WorkerInfo, resumable
    from socketkeep._net._listener import Listener
    from socketkeep._net._serving import Server, serve
    from socketkeep._net._socket import Socket
    from socketkeep._stream._aio import AsyncConnection
    from socketkeep._stream._connection import Connection
    from socketkeep._stream._lease import Leaving
    from socketkeep._stream._lifecycle import Detached
    from socketkeep._stream._log_fields import log_fields
    from socketkeep._stream._modes import Blocking, Deadline, Mode, NonBlocking, Timeout
    from socketkeep._stream._tls import CertificateRefused, TlsFailure

__all__ = [
    "AddressError",
    "AsyncConnection",
    "Blocking",
    "Busy",
    "CertificateRefused",
    "Client",
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
    "Leaving",
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
    "Presence",
    "Present",
    "Published",
    "Pushed",
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
    "TlsInfo",
    "Truncated",
    "Unreachable",
    "Unresolved",
    "WorkerInfo",
    "WouldBlock",
    "connect",
    "fork",
    "guard_forks",
    "log_fields",
    "open_connection",
    "publish",
    "push",
    "resumable",
    "serve",
    "who",
]


# Each name's module is imported when the name is first asked for: a program pays neither for the
# half that it does not use, nor for asyncio, ssl or msgspec where it needs none of them.
_MODULES = {
    "_stream._aio": ("AsyncConnection",),
    "_stream._lease": ("Leaving",),
    "_stream._lifecycle": ("Detached",),
    "_stream._log_fields": ("log_fields",),
    "_net._async_connecting": ("open_connection",),
    "_net._connecting": (
        "Connecting",
        "connect",
    ),
    "_stream._connection": ("Connection",),
    "_base._errors": (
        "AddressError",
        "Busy",
        "Closed",
        "HandlerError",
        "LimitExceeded",
        "ListenError",
        "Malformed",
        "NotCommitted",
        "OutOfResources",
        "PeerClosed",
        "PeerReset",
        "Refused",
        "Released",
        "SocketkeepError",
        "StateMismatch",
        "StateNotEncodable",
        "StateTooLarge",
        "SystemFailure",
        "TimedOut",
        "Truncated",
        "Unreachable",
        "Unresolved",
        "WouldBlock",
    ),
    "_base._forking": ("fork",),
    "_net._forking_server": ("ForkingServer",),
    "_base._guarding": (
        "Guard",
        "guard_forks",
    ),
    "_net._handlers": (
        "Service",
        "WorkerInfo",
        "resumable",
    ),
    "_base._handles": ("Handle",),
    "_base._holding": (
        "Holder",
        "Holders",
    ),
    "_base._tls_facts": ("TlsInfo",),
    "_names._client": ("Client",),
    "_names._pushing": (
        "Presence",
        "Present",
        "Published",
        "Pushed",
        "publish",
        "push",
        "who",
    ),
    "_net._listener": ("Listener",),
    "_stream._modes": (
        "Blocking",
        "Deadline",
        "Mode",
        "NonBlocking",
        "Timeout",
    ),
    "_net._serving": (
        "Server",
        "serve",
    ),
    "_net._socket": ("Socket",),
    "_stream._tls": (
        "CertificateRefused",
        "TlsFailure",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"socketkeep.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
