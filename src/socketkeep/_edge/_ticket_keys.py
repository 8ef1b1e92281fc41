"""The keys of session tickets, the same in all edges.

OpenSSL makes keys at random for each context.  It has a way to set them, and Python's `ssl` has
none: so they are set through the OpenSSL that `_ssl` is linked with, in the context that lies
behind the Python object.  Where it lies is CPython's own business.  Whether it is still there is
tried in a process apart, which ends badly if it is not; then each edge has keys of its own.
"""

from __future__ import annotations

import hmac
import os
import ssl
from typing import Final

#: As OpenSSL has them: the key's name, which stands in each ticket, and two keys.
NAME_SIZE: Final = 16
_SIZE: Final = 80
_GET: Final = 58  # SSL_CTRL_GET_TLSEXT_TICKET_KEYS of <openssl/ssl.h>
_SET: Final = 59  # SSL_CTRL_SET_TLSEXT_TICKET_KEYS


def derived(secret: bytes, purpose: bytes) -> bytes:
    """Return the keys that all who know the secret have for that purpose (as HKDF expands)."""
    first = hmac.digest(secret, purpose + b"\1", "sha512")
    return (first + hmac.digest(secret, first + purpose + b"\2", "sha512"))[:_SIZE]


def set_keys(context: ssl.SSLContext, keys: bytes) -> None:
    """Have the context make and take tickets by these keys.  Raises OSError.

    Only where `can_be_set` has said so.
    """
    import ctypes

    if not _ctrl(context, _SET, len(keys), ctypes.create_string_buffer(keys, len(keys))):
        raise OSError("OpenSSL does not take the keys")


def can_be_set() -> bool:
    """Return whether `set_keys` does what it says, tried in a process of its own."""
    child = os.fork()
    if not child:
        works = False
        try:
            works = _works()
        finally:
            os._exit(0 if works else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _works() -> bool:
    import ctypes

    keys = os.urandom(_SIZE)
    one, other = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
    other.options |= ssl.OP_NO_TLSv1_2
    # By what both are told to be and are not alike in, what is found is known to be the context.
    for context in (one, other):
        if _options(context) != int(context.options):
            return False
    set_keys(one, keys)
    found = ctypes.create_string_buffer(_SIZE)
    return bool(_ctrl(one, _GET, _SIZE, found)) and found.raw == keys


def _options(context: ssl.SSLContext) -> int:
    import _ssl
    import ctypes

    function = ctypes.CDLL(_ssl.__file__).SSL_CTX_get_options
    function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_void_p]
    options: int = function(_pointer(context))
    return options


def _ctrl(context: ssl.SSLContext, command: int, size: int, data: object) -> int:
    import _ssl
    import ctypes

    function = ctypes.CDLL(_ssl.__file__).SSL_CTX_ctrl
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    done: int = function(_pointer(context), command, size, data)
    return done


def _pointer(context: ssl.SSLContext) -> int | None:
    """Return the address of OpenSSL's context: the first field behind the object's head."""
    import ctypes

    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
