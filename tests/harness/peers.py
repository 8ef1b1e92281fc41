"""A single peer, for the tests that look at one connection closely."""

from __future__ import annotations

import socket

from socketkeep._demo import _clients, _tally

#: The peers of the demo: many at once, what became of their lines, and how they read an address.
Load = _clients.Load
Tally = _tally.Tally
parse_address = _clients.parse_address


def connect(address: str, timeout: float = 10.0) -> socket.socket:
    """Return a socket connected to `address`, all of whose calls take at most `timeout` seconds."""
    family, place = parse_address(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(place)
    except OSError:
        sock.close()
        raise
    return sock


def read_reply(sock: socket.socket) -> bytes:
    """Return the next line without its newline, and take nothing beyond it.

    Raises EOFError at the end of the stream: with what had come of the line, if anything.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            raise EOFError(f"the server ended the connection after {bytes(line)!r}")
        line += byte
    return bytes(line[:-1])


def read_to_end(sock: socket.socket) -> bytes:
    """Return all bytes up to the orderly end; ConnectionResetError if it is not orderly."""
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)
