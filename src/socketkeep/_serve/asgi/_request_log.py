"""The log of requests, one line each, in the formats that log readers know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from socketkeep._base import _log
from socketkeep._base._log_file import LogFile
from socketkeep._base._log_sink import NoRoom, Sink, descriptor_sink
from socketkeep._base._printable import printable

if TYPE_CHECKING:
    from socketkeep._serve.asgi._head import RequestHead
    from socketkeep._serve.asgi._types import Scope

_STDOUT: Final = 1
_ESCAPED: Final = str.maketrans({'"': '\\"', "\\": "\\\\"})


class RequestLog:
    """Writes a line for each request, without waiting: one that finds no room is dropped."""

    def __init__(self, form: Literal["common", "combined"], path: str) -> None:
        """path: of the file, "" for standard output."""
        self._combined = form == "combined"
        self._throttle = _log.Throttle()
        self._current: Callable[[], Sink]
        if path:
            self._current = LogFile(path).current
        else:
            sink = descriptor_sink(_STDOUT)
            self._current = lambda: sink
        self._at = -1
        self._time = ""

    def note(self, scope: Scope, request: RequestHead, status: int, size: int) -> None:
        """Write the line of a request.  status: 0 where nothing has gone out."""
        try:
            self._current().write(self._line(scope, request, status, size).encode())
        except NoRoom:
            self._throttle.warning("request log has no room: lines are dropped")
        except OSError as error:
            self._throttle.error(
                "request log cannot be written", kind="request log", error=str(error)
            )

    def _line(self, scope: Scope, request: RequestHead, status: int, size: int) -> str:
        now = int(time.time())
        if now != self._at:
            self._at = now
            self._time = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
        host = (scope["client"] or ("-",))[0]
        target = _quoted(request.target)
        line = (
            f'{printable(host)} - - [{self._time}] "{request.method} {target}'
            f' HTTP/{request.http_version}" {status or 499} {size or "-"}'
        )
        if not self._combined:
            return line + "\n"
        headers = dict(request.headers)
        referer = _quoted(headers.get(b"referer", b"-"))
        agent = _quoted(headers.get(b"user-agent", b"-"))
        return f'{line} "{referer}" "{agent}"\n'


def _quoted(text: bytes) -> str:
    return printable(text.decode("latin-1").translate(_ESCAPED))
