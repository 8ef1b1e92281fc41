"""Handlers that tell each peer what they know of its connection."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SYNC: Final = """
def NAME(conn: Connection) -> None:
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.send(line + b" " + facts(conn, count) + b"\\n")
        conn.commit(count)
"""
_ASYNC: Final = """
async def NAME(conn: AsyncConnection) -> None:
    count = conn.state or 0
    async for line in conn.lines():
        count += 1
        await conn.send(line + b" " + facts(conn, count) + b"\\n")
        conn.commit(count)
"""


def teller(facts: str, model: str, decorated: str = "@resumable", name: str = "handle") -> str:
    """Return code of a handler that answers each line with `facts(conn, count)`, a line of JSON.

    facts: code that defines that, and imports what both need.
    """
    handler = _ASYNC if model == "async" else _SYNC
    return f"{facts}\n{decorated}{handler.replace('NAME', name)}"


def write_teller(directory: Path, facts: str, model: str, decorated: str = "@resumable") -> str:
    """Write such code to the directory; return its TARGET."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "app.py").write_text(teller(facts, model, decorated))
    return "app:handle"
