"""The code that the servers of the tests serve, as files of their directory.

Each kind comes as a sync and as an async handler.  `VERSION` is a constant of the file, and every
reply carries it, so that a reload to a new file is seen in the replies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SYNC: Final[dict[str, str]] = {
    # The design's: one line, one reply, one commit.
    "counter": """
@resumable
def handle(conn: Connection) -> None:
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.send(b"%d %s %s\\n" % (count, line, VERSION))
        conn.commit(count)
""",
    # The same, not resumable: drained at a reload.
    "drained counter": """
def handle(conn: Connection) -> None:
    count = 0
    for line in conn.lines():
        count += 1
        conn.send(b"%d %s %s\\n" % (count, line, VERSION))
""",
    # A header and its body, in two receives with no commit between.
    "framed": """
@resumable
def handle(conn: Connection) -> None:
    count = conn.state or 0
    while True:
        length = int.from_bytes(conn.recv_exactly(4), "big")
        body = conn.recv_exactly(length)
        count += 1
        conn.send(b"%d %s %s\\n" % (count, body, VERSION))
        conn.commit(count)
""",
    # A reply of as many bytes as the line says: in flight for as long as the peer does not read.
    "large": """
def handle(conn: Connection) -> None:
    for line in conn.lines():
        conn.send(b"x" * int(line) + b" " + VERSION + b"\\n")
""",
    # The handler returns while the peer still sends.
    "replies and returns": """
def handle(conn: Connection) -> None:
    for line in conn.lines():
        conn.send(b"x" * int(line) + b" " + VERSION + b"\\n")
        return
""",
    # Between its question and the answer it has sent something, and is not at a safe point.
    "asks back": """
@resumable
def handle(conn: Connection) -> None:
    for line in conn.lines():
        conn.send(line + b"? " + VERSION + b"\\n")
        answer = conn.recv_until(b"\\n", 100)
        conn.send(answer + b" " + VERSION + b"\\n")
        conn.commit()
""",
    "fails": """
@resumable
def handle(conn: Connection) -> None:
    count = conn.state or 0
    for line in conn.lines():
        if line == b"fail":
            raise RuntimeError("the handler was told to fail")
        count += 1
        conn.send(b"%d %s %s\\n" % (count, line, VERSION))
        conn.commit(count)
""",
    # Does as it is told: dies now or a moment later, ends the connection, or only answers.  The
    # answer says why the handler was called, and whether it may have been told before.
    "told": """
def handle(conn: Connection) -> None:
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        later = ""
        match line.decode().split("-"):
            case ["half", how]:
                conn.send(b"half of an answer\\n")
                die(how)
            case ["once", how] if not conn.redelivered:
                die(how)
            case ["now", how]:
                die(how)
            case ["later", later]:
                pass
            case ["abort"]:
                conn.abort()
                return
            case ["close"]:
                conn.close()
                return
            case ["release"]:
                conn.release()
                return
            case ["eof"]:
                conn.send_eof()
                continue
            case ["park"]:
                conn.commit(count)
                conn.park()
        said = (count, line, VERSION, conn.attached.encode(), conn.redelivered)
        conn.send(b"%d %s %s %s %d\\n" % said)
        conn.commit(count)
        if later:  # not before the commit, however slow the machine is
            threading.Timer(0.1, die, (later,)).start()


def die(how: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "segv":
            faulthandler._sigsegv()


def fail(*_):
    raise KeyboardInterrupt


signal.signal(signal.SIGURG, fail)
""",
}

_ASYNC: Final[dict[str, str]] = {
    kind: source.replace("def handle", "async def handle")
    .replace("for line in conn", "async for line in conn")
    .replace("conn.send(", "await conn.send(")
    .replace("conn.recv_until(", "await conn.recv_until(")
    .replace("conn.abort(", "await conn.abort(")
    .replace("conn.close(", "await conn.close(")
    .replace("conn.release(", "await conn.release(")
    .replace("conn.send_eof(", "await conn.send_eof(")
    .replace("conn.park(", "await conn.park(")
    .replace("conn.recv_exactly(4)", "await conn.recv_exactly(4)")
    .replace("conn.recv_exactly(length)", "await conn.recv_exactly(length)")
    .replace("Connection", "AsyncConnection")
    for kind, source in _SYNC.items()
}

_HEAD: Final = """
import faulthandler
import os
import resource
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from socketkeep import AsyncConnection, Connection, Service, resumable

VERSION = b"{version}"
"""


def write_handler(
    directory: Path, version: str, kind: str = "counter", *, is_async: bool, tail: str = ""
) -> str:
    """Write the handler of `kind` to ``handlers.py`` in `directory`; return its TARGET.

    A file that is there is replaced.  tail: more code, at the end.
    """
    source = (_ASYNC if is_async else _SYNC)[kind]
    return write_source(directory, _HEAD.format(version=version) + source + tail)


def write_source(directory: Path, source: str) -> str:
    """Write `source` to ``handlers.py`` in `directory`; return the TARGET of its `handle`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "handlers.py"
    # Whole or not at all: a server may load it at any moment.
    new = path.with_suffix(".new")
    new.write_text(source)
    new.replace(path)
    return f"{path}:handle"
