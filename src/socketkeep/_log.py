"""Log lines: one event a line, for people or as JSON.

Every process of a server writes its own lines to the same place (stderr, or a file opened for
appending), so that no process waits for another to log.  A rotated file is noticed by each process
at its next line (`_log_file`); SIGUSR1 makes the keeper look at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

logger: Final = logging.getLogger("socketkeep")

LEVELS: Final = ("debug", "info", "warning", "error")


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        trailer = fields.pop("traceback", None) or fields.pop("error_text", None)
        text = f"{_timestamp(record)} {record.levelname.lower():7} {record.getMessage()}"
        text += "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        if record.exc_info:
            trailer = self.formatException(record.exc_info)
        return f"{text}\n{trailer.rstrip()}" if trailer else text


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Complaint:
    """Says on standard error that the log cannot be written, now and then, and raises nothing.

    In place of logging's own way, a traceback for each line that could not be written.
    """

    _EVERY: Final = 10.0

    def __init__(self) -> None:
        self._next = 0.0

    def make(self) -> None:
        """Called where an error is handled."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._EVERY
        # It may be standard error itself that cannot be written to.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"socketkeep: cannot write the log: {sys.exc_info()[1]}\n")
            sys.stderr.flush()


class _StreamHandler(logging.StreamHandler[TextIO]):
    def __init__(self) -> None:
        super().__init__()
        self._complaint = Complaint()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        self._complaint.make()


def configure(level: str, form: str, path: str) -> None:
    """Send the log to `path`, or to stderr when it is empty.

    A file that cannot be opened is complained of on standard error, when there is a line for it.
    """
    handler: logging.Handler = _StreamHandler()
    if path:
        from socketkeep._log_file import LogFile  # with pickle and queue behind it

        handler = LogFile(path)
    handler.setFormatter(_JsonFormatter() if form == "json" else _HumanFormatter())
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False


def reopen() -> None:
    """Open the log file anew where it was moved or removed since."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            from socketkeep._log_file import LogFile  # which `configure` has loaded

            assert isinstance(handler, LogFile)
            handler.acquire()
            try:
                handler.reopenIfNeeded()
            finally:
                handler.release()


def debug(event: str, **fields: object) -> None:
    _emit(logging.DEBUG, event, fields)


def info(event: str, **fields: object) -> None:
    _emit(logging.INFO, event, fields)


def warning(event: str, **fields: object) -> None:
    _emit(logging.WARNING, event, fields)


def error(event: str, **fields: object) -> None:
    _emit(logging.ERROR, event, fields)


def _emit(level: int, event: str, fields: dict[str, object]) -> None:
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"fields": fields})


class Throttle:
    """Lets one line of a kind through in `every` seconds, and counts those it held back.

    A server that runs out of something meets the same failure thousands of times a second; the log
    must say so without filling the disk.
    """

    def __init__(self, every: float = 10.0) -> None:
        self._every = every
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def warning(self, event: str, **fields: object) -> None:
        self._emit(warning, event, event, fields)

    def error(self, event: str, *, kind: str, **fields: object) -> None:
        """As `warning`; `kind` says which lines are held back together."""
        self._emit(error, event, kind, fields)

    def _emit(
        self, log: Callable[..., None], event: str, kind: str, fields: dict[str, object]
    ) -> None:
        now = time.monotonic()
        if now - self._last.get(kind, float("-inf")) < self._every:
            self._held[kind] = self._held.get(kind, 0) + 1
            return
        self._last[kind] = now
        held = self._held.pop(kind, 0)
        if held:
            fields["repeated"] = held
        log(event, **fields)


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _quoted(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') else text
