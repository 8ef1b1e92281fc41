"""The programs of docs/how-to/errors-and-traces.md, served as the page says, and what they send."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import Server, connect, read_reply, read_to_end
from tests.telemetry.collector import Collector, collecting

_PAGE: Final = Path(__file__).parents[2] / "docs/how-to/errors-and-traces.md"
_BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SENTRY, SPANS, METRICS, STATSD = _BLOCK.findall(_PAGE.read_text())


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def _otlp(collector: Collector) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_SERVICE_NAME": "gateway",
    }


@pytest.mark.parametrize("model", ["fork", "prefork"])
def test_sentry_is_told_of_failures(tmp_path: Path, model: str) -> None:
    """By its own SDK: one event each, with the connection, the code's frames, the worker's tag."""
    (tmp_path / "gateway.py").write_text(SENTRY)
    with collecting() as collector:
        environment = {"SENTRY_DSN": f"http://key@127.0.0.1:{collector.port}/1"}
        options = ("-k", model, "-w", "1")
        with Server(tmp_path, "gateway.py:service", *options, environment=environment) as server:
            for _ in range(2):
                with connect(server.address) as peer:
                    peer.sendall(b"4\n")
                    assert read_reply(peer) == b"25"
                    peer.sendall(b"0\n")
                    assert read_to_end(peer) == b""
            server.wait_until(lambda: len(server.find("handler failed")) == 2, "both are logged")
            server.cli("stop")  # what the SDK has yet to send it sends at the worker's end
            server.wait_exit()
        told = server.find("handler failed")
        events = collector.events()
    assert [event["tags"]["connection"] for event in events] == [each["id"] for each in told]
    for event in events:
        (exception,) = event["exception"]["values"]
        assert exception["type"] == "ZeroDivisionError"
        assert exception["stacktrace"]["frames"][-1]["function"] == "handle"
        assert str(event["tags"]["generation"]) == "1"
        assert event["contexts"]["connection"]["attached"] == "accepted"


def test_spans_are_linked_across_workers(tmp_path: Path) -> None:
    """By OTLP: a stay in each of two workers, the move between, a trace for each message.

    In the model in which each connection's process has to export by itself.
    """
    (tmp_path / "gateway.py").write_text(SPANS)
    with collecting() as collector:
        options = ("-k", "fork", "-w", "1", "--park-after", "off")
        with (
            Server(
                tmp_path, "gateway.py:service", *options, environment=_otlp(collector)
            ) as server,
            connect(server.address) as peer,
        ):
            peer.sendall(b"4\n")
            assert read_reply(peer) == b"25"
            server.reload()
            peer.sendall(b"0\n")
            assert read_to_end(peer) == b""
            server.cli("stop")
            server.wait_exit()
        first, second = collector.wait_for(lambda: _two(collector, "connection"), "two stays")
        (move,) = collector.spans("move")
        one, failed = collector.wait_for(lambda: _two(collector, "message"), "two messages")
    assert [_attributes(each)["socketkeep.left"] for each in (first, second)] == ["moved", "ended"]
    assert _attributes(second)["socketkeep.attached"] == "reload"
    assert _attributes(first)["socketkeep.id"] == _attributes(second)["socketkeep.id"]
    assert [link.span_id for link in second.links] == [first.span_id]
    assert second.trace_id != first.trace_id
    assert (move.trace_id, move.parent_span_id) == (first.trace_id, first.span_id)
    assert [link.span_id for each in (one, failed) for link in each.links] == [
        first.span_id,
        second.span_id,
    ]
    assert failed.status.message.startswith("ZeroDivisionError: ")
    assert failed.events[0].name == "exception"
    assert one.status.code != failed.status.code


def _two(collector: Collector, name: str) -> list[Any] | None:
    spans = collector.spans(name)
    assert len(spans) <= 2
    return spans if len(spans) == 2 else None


def test_metrics_are_exported(tmp_path: Path) -> None:
    """By a process of its own, by OTLP; it ends when it is told to."""
    (tmp_path / "gateway.py").write_text(SPANS)
    (tmp_path / "metrics.py").write_text(METRICS)
    with (
        collecting() as collector,
        Server(tmp_path, "gateway.py:service", "-w", "1", "--name", "gateway") as server,
        connect(server.address) as peer,
    ):
        source = METRICS.replace('name="gateway"', f"{str(server.control)!r}")
        assert source != METRICS
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", source],
            env={**_otlp(collector), "OTEL_METRIC_EXPORT_INTERVAL": "100"},
        )
        try:
            found = collector.wait_for(collector.metrics, "metrics")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in (0, -signal.SIGTERM)
        peer.close()
    points = found["socketkeep_state"].gauge.data_points
    values = {each.attributes[0].value.string_value: each.as_int for each in points}
    assert values["running"] == 1
    assert found["socketkeep_handler_errors"].sum.is_monotonic


def test_statsd_is_told_by_each_process(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        port = statsd.getsockname()[1]
        source = STATSD.replace("9125", str(port))
        assert source != STATSD
        (tmp_path / "gateway.py").write_text(source)
        with (
            Server(tmp_path, "gateway.py:service", "-k", "fork", "-w", "1") as server,
            connect(server.address) as peer,
        ):
            peer.sendall(b"one\n")
            assert read_reply(peer) == b"one"
            assert [statsd.recv(100) for _ in range(2)] == [
                b"gateway.stays.accepted:1|c",
                b"gateway.lines:1|c",
            ]
