"""The facts of a connection for the log lines that are written while its handler runs."""

from __future__ import annotations

from socketkeep._stream._lease import Aside, handling
from socketkeep._stream._shell import Shell


def log_fields() -> dict[str, str]:
    """Return what a log line can say of the connection for which the calling code runs.

    ``id`` and ``peer`` of the connection, and ``name`` where its handler has given it one; nothing
    outside of a handler, and outside of a server.  Tasks that a handler starts are of its
    connection too, as is what runs by ``asyncio.to_thread``; a plain thread is of none.

    A server's own log has these fields already.  This is for a log that is set up otherwise: a
    filter, or a processor of structlog's.
    """
    conn = handling.get()
    if isinstance(conn, Aside):
        conn = conn.conn
    if not isinstance(conn, Shell):
        return {}
    fields = {"id": conn.id, "peer": conn.peer}
    if conn.name:
        fields["name"] = conn.name
    return fields
