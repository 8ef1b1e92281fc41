"""Everything that is sent comes back.

Start it, and talk to it::

    socketkeep serve examples/echo.py:handle -b 127.0.0.1:7000
    nc 127.0.0.1 7000

Edit this file and run ``socketkeep reload`` while nc is connected: nc stays connected.
"""

from __future__ import annotations

from socketkeep import Connection, resumable


@resumable
def handle(conn: Connection) -> None:
    """Send back what was received, until the peer ends its side."""
    while data := conn.recv(65536):
        conn.send(data)
        conn.commit()
