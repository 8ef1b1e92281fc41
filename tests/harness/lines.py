"""The lines that socketkeep logs in the process of the test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def events(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def fields(self, event: str) -> dict[str, object]:
        """Return the fields of the only line of an event."""
        (found,) = self.all_fields(event)
        return found

    def all_fields(self, event: str) -> list[dict[str, object]]:
        """Return the fields of each line of an event."""
        found = [record for record in self.records if record.getMessage() == event]
        return [record.__dict__["fields"] for record in found]


@contextmanager
def listening_to_the_log() -> Iterator[Lines]:
    """Yield what socketkeep logs, from debug on."""
    handler = Lines()
    logger = logging.getLogger("socketkeep")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)
