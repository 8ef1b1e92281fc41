"""Log lines: one event a line, for people or as JSON.

Every process of a server writes its own lines to the same place (stderr, or a file opened for
appending), so that no process waits for another to log.  No process waits for the place either
(`_log_sink`): a line for which there is no room is dropped and counted, and the count is said when
there is room again.  A rotated file is noticed by each process at its next line (`_log_file`);
SIGUSR1 makes the keeper look at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from socketkeep._base._log_sink import (
    Identity,
    NoRoom,
    Sink,
    borrowed_sink,
    descriptor_sink,
    identity_of,
)
from socketkeep._base._printable import printable, printable_lines

if TYPE_CHECKING:  # for who becomes another user
    from socketkeep._base._accounts import Account

logger: Final = logging.getLogger("socketkeep")

LEVELS: Final = ("debug", "info", "warning", "error")

_STDERR: Final = 2
_NOBODY: Final = "nobody reads the log"
#: Characters of a field: a line that no reader takes in would be the log's own flood.
_LONGEST: Final = 65536
#: As JSON has them between quotes.
_ESCAPES: Final = str.maketrans(
    {chr(code): f"\\u{code:04x}" for code in range(32)}
    | {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)
#: How many kinds of lines a throttle tells apart; there are as many as places in the code.
_MOST_KINDS: Final = 256


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        trailer = fields.pop("traceback", None) or fields.pop("error_text", None)
        text = f"{_timestamp(record)} {record.levelname.lower():7} {printable(record.getMessage())}"
        text += "".join(f" {printable(key)}={_quoted(value)}" for key, value in fields.items())
        if record.exc_info:
            trailer = self.formatException(record.exc_info)
        if not trailer:
            return text
        # Set in: what an exception says over several lines cannot pass for lines of the log.
        lines = printable_lines(str(trailer).rstrip()).split("\n")
        return "\n".join((text, *(f"  {line}" for line in lines)))


class _JsonFormatter(logging.Formatter):
    def __init__(self) -> None:
        import json  # for who wants it

        super().__init__()
        self._dumps = json.dumps

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = self._dumps(line, default=str)
        if "\\ud" in text:  # half a pair, for a byte that was no UTF-8: strict readers refuse that
            line = {key: _whole(value) for key, value in line.items()}
            text = self._dumps(line, default=str)
        # JSON has escapes for all that steers a terminal but this one, and need not use that.
        return text.replace("\x7f", "\\u007f")


def _whole(value: object) -> object:
    if isinstance(value, bool | int | float | None):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class Stderr:
    """Standard error, as it was when this was made."""

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._identity: Identity | None = None
        # Now, while there are descriptors: that there are none left is to be logged.
        with contextlib.suppress(OSError):
            self._identity = identity_of(_STDERR)
            self._sink = descriptor_sink(_STDERR)

    def current(self) -> Sink:
        """Return the sink, made anew where the user's code has closed it.  Raises OSError.

        What is put in the place of standard error later is not followed: closed and taken by the
        next connection, number 2 would send the log to a peer.
        """
        if self._sink is None or not self._sink.lives:
            if self._identity is None or identity_of(_STDERR) != self._identity:
                raise OSError("standard error is closed")
            self._sink = None
            try:
                self._sink = descriptor_sink(_STDERR)
            except OSError:
                return borrowed_sink(_STDERR)
        return self._sink

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None


class LineHandler(logging.Handler):
    """Writes lines to what `current` returns, and counts those that it had no room for.

    `complain` is called, where an OSError is handled, when a line cannot be written at all.
    `renewed` is `current` of what is opened anew if it can be.
    """

    def __init__(
        self,
        current: Callable[[], Sink],
        close: Callable[[], None],
        complain: Callable[[], None],
        renewed: Callable[[], Sink] | None = None,
    ) -> None:
        super().__init__()
        self._renewed = renewed or current
        self._current = current
        self._close = close
        self._complain = complain
        self._dropped = 0
        self._why = ""
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception as error:  # of a field that cannot say what it is
            line = self._line(_record("a line could not be put into words", error=type(error)))
        if self._pid != os.getpid():  # its parent has its own to tell of
            self._pid, self._dropped = os.getpid(), 0
        if self._say_dropped() and self._put(line):
            return
        self._dropped += 1
        if self._dropped == 1 and _on_dropped:
            _on_dropped[0]()

    def catch_up(self) -> bool:
        """Say how many lines were dropped, if there is room now; return whether all is said."""
        self.acquire()
        try:
            return self._say_dropped()
        finally:
            self.release()

    def close(self) -> None:
        self._close()
        super().close()

    def reopen(self) -> None:
        """Have the place of the log opened anew, where it is another one by now."""
        self.acquire()
        try:
            self._renewed()
        except OSError:
            self._complain()
        finally:
            self.release()

    def _say_dropped(self) -> bool:
        if not self._dropped or self._pid != os.getpid():
            return True
        told = _record("log lines dropped", lines=self._dropped, pid=self._pid, why=self._why)
        if not self._put(self._line(told)):
            return False
        self._dropped = 0
        return True

    def _put(self, line: bytes) -> bool:
        try:
            self._current().write(line)
        except NoRoom:
            self._why = _NOBODY
            return False
        except OSError as error:
            # ENXIO: a named pipe that nobody has opened to read.
            nobody = error.errno == errno.ENXIO
            self._why = _NOBODY if nobody else error.strerror or str(error)
            self._complain()
            return False
        return True

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode("utf-8", "backslashreplace")


def _record(event: str, **fields: object) -> logging.LogRecord:
    """Return a warning of the log about itself, which no level leaves out."""
    record = logging.LogRecord(logger.name, logging.WARNING, "", 0, event, (), None)
    record.__dict__["fields"] = fields
    return record


#: At most one: called when a line was dropped and none had been before.
_on_dropped: Final[list[Callable[[], object]]] = []


class Complaint:
    """Says on standard error that the log cannot be written, now and then, and raises nothing.

    In place of logging's own way, a traceback for each line that could not be written.
    """

    _EVERY: Final = 10.0

    def __init__(self, stderr: Stderr) -> None:
        self._next = 0.0
        self._stderr = stderr

    def make(self) -> None:
        """Called where an error is handled."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._EVERY
        why = printable(str(sys.exc_info()[1]))
        # It may be standard error itself that cannot be written to.
        with contextlib.suppress(OSError, NoRoom):
            self._stderr.current().write(f"socketkeep: cannot write the log: {why}\n".encode())


