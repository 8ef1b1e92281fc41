"""Inlets, as the tests of who passes connections on and of who accepts them have them."""

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
