"""An application as users serve it: real clients, reloads, kills."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx

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
