"""The server's numbers, as a reader of OpenTelemetry in memory collects them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from socketkeep.otel import observe
from tests.admin.web import LIVE
from tests.cli.fake_server import FakeServer, done


def collected(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Return by name what there is, each with its attributes."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: [
            (dict(point.attributes or {}), point.value)
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        ]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_numbers_of_a_server(tmp_path: Path) -> None:
    """Those of its admin's metrics, under their names; the server is asked once for all."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with FakeServer(tmp_path / "a.sock", [done(msgspec.to_builtins(LIVE))]) as server:
        observe(server.path, meter_provider=provider)
        found = collected(reader)
        assert server.requests == [{"command": "live", "arguments": {"most": 1}}]
    assert found["socketkeep_uptime_seconds"] == [({}, 12.0)]
    assert found["socketkeep_reloads"] == [({}, 0)]
    (running,) = [each for each in found["socketkeep_state"] if each[0]["state"] == "running"]
    assert running[1] == 1
    assert type(running[1]) is int  # exporters take no truth for a number
    assert ({"slot": "1"}, 2) in found["socketkeep_worker_connections"]
    assert ({"reason": "reload"}, 3) in found["socketkeep_connection_wait_seconds_count"]
    assert ({"reason": "reload"}, 0.15) in found["socketkeep_connection_wait_seconds_sum"]
    provider.shutdown()


def test_a_server_that_does_not_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There are no numbers, and one line of the log."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observe(str(tmp_path / "nobody.sock"), meter_provider=provider)
    with caplog.at_level(logging.WARNING, "socketkeep"):
        assert collected(reader) == {}
        assert collected(reader) == {}
    assert [record.getMessage() for record in caplog.records] == ["no metrics"]
    provider.shutdown()