def configure(level: str, form: str, path: str, account: Account | None = None) -> None:
    """Send the log to `path`, or to stderr when it is empty.

    account: the user whose the file is, where that is not this process's.
    A file that cannot be opened is complained of on standard error, when there is a line for it.
    """
    stderr = Stderr()
    if path:
        from socketkeep._base._log_file import LogFile

        file, complaint = LogFile(path, account), Complaint(stderr)

        def close() -> None:
            file.close()
            stderr.close()

        handler = LineHandler(file.current, close, complaint.make, file.renewed)
    else:
        # Standard error that cannot be written to leaves nobody to complain to.
        handler = LineHandler(stderr.current, stderr.close, lambda: None)
    handler.setFormatter(_JsonFormatter() if form == "json" else _HumanFormatter())
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
    # Where the code has not configured logging, the standard library writes to standard error what
    # others log (asyncio: a task whose exception nobody has seen).  That must not wait either.
    logging.lastResort = LineHandler(stderr.current, lambda: None, lambda: None)
    logging.lastResort.setLevel(logging.WARNING)
    logging.lastResort.setFormatter(_PlainFormatter())


def reopen() -> None:
    """Open the log file anew where it was moved or removed since."""
    for handler in _handlers():
        handler.reopen()


def when_dropped(call: Callable[[], object]) -> None:
    """Have `call` called when a line was dropped, so that `catch_up` is called in a while."""
    _on_dropped[:] = [call]


