"""Inlets, as the tests of who passes connections on and of who accepts them have them.

What has a twin in C is there as Python has it, too.
"""

from __future__ import annotations

import socket
from typing import Any

from socketkeep._wire import _inlets


def inlet_pair() -> tuple[Any, socket.socket]:
    """Return the workers' end and the edges'."""
    return _inlets.inlet_pair()


def pass_on(outlet: socket.socket, header: bytes) -> socket.socket:
    """Pass a connection on as an edge does; return the edge's end of it."""
    return _inlets.pass_on(outlet, header)


def pass_on_in_python(outlet: socket.socket, header: bytes) -> socket.socket:
    """As `pass_on`."""
    return _inlets._pass_on_in_python(outlet, header)


def ends_of(sock: socket.socket) -> bytes:
    """Return both addresses of a connection as its header has them."""
    return _inlets.ends_of(sock)


def ends_in_python(sock: socket.socket) -> bytes:
    """As `ends_of`."""
    return _inlets._ends_of(sock)
