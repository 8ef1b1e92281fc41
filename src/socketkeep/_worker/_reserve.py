"""Descriptors kept aside, so that a process at its limit can still give its connections away."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final

# A pipe, and the memfd of a message that does not fit a packet.
_KEPT: Final = 3


class Reserve:
    """Holds places in the process's table of descriptors.

    To hand a connection over takes a descriptor or more, and only handing it over frees one:
    without a reserve a process at its limit would keep all of its connections to the deadline.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: list[int] = []
        self.refill()

    def spend(self) -> bool:
        """Free the places, for the caller to try again; return whether there were any."""
        with self._lock:
            places, self._places = self._places, []
        for fd in places:
            os.close(fd)
        return bool(places)

    def refill(self) -> None:
        """Take the places again, as far as there are any."""
        with self._lock, suppress(OSError):
            while len(self._places) < _KEPT:
                self._places.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
