"""The protocol of a server's control socket, and the place of that socket.

A Unix stream socket; each side writes JSON, a line a message.  The client sends one `Request`; the
server answers with any number of `Progress` and then one `Done`, and closes.
"""

from __future__ import annotations

import os
from typing import Any, Final, TypeAlias

import msgspec

from socketkeep._base._creating import make_private_directory

#: The longest request pushes 64 KiB, in base64; whoever sends more than this without a newline is
#: not a client of ours.
MAX_REQUEST: Final = 131072


class Request(msgspec.Struct, frozen=True):
    """One command.

    `arguments` is empty for all but ``scale`` ({"workers": N}), ``drain`` at a pace ({"pace": how
    many connections a second}), ``live`` ({"most": N}), ``connections-part`` ({"part": from 0 on,
    "parts": how many, a power of two}), ``words`` ({"what": "id", "name" or "group", "beginning":
    text}), a ``reload`` that is to wait ({"wait": true}), and ``push`` and ``publish`` ({"to": a
    name or a group, "data": base64, "timeout": seconds}), ``who`` (the same without "data"), and
    ``disconnect`` ({"what": an id or a name, "force": whether, "timeout": seconds}).
    """

    command: str
    arguments: dict[str, Any] = {}


class Progress(msgspec.Struct, frozen=True, tag_field="event", tag="progress"):
    """Something worth telling has happened on the way."""

    text: str


class Done(msgspec.Struct, frozen=True, tag_field="event", tag="done"):
    """The command has ended.

    exit: the exit code for the command line.
    result: what the command returns; a report or a list of them, or None.
    error: why it failed; its first line says it, others (a traceback) follow.
    """

    exit: int = 0
    result: Any = None
    error: str | None = None


Answer: TypeAlias = Progress | Done

_ANSWERS: Final[msgspec.json.Decoder[Answer]] = msgspec.json.Decoder(Answer)


def encode(message: Request | Progress | Done) -> bytes:
    """Return the line that carries `message`."""
    return msgspec.json.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """Return the request in a line; raises msgspec.DecodeError when there is none in it."""
    return msgspec.json.decode(line, type=Request)


def decode_answer(line: bytes) -> Answer:
    """Return the answer in a line; raises msgspec.DecodeError when there is none in it."""
    return _ANSWERS.decode(line)


def runtime_dir() -> str:
    """Return the directory of this user's control sockets, which need not exist."""
    chosen = os.environ.get("SOCKETKEEP_RUNTIME_DIR")
    if chosen:
        return os.path.abspath(chosen)
    of_session = os.environ.get("XDG_RUNTIME_DIR")
    if of_session:
        return os.path.join(of_session, "socketkeep")
    return "/run/socketkeep" if os.geteuid() == 0 else f"/tmp/socketkeep-{os.geteuid()}"


def make_runtime_dir() -> str:
    """Return `runtime_dir()`, made with mode 0700 if it is missing.

    Raises PermissionError when it belongs to another user: in /tmp anybody can make a directory
    of that name first, and would then own the server's control socket.  Raises OSError as mkdir.
    """
    path = runtime_dir()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        make_private_directory(path)
    except PermissionError as error:
        if error.errno is not None:
            raise
        raise PermissionError(
            f"{error}: give --control PATH, or set SOCKETKEEP_RUNTIME_DIR to a directory of"
            " your own"
        ) from None
    return path


def control_path(name: str) -> str:
    """Return the default path of the control socket of the server of that name."""
    return os.path.join(runtime_dir(), f"{name}.sock")


def default_name(target: str) -> str:
    """Return the name of a server that was given none: the last part of its module or file.

    ``shop.chat:handle`` and ``examples/chat.py:handle`` are both "chat".
    """
    module = target.rpartition(":")[0]
    if module.endswith(".py") or "/" in module:
        stem = os.path.basename(module).removesuffix(".py")
    else:
        stem = module.rpartition(".")[2]
    kept = [c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in stem]
    return "".join(kept).lstrip(".-")[:64] or "server"
