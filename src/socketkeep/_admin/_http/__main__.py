"""``python -m socketkeep._admin._http FD``: serves on the listener FD; its settings are on stdin.

The name and the arguments must stay: the keeper of another version may start it.
"""

from __future__ import annotations

from socketkeep._base._importing import ours_first

ours_first()

import asyncio  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402

import msgspec  # noqa: E402

from socketkeep._admin._http._server import HttpServer  # noqa: E402
from socketkeep._admin._http._source import ReportSource  # noqa: E402
from socketkeep._admin._settings import HttpSettings, admin_token, push_token  # noqa: E402
from socketkeep._base import _log  # noqa: E402
from socketkeep._base._mistakes import OptionError  # noqa: E402
from socketkeep._base._roles import Role  # noqa: E402
from socketkeep._base._titles import set_title  # noqa: E402


def main(fd: int) -> int:
    """Serve until standard input ends; return the exit code."""
    lifeline = os.fdopen(0, "rb", buffering=0)
    settings = msgspec.json.decode(_line(lifeline.fileno()), type=HttpSettings)
    config = settings.config
    _log.configure(config.log_level, config.log_format, config.log_file)
    set_title(Role.ADMIN)
    try:
        token, for_pushes = admin_token(config), push_token(config)
    except OptionError as error:
        _log.error("admin cannot be shown", error=str(error))
        return 1
    door = socket.socket(fileno=settings.door) if settings.door >= 0 else None
    if door is not None:
        door.set_inheritable(False)
    server = HttpServer(ReportSource(settings.control, door), token, for_pushes)
    with socket.socket(fileno=fd) as listener:
        asyncio.run(server.run(listener, lifeline))
    return 0


def _line(fd: int) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        data = os.read(fd, 65536)
        if not data:
            raise EOFError("the keeper has gone")
        text += data
    return text


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