def catch_up() -> None:
    """Say how many lines were dropped, if there is room now."""
    for handler in _handlers():
        if not handler.catch_up() and _on_dropped:
            _on_dropped[0]()


def _handlers() -> list[LineHandler]:
    return [handler for handler in logger.handlers if isinstance(handler, LineHandler)]


def debug(event: str, **fields: object) -> None:
    _emit(logging.DEBUG, event, fields)


def info(event: str, **fields: object) -> None:
    _emit(logging.INFO, event, fields)


def warning(event: str, **fields: object) -> None:
    _emit(logging.WARNING, event, fields)


def error(event: str, **fields: object) -> None:
    _emit(logging.ERROR, event, fields)


def _emit(level: int, event: str, fields: dict[str, object]) -> None:
    # logging.config disables all loggers that there are, unless it is told otherwise.
    logger.disabled = False
    if logger.isEnabledFor(level):
        bounded = {key: _bounded(value) for key, value in fields.items()}
        logger.log(level, event, extra={"fields": bounded})


def put(record: logging.LogRecord, fields: Mapping[str, object]) -> None:
    """Write a record that is not the server's own as a line of the log, whatever its level."""
    record.__dict__["fields"] = {key: _bounded(value) for key, value in fields.items()}
    record.msg = str(_bounded(record.msg))
    for handler in _handlers():
        handler.handle(record)


def _bounded(value: object) -> object:
    """Return the value, cut where it is text that goes on and on, as an exception's may."""
    if isinstance(value, str) and len(value) > _LONGEST:
        left = len(value) - _LONGEST
        return f"{value[: _LONGEST // 2]}\n[{left} characters left out]\n{value[-_LONGEST // 2 :]}"
    return value


def place_of(error: BaseException) -> str:
    """Return where in the code an error was raised: a kind for a `Throttle`."""
    found = error.__traceback__
    while found is not None and found.tb_next is not None:
        found = found.tb_next
    return f"{found.tb_frame.f_code.co_filename}:{found.tb_lineno}" if found else ""


class Throttle:
    """Lets `most` lines of a kind through in `every` seconds, and counts those it held back.

    A server that runs out of something meets the same failure thousands of times a second; the log
    must say so without filling the disk.  A kind is a place in the code, never what a peer sent:
    who can make up kinds has a line for each, and a table that grows.  The table is bounded all
    the same, and what finds no room in it is one kind together.
    """

    def __init__(self, every: float = 10.0, most: int = 1) -> None:
        self._every = every
        self._most = most
        self._last: dict[str, float] = {}  # when the first of those was let through
        self._let: dict[str, int] = {}
        self._held: dict[str, int] = {}

    def info(self, event: str, *, kind: str, **fields: object) -> None:
        """As `error`."""
        self._emit(info, event, kind, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._emit(warning, event, event, fields)

    def error(self, event: str, *, kind: str, **fields: object) -> None:
        """As `warning`; `kind` says which lines are held back together."""
        self._emit(error, event, kind, fields)

    def _emit(
        self, log: Callable[..., None], event: str, kind: str, fields: dict[str, object]
    ) -> None:
        now = time.monotonic()
        if kind not in self._last and len(self._last) >= _MOST_KINDS:
            kind = ""
        if now - self._last.get(kind, float("-inf")) < self._every:
            if self._let[kind] >= self._most:
                self._held[kind] = self._held.get(kind, 0) + 1
                return
            self._let[kind] += 1
        else:
            self._last[kind], self._let[kind] = now, 1
        held = self._held.pop(kind, 0)
        if held:
            fields["repeated"] = held
        log(event, **fields)


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _quoted(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if text and text.isprintable() and not any(c in text for c in ' "='):
        return text
    return printable(f'"{text.translate(_ESCAPES)}"')
