"""The server's numbers as metrics of OpenTelemetry, read over its control socket."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import msgspec
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from socketkeep._admin._client import ControlError, ask, find_control
from socketkeep._admin._metrics import HISTOGRAMS, METRICS, Histogram, Sample
from socketkeep._admin._reports import LiveReport
from socketkeep._base import _log
from socketkeep._version import VERSION

#: Seconds for which what was read is used: all instruments are read in a row.
_USED_FOR: Final = 1.0
#: Seconds between two lines of the log that say that the server does not answer.
_TOLD_EVERY: Final = 60.0


class _Numbers:
    """The server's state, asked for once for all instruments of a collection."""

    def __init__(self, control: str, name: str) -> None:
        self._control = control
        self._name = name
        self._lock = threading.Lock()
        self._report: LiveReport | None = None
        self._read_at = self._told_at = float("-inf")

    def read(self) -> LiveReport | None:
        """Return it; None while the server cannot be asked, of which the log has a line."""
        with self._lock:
            now = time.monotonic()
            if now - self._read_at >= _USED_FOR:
                self._report = self._ask(now)
                self._read_at = time.monotonic()
            return self._report

    def _ask(self, now: float) -> LiveReport | None:
        try:
            done = ask(find_control(self._control, self._name), "live", {"most": 1})
            return msgspec.convert(done.result, LiveReport)
        except (ControlError, msgspec.ValidationError) as error:
            if now - self._told_at >= _TOLD_EVERY:
                self._told_at = now
                _log.warning("no metrics", error=str(error))
            return None


def observe(
    control: str | os.PathLike[str] = "",
    *,
    name: str = "",
    meter_provider: MeterProvider | None = None,
) -> None:
    """Have the numbers of a server on this machine be metrics of OpenTelemetry.

    The metrics are those of ``--admin``, under the same names, but that OpenTelemetry's counters
    do without "_total", and that of a histogram there are its "_count" and its "_sum".  They are
    read when the provider's reader collects; while no server answers there are none.  Call it once,
    in a process of its own: the numbers are those of all workers.

    Args:
        control: The path of the server's control socket.
        name: The server's name.  With neither it is the only one that runs.
        meter_provider: By default the one that is set.
    """
    meter = metrics.get_meter("socketkeep", VERSION, meter_provider)
    numbers = _Numbers(os.fspath(control), name)
    for metric in METRICS:
        callback = _callback(numbers, metric.read, metric.labels)
        called = metric.name.removesuffix("_total")
        if metric.kind == "counter":
            meter.create_observable_counter(called, [callback], description=metric.help)
        else:
            meter.create_observable_gauge(called, [callback], description=metric.help)
    for histogram in HISTOGRAMS:
        for suffix, field in (("count", "count"), ("sum", "seconds")):
            callback = _callback(numbers, partial(_sums, histogram, field), histogram.labels)
            meter.create_observable_counter(
                f"{histogram.name}_{suffix}", [callback], description=histogram.help
            )


def _sums(histogram: Histogram, field: str, report: LiveReport) -> Iterable[Sample]:
    return [(labels, getattr(wait, field)) for labels, wait in histogram.read(report)]


def _callback(
    numbers: _Numbers, read: Callable[[LiveReport], Iterable[Sample]], labels: tuple[str, ...]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observations(_: CallbackOptions) -> Iterable[Observation]:
        report = numbers.read()
        if report is None:
            return
        for values, value in read(report):
            yield Observation(+value, dict(zip(labels, values, strict=True)))  # True is 1

    return observations
