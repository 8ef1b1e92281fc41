"""A conformance suite for streams: what the verbs promise, as checks that take any pair factory.

`sync_checks` and `async_checks` are given a factory of connected pairs and return callables, one
for each statement and mode, to be run under pytest or by hand.  They hold Socketkeep's own
connections, over TCP, Unix sockets and whatever else the factory makes; and streams of other
libraries as far as they have the verbs, see `features`.  They assert, so not under ``python -O``.
"""

from typing import TYPE_CHECKING

from socketkeep._testing._statements import BYTE_STREAM, FEATURES
from socketkeep._testing._suite import (
    AsyncCheck,
    AsyncStream,
    Check,
    SyncStream,
    async_checks,
    sync_checks,
)

if TYPE_CHECKING:
    from socketkeep._testing._foreign import ByteStreamVerbs

__all__ = [
    "BYTE_STREAM",
    "FEATURES",
    "AsyncCheck",
    "AsyncStream",
    "ByteStreamVerbs",
    "Check",
    "SyncStream",
    "async_checks",
    "sync_checks",
]


def __getattr__(name: str) -> object:
    # It needs anyio, which the rest does not.
    if name == "ByteStreamVerbs":
        from socketkeep._testing._foreign import ByteStreamVerbs

        globals()[name] = ByteStreamVerbs
        return ByteStreamVerbs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
