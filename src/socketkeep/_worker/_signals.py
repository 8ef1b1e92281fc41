"""Signals in templates and workers: the keeper alone acts on them."""

from __future__ import annotations

import signal
from typing import Final

from socketkeep._base._held_signals import REQUESTS

# Sent to the whole group or control group of a service, these mean the server: the keeper gets them
# too, and tells its workers in order.
_THE_KEEPERS: Final = (signal.SIGTERM, signal.SIGINT, *REQUESTS)


def leave_requests_to_keeper() -> None:
    """As `leave_to_keeper`, but for TERM and INT: those end a process that is loading code."""
    for number in REQUESTS:
        signal.signal(number, _nothing)


def leave_to_keeper() -> None:
    """Do nothing on the signals that are the keeper's.

    By handlers, not SIG_IGN: an ignored signal stays ignored in the programs a handler starts.
    """
    for number in _THE_KEEPERS:
        signal.signal(number, _nothing)


def _nothing(_number: int, _frame: object) -> None:
    pass
