"""Signals in templates and workers: the keeper alone acts on them."""

from __future__ import annotations

import signal
from typing import Final

# Sent to the whole group or control group of a service, these mean the server: the keeper gets them
# too, and tells its workers in order.
_THE_KEEPERS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)


def leave_to_keeper() -> None:
    """Do nothing on the signals that are the keeper's.

    By handlers, not SIG_IGN: an ignored signal stays ignored in the programs a handler starts.
    """
    for number in _THE_KEEPERS:
        signal.signal(number, _nothing)


def _nothing(_number: int, _frame: object) -> None:
    pass
