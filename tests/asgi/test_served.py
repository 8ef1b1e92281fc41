"""An application as users serve it: real clients, reloads, kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness import Server

_APP = """
import os

VERSION = "{version}"

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        if VERSION == "broken":
            await send({{"type": "lifespan.startup.failed", "message": "there is no database"}})
            return
        scope["state"]["pid"] = os.getpid()
        await send({{"type": "lifespan.startup.complete"}})
        assert (await receive())["type"] == "lifespan.shutdown"
        print("shutdown", flush=True)
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    size = 0
    while True:
        message = await receive()
        size += len(message["body"])
        if not message["more_body"]:
            break
    text = f"{{VERSION}} {{scope['state']['pid']}} {{scope['path']}} {{size}}"
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": text.encode()}})
"""


def _write(directory: Path, version: str) -> str:
    (directory / "site_app.py").write_text(_APP.format(version=version))
    return "site_app:app"


def _port(response: httpx.Response) -> int:
    """Return the client's port: it tells connections apart."""
    address = response.extensions["network_stream"].get_extra_info("client_addr")
    return int(address[1])


def test_one_connection_goes_through_reloads_and_a_failed_one(tmp_path: Path) -> None:
    with (
        Server(tmp_path, _write(tmp_path, "1")) as server,
        httpx.Client(base_url=f"http://{server.address}") as client,
    ):
        assert server.find("served as ASGI, since it takes scope, receive, send")
        first = client.get("/a")
        assert first.text.startswith("1 ")
        for version, served in (("2", "2"), ("broken", "2"), ("3", "3")):
            _write(tmp_path, version)
            done = server.cli("reload")
            assert (done.exit_code == 0) == (version != "broken"), done
            if version == "broken":
                assert "there is no database" in done.stderr
                assert "Traceback" not in done.stderr
            answer = client.post("/b", content=b"x" * 300_000)
            told, _, path, size = answer.text.split()
            assert (told, path, size) == (served, "/b", "300000")
            assert _port(answer) == _port(first)
            assert "connection" not in answer.headers


def test_an_idle_connection_outlives_its_worker(tmp_path: Path) -> None:
    with (
        Server(tmp_path, _write(tmp_path, "1"), "--keep", "crash", "--keep-after", "0") as server,
        httpx.Client(base_url=f"http://{server.address}") as client,
    ):
        first = client.get("/a")
        server.wait_clean()
        pid = int(first.text.split()[1])
        os.kill(pid, signal.SIGKILL)
        server.wait_event("worker exited", pid=pid)
        second = client.get("/a")
        assert int(second.text.split()[1]) != pid
        assert _port(second) == _port(first)


_STREAM = """
import asyncio
from pathlib import Path

VERSION = "{version}"
ENOUGH = Path(__file__).with_name("enough")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    await receive()
    ours = scope["extensions"]["socketkeep"]
    count = ours["state"] or 0
    headers = [(b"content-type", b"text/event-stream")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    while True:
        count += 1
        event = f"id: {{count}}\\ndata: {{VERSION}} {{ours['attached']}}\\n\\n".encode()
        await send({{"type": "http.response.body", "body": event, "more_body": True}})
        await send({{"type": "socketkeep.commit", "state": count}})
        await asyncio.sleep(0.001)
        if count == 50:
            await asyncio.Event().wait()  # what comes next is for other code to send
        if ENOUGH.exists() or (scope["path"] == "/short" and count >= 3):
            break
    await send({{"type": "http.response.body", "body": b""}})
"""


def _events(lines: Iterator[str]) -> Iterator[tuple[int, str, str]]:
    for line in lines:
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            version, attached = line[6:].split()
            yield number, version, attached


@pytest.mark.parametrize("end", ["reload", "kill"])
def test_an_event_stream_goes_on_in_other_code(tmp_path: Path, end: str) -> None:
    def write(version: str) -> str:
        (tmp_path / "stream_app.py").write_text(_STREAM.format(version=version))
        return "stream_app:app"

    keep = ("--keep", "crash", "--keep-after", "0", "--park-after", "0.1")
    with (
        Server(tmp_path, write("1"), *keep) as server,
        httpx.Client(base_url=f"http://{server.address}") as client,
    ):
        assert len(client.get("/short").text.split("\n\n")) == 4
        with client.stream("GET", "/") as response:
            events = _events(response.iter_lines())
            seen = [next(events)]
            write("2")
            if end == "reload":
                assert server.reload().exit_code == 0
            else:
                while seen[-1][0] < 50:
                    seen.append(next(events))
                server.wait_clean()
                os.kill(server.workers()[0]["pid"], signal.SIGKILL)
            for event in events:
                seen.append(event)
                if event[2] != "accepted":
                    break
            (tmp_path / "enough").touch()
            seen += events
        assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
        assert seen[0][1:] == ("1", "accepted")
        assert seen[-1][1:] == (("2", "reload") if end == "reload" else ("1", "crash"))
        assert client.get("/short").text.startswith("id: 1\n")
