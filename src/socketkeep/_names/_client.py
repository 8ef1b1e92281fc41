"""`Client`: pushes and ends of connections, from a program that is no worker.

It goes over a server's control socket.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import Any, Final

from socketkeep._base._errors import PeerClosed, SocketkeepError, TimedOut, translate
from socketkeep._names._naming import check_message, check_text
from socketkeep._names._pushing import (
    DISCONNECT_PATIENCE,
    LONGEST_PATIENCE,
    PATIENCE,
    Presence,
    Present,
    Published,
    Pushed,
)

#: Seconds, beyond a message's own, in which the server says what has become of it.
_GRACE: Final = 5.0
_LONGEST_ANSWER: Final = 1 << 20


class Client:
    """Pushes to the connections of a server on this machine, and ends them.

    Each call has a connection of its own, so that threads may share a client; async code calls it
    by `asyncio.to_thread`.

    Args:
        control: The path of the server's control socket, which belongs to the server's user: nobody
            else but root may push.
    """

    def __init__(self, control: str | os.PathLike[str]) -> None:
        self._path = os.fspath(control)

    def __repr__(self) -> str:
        return f"Client({self._path!r})"

    def push(
        self, name: str, message: bytes | bytearray | memoryview, *, timeout: float = PATIENCE
    ) -> Pushed:
        """Send `message` to the connection that has this name; return what has become of it.

        Args:
            name: The connection's name.
            message: At most 64 KiB.
            timeout: Seconds in which it is to be handed over.

        Raises:
            TypeError: The name is no text.
            ValueError: It cannot be a name.
            LimitExceeded: The message has more than 64 KiB.
            TimedOut: The server does not answer.
            SystemFailure: No server is there.
            SocketkeepError: The server refuses.
        """
        to = check_text("a name", name)
        result = self._ask("push", _letter(to, check_message(message)), timeout)
        return Pushed(
            *(str(result["outcome"]), str(result["id"]), int(result["epoch"])),
            str(result.get("node", "")),
        )

    def publish(
        self, group: str, message: bytes | bytearray | memoryview, *, timeout: float = PATIENCE
    ) -> Published:
        """Send `message` to each connection of this group; return to how many it was handed over.

        Args:
            group: The group's name.
            message: At most 64 KiB.
            timeout: Seconds in which it is to be handed over.

        Raises:
            SocketkeepError: What `push` raises.
        """
        data = check_message(message)
        result = self._ask("publish", _letter(check_text("a group", group), data), timeout)
        return Published(int(result["delivered"]), int(result["failed"]))

    def who(self, text: str, *, timeout: float = PATIENCE) -> Present:
        """Return who has this name, and who is in the group of this name.

        Args:
            text: The name.
            timeout: Seconds in which the nodes of a cluster are to answer.

        Raises:
            SocketkeepError: What `push` raises.
        """
        result = self._ask("who", {"to": check_text("a name", text)}, timeout)
        found = (
            Presence(
                str(each["node"]),
                str(each["id"]),
                int(each["epoch"]),
                str(each["name"]),
                bool(each["member"]),
            )
            for each in result["found"]
        )
        return Present(tuple(found), not result["silent"])

    def disconnect(
        self, connection: str, *, force: bool = False, timeout: float = DISCONNECT_PATIENCE
    ) -> bool:
        """End the connection that has this id or name; return whether there was one.

        It ends where its handler waits for input, at a safe point.

        Args:
            connection: Its id or name.
            force: End it at once, whatever the handler does.
            timeout: Seconds to wait for its end.

        Raises:
            TimedOut: It has not ended in time: it ends later, then.
            SocketkeepError: What `push` raises.
        """
        arguments = {"what": check_text("an id or a name", connection), "force": force}
        outcome = self._ask("disconnect", arguments, timeout)["outcome"]
        if outcome == "still open":
            raise TimedOut(operation="disconnect", address=f"unix:{self._path}", limit=timeout)
        if outcome == "busy":
            raise SocketkeepError("refused: the server has too many connections to disconnect")
        return bool(outcome == "disconnected")

    def _ask(self, command: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        if not 0 <= timeout <= LONGEST_PATIENCE:
            raise ValueError(f"a timeout has 0 to {LONGEST_PATIENCE:.0f} seconds, not {timeout}")
        asked = {"command": command, "arguments": {**arguments, "timeout": timeout}}
        request = json.dumps(asked).encode() + b"\n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout + _GRACE)
            try:
                sock.connect(self._path)
                sock.sendall(request)
                line = _line(sock)
            except TimeoutError:
                raise TimedOut(operation=command, address=f"unix:{self._path}") from None
            except OSError as error:
                address = f"unix:{self._path}"
                raise translate(error, operation=command, address=address) from error
        answer = json.loads(line) if line else None
        if not isinstance(answer, dict):
            raise PeerClosed(
                "failed: the server ended before it had answered",
                operation=command,
                address=f"unix:{self._path}",
            )
        if answer.get("error") or not isinstance(answer.get("result"), dict):
            raise SocketkeepError(f"refused: {answer.get('error') or 'no answer'}")
        result: dict[str, Any] = answer["result"]
        return result


def _letter(to: str, data: bytes) -> dict[str, Any]:
    return {"to": to, "data": base64.b64encode(data).decode()}


def _line(sock: socket.socket) -> bytes:
    """Return the line that comes, b"" when the other end ends before."""
    held = bytearray()
    while not held.endswith(b"\n"):
        chunk = sock.recv(65536)
        if not chunk or len(held) > _LONGEST_ANSWER:
            return b""
        held += chunk
    return bytes(held)
