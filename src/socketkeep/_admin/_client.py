"""The client's end of the control socket: find the server, ask, wait for the answer."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from socketkeep._admin._protocol import (
    Done,
    Request,
    control_path,
    decode_answer,
    encode,
    runtime_dir,
)

#: A live keeper answers at once; this bounds the wait for one that is stopped or stuck.
CONNECT_TIMEOUT: Final = 5
QUERY_TIMEOUT: Final = 10.0

_TIMEVAL: Final = struct.Struct("@ll")  # struct timeval
_FAILED: Final = 1
_USAGE: Final = 2
_MAX_ANSWER: Final = 1 << 30


class ControlError(Exception):
    """The server cannot be asked: the message for the user, and the exit code."""

    def __init__(self, message: str, code: int = _FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class _FoundServers:
    live: list[str]
    dead: list[str]
    forbidden: list[str]


def find_control(control: str = "", name: str = "") -> str:
    """Return the path of the control socket of the server that is meant.

    control: the path itself.  name: the server's name.  With neither, what SOCKETKEEP_CONTROL or
    else SOCKETKEEP_NAME says; without these, the only server that runs in `runtime_dir()`.

    Raises ControlError: none runs (exit 1), several do (exit 2), or both were given (exit 2).
    """
    if control and name:
        raise ControlError("give --control or --name, not both", _USAGE)
    if not (control or name):
        control = os.environ.get("SOCKETKEEP_CONTROL", "")
        name = os.environ.get("SOCKETKEEP_NAME", "")
    if control:
        return control
    if name:
        return control_path(name)
    found = _servers()
    if len(found.live) == 1:
        return found.live[0]
    if found.live:
        listing = "".join(f"\n  --name {_name_of(path)}" for path in found.live)
        raise ControlError(f"several servers are running, say which one:{listing}", _USAGE)
    if found.forbidden:
        raise ControlError(_forbidden(found.forbidden[0]))
    left = (
        f"; what dead ones left there: {', '.join(os.path.basename(path) for path in found.dead)}"
        if found.dead
        else ""
    )
    raise ControlError(
        f"no server is running: none has its control socket in {runtime_dir()}{left}"
        " (a server elsewhere is found by --control PATH)"
    )


def live_servers() -> list[str]:
    """Return the paths of the control sockets in `runtime_dir()` that a server listens on."""
    return _servers().live


def live_names() -> list[str]:
    """Return the names of the servers of `live_servers`."""
    return [_name_of(path) for path in live_servers()]


def is_live(path: str) -> bool:
    """Tell whether a server listens on the control socket `path`; one of another user does."""
    try:
        _connect(path, wait=False).close()
    except PermissionError:
        return True
    except OSError as error:
        # Full for the moment: somebody listens.
        return error.errno == errno.EAGAIN
    return True


def _servers() -> _FoundServers:
    found = _FoundServers([], [], [])
    directory = runtime_dir()
    try:
        entries = sorted(os.listdir(directory), key=_name_of)
    except (FileNotFoundError, NotADirectoryError):
        return found
    except PermissionError:
        found.forbidden.append(directory)
        return found
    for entry in entries:
        if not entry.endswith(".sock"):
            continue
        path = os.path.join(directory, entry)
        try:
            _connect(path, wait=False).close()
        except PermissionError:
            found.forbidden.append(path)
        except OSError as error:
            (found.live if error.errno == errno.EAGAIN else found.dead).append(path)
        else:
            found.live.append(path)
    return found


def _name_of(path: str) -> str:
    return os.path.basename(path).removesuffix(".sock")


def _connect(path: str, *, wait: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # By the kernel: with Python's own timeout a connect to a full queue fails at once (EAGAIN).
        sock.setblocking(wait)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(CONNECT_TIMEOUT, 0))
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _forbidden(path: str) -> str:
    try:
        uid = os.stat(path).st_uid
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = f"uid {uid}"
    except OSError:
        owner = "another user"
    return f"{path} belongs to {owner}: run the command as that user"


def _open(path: str) -> socket.socket:
    try:
        return _connect(path)
    except FileNotFoundError:
        others = [_name_of(other) for other in live_servers()]
        running = f"; running: {', '.join(others)}" if others else ""
        raise ControlError(f"no server is running at {path}{running}") from None
    except ConnectionRefusedError:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ControlError(f"{path} is not a socket", _USAGE) from None
        raise ControlError(
            f"the server of {path} is dead: start it again (it replaces the socket), or remove"
            " the file"
        ) from None
    except PermissionError:
        raise ControlError(_forbidden(path)) from None
    except (TimeoutError, BlockingIOError):  # no room in its queue for all that time
        raise ControlError(_stuck(path)) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ControlError(f"cannot reach a server at {path}: {reason}") from None


def _stuck(path: str) -> str:
    return f"the server of {path} does not answer: its process is stopped or stuck"


def ask(
    path: str,
    command: str,
    arguments: dict[str, Any] | None = None,
    *,
    on_progress: Callable[[str], None] | None = None,
    timeout: float | None = QUERY_TIMEOUT,
) -> Done:
    """Send a command to the server at `path` and return how it ended.

    on_progress: called with each line of progress.
    timeout: seconds that the server may be silent; None waits for as long as it takes.

    A server that has said that it stops or drains, and then ends the connection, has done so.
    Raises ControlError when there is no answer; a command that failed is a `Done` with its exit
    code.
    """
    begun = False
    with _open(path) as sock:
        sock.settimeout(timeout)
        try:
            # A server that refuses this user, or is full, says so and closes without reading.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(encode(Request(command, arguments or {})))
            for line in _lines(sock):
                answer = decode_answer(line)
                if isinstance(answer, Done):
                    return answer
                begun = True
                if on_progress is not None:
                    on_progress(answer.text)
        except TimeoutError:
            raise ControlError(_stuck(path)) from None
        except msgspec.DecodeError as error:
            raise ControlError(f"what listens at {path} is not a Socketkeep server: {error}") from (
                None
            )
        except ConnectionResetError:
            pass  # as the end of the stream
    if begun and command in {"stop", "drain"}:
        return Done()
    raise ControlError(f"the server at {path} ended before it had answered")


def _lines(sock: socket.socket) -> Iterator[bytes]:
    """Yield the lines that arrive; a last one without its newline is not one."""
    held = bytearray()
    while chunk := sock.recv(65536):
        held += chunk
        while (end := held.find(b"\n")) >= 0:
            line = bytes(held[:end])
            del held[: end + 1]
            yield line
        if len(held) > _MAX_ANSWER:
            raise msgspec.DecodeError("its answer has no end")
