"""Number the lines that a peer sends, and go on counting through every reload.

Start it, and send lines::

    socketkeep serve examples/counter.py:handle -b 127.0.0.1:7000
    nc 127.0.0.1 7000

Change the reply below and run ``socketkeep reload``: the next line on the same connection gets the
new reply and the next number.
"""

from __future__ import annotations

from socketkeep import Connection, resumable


@resumable  # may be called again, from the top, on a live connection
def handle(conn: Connection) -> None:
    """Reply to each line with its number and itself."""
    count: int = conn.state or 0  # what the last commit left; None on a new connection
    for line in conn.lines():
        count += 1
        conn.send(b"%d %s\n" % (count, line))
        conn.commit(count)  # all read so far is dealt with; this is what to go on from
