"""What the tests of the admin pages share: asking over HTTP, and pages without a keeper."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from socketkeep._admin import _metrics
from socketkeep._admin._http import _events, _server
from socketkeep._admin._http._source import KeeperUnreachable, ReportSource
from socketkeep._admin._reports import (
    AttachedByReason,
    ClusterReport,
    ConnectionReport,
    ConnectionsByState,
    ConnectionsPart,
    EdgesReport,
    ListenerReport,
    LiveReport,
    StatusReport,
    Totals,
    WaitReport,
    WaitReportByReason,
    WorkerReport,
    WorkersByState,
)
from tests.harness import Server

STATUS = StatusReport(
    name="chat",
    pid=os.getpid(),
    version="0.1.0",
    python="3.11.7",
    uptime=12.0,
    state="running",
    target="shop.chat:handle",
    model="async",
    keep="crash",
    generation=1,
    listeners=[ListenerReport(address='unix:/run/"odd\\name', backlog=2048, queued=3)],
    workers=WorkersByState(ready=2),
    connections=ConnectionsByState(open=3, owned=3),
    totals=Totals(accepted=11),
    waits=WaitReportByReason(
        reload=WaitReport(count=3, seconds=0.15, longest=0.125, within=[(0.05, 2), (1.0, 3)])
    ),
)

#: With edges, a cluster that it cannot reach, and moves by a crash.
WITH_ALL = msgspec.structs.replace(
    STATUS,
    edges=EdgesReport(pids=[5, 6], connections=12, handshakes={"TLSv1.3": 40}, resumed=7),
    cluster=ClusterReport(
        name="chat", node="a", state="away", for_seconds=31.0, error="no broker", nodes=["a", "b"]
    ),
    waits=msgspec.structs.replace(
        STATUS.waits, crash=WaitReport(count=2, seconds=0.5, longest=0.3, within=[])
    ),
)


def worker(slot: int, pid: int, generation: int = 1, **more: object) -> WorkerReport:
    """Return the report of a worker."""
    plain = WorkerReport(
        slot=slot,
        pid=pid,
        generation=generation,
        state="ready",
        connections=2,
        busy=1,
        uptime=1.0,
        rss=1 << 20,
    )
    return msgspec.structs.replace(plain, **more)


def connection(name: str, of: int | None, slot: int | None, /, **more: object) -> ConnectionReport:
    """Return the report of a connection in the worker of pid `of`."""
    plain = ConnectionReport(
        id=name,
        peer="10.0.0.1:5555",
        listener="127.0.0.1:7000",
        state="owned" if of else "moving",
        owner=of,
        generation=1,
        epoch=1,
        age=1.0,
        idle=0.0,
        bytes_in=10,
        bytes_out=20,
        busy=False,
        worker=of,
        slot=slot,
    )
    return msgspec.structs.replace(plain, **more)


#: All that is declared.
METRICS = (*_metrics.METRICS, *_metrics.HISTOGRAMS)
LIVE = LiveReport(status=STATUS, workers=[worker(0, 71), worker(1, 72)], connections=[])


def show_every(patch: Any, seconds: float) -> None:
    """Have those who watch see a frame so often."""
    patch.setattr(_events, "_INTERVAL", seconds)


def bound_pages(patch: Any, **bounds: float) -> None:
    """Set bounds for clients: `head_timeout`, `write_timeout`, `most_clients`."""
    for name, bound in bounds.items():
        patch.setattr(_server, f"_{name.upper()}", bound)


def totals(**counts: Any) -> Totals:
    """Return the totals of a server; attached: by why they moved."""
    attached = AttachedByReason(**counts.pop("attached", {}))
    return Totals(attached=attached, **counts)


class FakeSource(ReportSource):
    """A keeper that says what the test has it say; None: it does not answer."""

    def __init__(self, report: LiveReport | None = LIVE) -> None:
        super().__init__("nowhere")
        self.report = report
        self.outcome: dict[str, object] = {"outcome": "delivered", "id": "a-1", "epoch": 1}
        self.pushed: list[tuple[str, str, bytes, float]] = []

    async def push(
        self, command: str, to: str, message: bytes, timeout: float
    ) -> dict[str, object]:
        if self.report is None:
            raise KeeperUnreachable("the keeper does not answer")
        self.pushed.append((command, to, message, timeout))
        return self.outcome

    async def look(self, max_age: float = 0.0) -> LiveReport:
        if self.report is None:
            raise KeeperUnreachable("the keeper does not answer")
        return self.report

    async def part(self, part: int, parts: int) -> ConnectionsPart:
        if self.report is None:
            raise KeeperUnreachable("the keeper does not answer")
        every = self.report.connections
        theirs = [each for each in every if int(each.id.rpartition("-")[2], 16) % parts == part]
        return ConnectionsPart(connections=theirs, open=len(every), cost=0.0)


@asynccontextmanager
async def pages(source: ReportSource, token: str = "", for_pushes: str = "") -> AsyncIterator[int]:
    """Serve the pages of `source`; yields the port."""
    theirs, ours = os.pipe()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        os.fdopen(theirs, "rb", buffering=0) as lifeline,
        os.fdopen(ours, "wb", buffering=0) as end,
    ):
        serving = asyncio.create_task(
            _server.HttpServer(source, token, for_pushes).run(listener, lifeline)
        )
        try:
            yield listener.getsockname()[1]
        finally:
            end.close()
            await serving


async def exchange(port: int, request: str) -> str:
    """Send a request, and return all that comes until the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            writer.write(request.encode())
            await writer.drain()
        return (await reader.read()).decode()
    finally:
        writer.close()


def exposed() -> tuple[str, str]:
    """Return the page of metrics, and its type."""
    page, kind = _metrics.exposition(LIVE, "text/plain")
    return page.decode(), kind


def get(path: str, *headers: str, host: str = "127.0.0.1:9000") -> str:
    """Return a GET whose connection ends with the answer."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines)


def post(path: str, body: str, *headers: str) -> str:
    """Return a POST whose connection ends with the answer."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1:9000", "Connection: close"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", *headers, "", body])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page answered."""

    status: int
    text: str


@contextmanager
def _connection(port: int, timeout: float) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        yield client
    finally:
        client.close()


def fetch(port: int, path: str, timeout: float = 10.0) -> Answer:
    """Return what a real server answers."""
    with _connection(port, timeout) as client:
        client.request("GET", path)
        answer = client.getresponse()
        return Answer(answer.status, answer.read().decode())


def post_push(port: int, path: str, message: bytes, token: str = "0123456789abcdef") -> Answer:
    """Return what a real server answers to a push."""
    with _connection(port, 10.0) as client:
        client.request("POST", path, message, {"Authorization": f"Bearer {token}"})
        answer = client.getresponse()
        return Answer(answer.status, answer.read().decode())


def admin_port(server: Server) -> int:
    """Return the port that a real server's log names."""
    url: str = server.find("admin")[0]["url"]
    return int(url.rstrip("/").rpartition(":")[2])


def admin_pid(server: Server) -> int:
    """Return the pid of the process that shows the server."""
    (pid,) = (
        int(name)
        for name in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        if os.path.exists(f"/proc/{name}/fd/3")
        and b"admin" in Path(f"/proc/{name}/cmdline").read_bytes()
    )
    return pid
