"""The output of the demo: one line for each thing that happens, and a table at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from socketkeep._demo._tally import Tally

_REFRESH = 0.1


class ProgressScreen:
    """Prints to standard output; in a terminal the last line moves with the numbers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._moving = sys.stdout.isatty()
        self._lock = threading.Lock()

    def line(self, what: str, text: str) -> None:
        """Print what has happened."""
        erase = "\r\x1b[K" if self._moving else ""
        with self._lock:
            print(f"{erase}{self._clock() - self._began:5.1f} s  {what:<8}{text}", flush=True)

    @contextmanager
    def counting(self, tally: Tally) -> Iterator[None]:
        """Show the numbers as they change, where the output is a terminal."""
        ended = threading.Event()

        def show() -> None:
            while not ended.wait(_REFRESH):
                numbers = (
                    f"{tally.replies:,} replies, {tally.fin} FIN, {tally.reset} RST, "
                    f"{tally.lost} lost, {tally.repeated} repeated"
                )
                with self._lock:
                    print(f"\r\x1b[K         {numbers}", end="", flush=True)

        thread = threading.Thread(target=show, name="numbers", daemon=True)
        if self._moving:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._moving:
                thread.join()
                print("\r\x1b[K", end="", flush=True)


def table(tally: Tally) -> str:
    """Return what the clients saw as an aligned table."""
    rows = [
        ("connections", f"{tally.connections:,}"),
        ("requests", f"{tally.requests:,}"),
        ("replies", f"{tally.replies:,}"),
        *(
            (f"  by {version}", f"{tally.versions[version]:,}")
            for version in sorted(tally.versions)
        ),
        ("FIN", str(tally.fin)),
        ("RST", str(tally.reset)),
        ("lost", str(tally.lost)),
        ("repeated", str(tally.repeated + tally.out_of_order)),
        ("repeated, marked so", str(tally.again)),
        ("99% of replies within", f"{tally.latency(0.99) * 1000:.0f} ms"),
        ("slowest reply", f"{tally.latency(1.0) * 1000:.0f} ms"),
    ]
    return "\n".join(f"  {name:<22}{value:>10}" for name, value in rows)
