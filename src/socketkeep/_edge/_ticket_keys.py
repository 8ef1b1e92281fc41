"""The keys of session tickets, the same in all edges.

OpenSSL makes keys at random for each context.  It has a way to set them, and Python's `ssl` has
none: so they are set in the context that lies behind the Python object (`_openssl`).  Where that
cannot be, each edge has keys of its own.
"""

from __future__ import annotations

import hmac
import os
import ssl
from typing import Final

from socketkeep._edge._openssl import context_address, library, tried_apart

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
    """Return whether `set_keys` does what it says."""
    return tried_apart(_works)


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
    import ctypes

    function = library().SSL_CTX_get_options
    function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_void_p]
    options: int = function(context_address(context))
    return options


def _ctrl(context: ssl.SSLContext, command: int, size: int, data: object) -> int:
    import ctypes

    function = library().SSL_CTX_ctrl
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    done: int = function(context_address(context), command, size, data)
    return done
