"""Memory that WebSockets have freed, which is to go back to the system.

What zlib has for thousands of them lies between other objects, and the allocator gives back by
itself only what is free at the end of its heap.
"""

from __future__ import annotations

import asyncio
from typing import Final

from socketkeep._native import compiled_or

#: Seconds in which many are taken together: a trim looks at all that is free.
_TOGETHER: Final = 1.0


def _trim() -> bool:
    """Python alone cannot."""
    return False


class Trimmer:
    """Trims the heap of a worker."""

    def __init__(self) -> None:
        self._trim = compiled_or(_trim, "trim")
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Have it trimmed, once for all who ask in the meantime."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TOGETHER, self._call)

    def _call(self) -> None:
        self._timer = None
        self._trim()
