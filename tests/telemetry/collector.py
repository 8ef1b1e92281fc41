"""A collector on this machine: whatever is posted to it by HTTP, and what may be asked of that."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What has been posted, by path."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._posted: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()

    def post(self, path: str, body: bytes) -> None:
        with self._changed:
            self._posted.append((path, body))
            self._changed.notify_all()

    def wait_for(self, found: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """Return what `found` does, once that is true."""
        end = time.monotonic() + seconds
        with self._changed:
            while not (result := found()):
                left = end - time.monotonic()
                assert left > 0, f"no {what} came; there is {[path for path, _ in self._posted]}"
                self._changed.wait(left)
        return result

    def spans(self, name: str) -> list[Any]:
        """Return the spans of this name that have come by OTLP, in their order in time."""
        found = []
        for path, body in self._posted:
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        found += [span for span in scope.spans if span.name == name]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def metrics(self) -> dict[str, Any]:
        """Return by name the metrics that came last by OTLP."""
        bodies = [body for path, body in self._posted if path == "/v1/metrics"]
        if not bodies:
            return {}
        return {
            metric.name: metric
            for resource in ExportMetricsServiceRequest.FromString(bodies[-1]).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def events(self) -> list[dict[str, Any]]:
        """Return the events that have come by Sentry's envelopes."""
        found = []
        for path, body in self._posted:
            if path.endswith("/envelope/"):
                _, *items = body.split(b"\n")
                for head, item in zip(items[::2], items[1::2], strict=False):
                    if json.loads(head)["type"] == "event":
                        found.append(json.loads(item))
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Have a collector listen on a port of the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            collector.post(self.path, body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
