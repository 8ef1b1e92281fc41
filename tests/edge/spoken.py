"""Relays call OpenSSL itself, or the methods of Python's `ssl`: a test says which."""

from __future__ import annotations

from socketkeep._edge import _openssl


def call_openssl() -> bool:
    """Have relays call OpenSSL; return whether they can, as it is tried in this process."""
    return _openssl.call_openssl(lambda works: works())


def call_ssl() -> None:
    """Have relays call `ssl`, as they do until an edge begins."""
    _openssl.call_ssl()
