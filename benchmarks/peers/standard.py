"""The standard library's socketserver, as it comes: ``standard forking|threading echo``."""

from __future__ import annotations

import socketserver
import sys
from typing import Final

from benchmarks.peers import HOST, MOST, announce


class Echo(socketserver.BaseRequestHandler):
    """Echo."""

    def handle(self) -> None:
        """Echo until the client is done."""
        while data := self.request.recv(MOST):
            self.request.sendall(data)


class Forking(socketserver.ForkingTCPServer):
    """A process for each connection; its queue is 5 long and its children at most 40."""


class Threading(socketserver.ThreadingTCPServer):
    """A thread for each connection; with a longer queue, without which it cannot be loaded."""

    request_queue_size = 2048
    daemon_threads = True


_SERVERS: Final = {"forking": Forking, "threading": Threading}

if __name__ == "__main__":
    with _SERVERS[sys.argv[1]]((HOST, 0), Echo) as server:
        announce(server.server_address[1])
        server.serve_forever()
