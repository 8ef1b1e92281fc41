"""Lines of the user's code among the server's own: what it logs, and what it prints.

What it logs comes by a handler at the root of `logging`, which is there before the code is loaded.
What it prints comes by streams in the place of `sys.stdout` and `sys.stderr`.  The descriptors 1
and 2 stay what they are: what C, a crash or a program that the code starts writes there depends on
no Python that may be dead by then.  A line goes out when it ends, by the process that has written
it, so none is lost with its process and none comes twice by a fork.

Whoever sets up handlers by themselves has their way, and no line comes twice for it: what such a
handler writes to a standard stream this one leaves out.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from socketkeep._base import _log

#: Returns what a line is to say of the connection that it is about.
Bound = Callable[[], Mapping[str, str]]

_STREAMS: Final = {1: "stdout", 2: "stderr"}
#: What is printed without an end of line is a line when it has so many bytes.
_LONGEST: Final = 65536
_OF_EVERY_RECORD: Final = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"}
)
#: The names of a line's own fields: an `extra` of such a name gets another one.
_TAKEN: Final = frozenset(
    ("time", "level", "event", "logger", "stream", "id", "peer", "name", "traceback", "stack")
)
_as_text: Final = logging.Formatter()


def write_users_lines(level: str, form: str, bound: Bound) -> None:
    """Have what this process's code logs and prints from now on written as the server's lines.

    At a terminal, in the form for people, what is printed stays as it is: it may be a debugger's.
    """
    root = logging.getLogger()
    root.addHandler(UsersHandler(bound))
    root.setLevel(level.upper())
    for fd, name in _STREAMS.items():
        if not (form == "human" and os.isatty(fd)):
            setattr(sys, name, printed(fd, bound))


class UsersHandler(logging.Handler):
    """Writes the records that reach the root as lines of the server's log."""

    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self._bound = bound

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_shown(record):
            return
        told = copy.copy(record)
        fields: dict[str, object] = {"logger": record.name, **self._bound()}
        try:
            told.msg = record.getMessage()
        except Exception as error:  # the arguments do not fit the text
            told.msg = str(record.msg)
            fields["error"] = f"{type(error).__name__}: {error}"
            fields["at"] = f"{record.pathname}:{record.lineno}"
        told.args = None
        for key, value in vars(record).items():
            if key not in _OF_EVERY_RECORD:
                fields[f"extra_{key}" if key in _TAKEN else key] = _fit(value)
        if record.stack_info:
            fields["stack"] = record.stack_info
        if record.exc_info and record.exc_info[0]:
            fields["traceback"] = _as_text.formatException(record.exc_info)
        elif record.exc_text:
            fields["traceback"] = record.exc_text
        told.exc_info = told.exc_text = told.stack_info = None
        _log.put(told, fields)

    def _is_shown(self, record: logging.LogRecord) -> bool:
        """Return whether a handler of the user's writes the record to a standard stream."""
        streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        return any(
            record.levelno >= handler.level and _stream_of(handler) in streams
            for handler in _handlers_of(record.name)
            if handler is not self and _stream_of(handler) is not None
        )


def _handlers_of(name: str) -> Iterator[logging.Handler]:
    """Return the handlers that a record of this logger comes to."""
    found: logging.Logger | None = logging.getLogger(name)
    while found is not None:
        yield from found.handlers
        found = found.parent if found.propagate else None


def _stream_of(handler: logging.Handler) -> object:
    """Return where a handler writes, None when it does not say; of rich, its console does."""
    found: object = getattr(handler, "stream", None)
    return getattr(getattr(handler, "console", None), "file", None) if found is None else found


def _fit(value: object) -> object:
    """Return a value as JSON can have it, whatever it is."""
    if isinstance(value, str | bool | int | None):
        return value
    try:
        import json  # for who logs more than texts and numbers

        json.dumps(value, default=str, allow_nan=False)
    except Exception:  # a circle, keys that are no text, a number that is none
        try:
            return repr(value)
        except Exception as error:
            return f"<a {type(value).__name__}, whose repr() raises {type(error).__name__}>"
    return value


def printed(fd: int, bound: Bound) -> io.TextIOWrapper:
    """Return what is to stand in the place of the standard stream of that number."""
    return io.TextIOWrapper(
        _PrintedLines(fd, bound),
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        write_through=True,
    )


class _PrintedLines(io.RawIOBase):
    """Takes what is printed, thread by thread, and writes each line of it to the log."""

    mode = "wb"

    def __init__(self, fd: int, bound: Bound) -> None:
        self._fd = fd
        self._stream = _STREAMS[fd]
        self.name = f"<{self._stream}>"
        self._bound = bound
        self._begun: dict[int, bytes] = {}  # by the threads that have written no end of line yet
        self._pid = os.getpid()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        """Write what are whole lines, and keep the rest until the line ends or is flushed."""
        taken = bytes(data)
        if self._pid != os.getpid():  # what its parent has begun the parent ends
            self._begun.clear()
            self._pid = os.getpid()
        thread = threading.get_ident()
        *lines, rest = (self._begun.pop(thread, b"") + taken).split(b"\n")
        if len(rest) >= _LONGEST:
            lines.append(rest)
        elif rest:
            self._begun[thread] = rest
        for line in lines:
            self._put(line)
        return len(taken)

    def flush(self) -> None:
        super().flush()
        if self._pid == os.getpid():
            self._put(self._begun.pop(threading.get_ident(), b""))

    def _put(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").rstrip("\r")
        if text:
            record = logging.LogRecord(self._stream, logging.INFO, "", 0, text, (), None)
            _log.put(record, {"stream": self._stream, **self._bound()})
