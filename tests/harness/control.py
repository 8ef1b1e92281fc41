"""The control protocol, spoken without the CLI: one connection, one request, JSON lines."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class ControlError(Exception):
    """The server refused a command or could not carry it out."""

    def __init__(self, command: str, exit_code: int, error: str) -> None:
        super().__init__(f"{command}: exit {exit_code}: {error}")
        self.exit_code = exit_code
        self.error = error


def ask(path: Path, command: str, timeout: float = 30.0, **arguments: object) -> Any:
    """Send `command` to the server whose control socket is `path`; return its result.

    Raises ControlError if the server says no, ConnectionError if there is no server, TimeoutError
    if it takes longer than `timeout` seconds.  The end of the connection without an answer counts
    as done: the server ends so after `stop` and `drain`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(str(path))
        sock.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
        with sock.makefile("rb") as lines:
            for line in lines:
                answer = json.loads(line)
                if answer["event"] != "done":
                    continue
                if answer["exit"]:
                    raise ControlError(command, answer["exit"], answer["error"] or "")
                return answer["result"]
    return None
