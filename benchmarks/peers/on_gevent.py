"""gevent: ``on_gevent echo``."""

from __future__ import annotations

from gevent.server import StreamServer
from gevent.socket import socket

from benchmarks.peers import BACKLOG, HOST, MOST, announce


def echo(conn: socket, _address: object) -> None:
    """Echo."""
    while data := conn.recv(MOST):
        conn.sendall(data)


if __name__ == "__main__":
    server = StreamServer((HOST, 0), echo, backlog=BACKLOG)
    server.start()
    announce(server.server_port)
    server.serve_forever()
