"""The servers that Socketkeep is measured against.

Each is a program, ``python -m benchmarks.peers.NAME [ARGUMENTS] echo|lines``, that listens on a
free port of 127.0.0.1 and prints it.
"""

from __future__ import annotations

import resource
import socket
from typing import Final

HOST: Final = "127.0.0.1"
BACKLOG: Final = 2048
MOST: Final = 65536


def listen() -> socket.socket:
    """Return a listener, having printed its port."""
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    announce(listener.getsockname()[1])
    return listener


def announce(port: int) -> None:
    """Print the port, and let the process have all the descriptors that it may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(port, flush=True)
