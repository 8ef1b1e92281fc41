"""OpenSSL's own objects behind those of Python's `ssl`, for what `ssl` has no way to.

Where they lie is CPython's own business.  Whether they are still there is tried in a process apart,
which ends badly if they are not; then the edge does without.
"""

from __future__ import annotations

import os
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

from socketkeep import _native

_ADDRESS: Final = struct.calcsize("P")
#: Of the context's address in its object: the first field behind the object's head.
_CONTEXT_AT: Final = object.__basicsize__
#: Of the TLS's address in an object of `_ssl`: the second.
_TLS_AT: Final = object.__basicsize__ + _ADDRESS


def library() -> Any:
    """Return what has OpenSSL's functions: the library that `_ssl` is linked with."""
    import _ssl
    import ctypes

    return ctypes.CDLL(_ssl.__file__)


def context_address(context: ssl.SSLContext) -> int | None:
    """Return the address of OpenSSL's context."""
    return _address_at(context, _CONTEXT_AT)


def tried_apart(works: Callable[[], bool]) -> bool:
    """Return whether something works, tried in a process of its own."""
    child = os.fork()
    if not child:
        done = False
        try:
            done = works()
        finally:
            os._exit(0 if done else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def call_openssl(tried: Callable[[Callable[[], bool]], bool] = tried_apart) -> bool:
    """Have relays call OpenSSL itself, where that can be; return whether they do."""
    if _native.core is None or not tried(_finds_tls):
        return False
    import _ssl

    return bool(_native.core.speak_with_openssl(_ssl.__file__, _TLS_AT))


def call_ssl() -> None:
    """Have relays call Python's `ssl` again."""
    if _native.core is not None:
        _native.core.speak_with_openssl("", -1)


def _finds_tls() -> bool:
    """Return whether what is found is the TLS: it knows its context, and what has come for it."""
    import ctypes

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    incoming = ssl.MemoryBIO()
    tls: Any = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    incoming.write(bytes(1234))
    address = ctypes.c_void_p(_address_at(tls._sslobj, _TLS_AT))
    functions = library()
    for name in ("SSL_get_SSL_CTX", "SSL_get_rbio"):
        getattr(functions, name).restype = ctypes.c_void_p
    if functions.SSL_get_SSL_CTX(address) != context_address(context):
        return False
    functions.BIO_ctrl_pending.restype = ctypes.c_size_t
    reads_from = ctypes.c_void_p(functions.SSL_get_rbio(address))
    return bool(functions.BIO_ctrl_pending(reads_from) == incoming.pending)


def _address_at(of: object, place: int) -> int | None:
    import ctypes

    return ctypes.c_void_p.from_address(id(of) + place).value
