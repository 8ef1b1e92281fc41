"""The PROXY protocol, versions 1 and 2: a proxy's header before a connection, read and written.

For clients, proxies and tests, and for who accepts connections with the library.  There is no I/O
here: bytes in, `ProxyHeader` out, and back.
"""

from socketkeep._base._address import InetAddress, UnixAddress
from socketkeep._base._proxy_header import (
    DEFAULT_LIMIT,
    Endpoint,
    ProxyHeader,
    ProxyTls,
    begins_header,
    read_header,
)

__all__ = [
    "DEFAULT_LIMIT",
    "Endpoint",
    "InetAddress",
    "ProxyHeader",
    "ProxyTls",
    "UnixAddress",
    "begins_header",
    "read_header",
]
