"""An application as users serve it: real clients, reloads, kills."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness import Server, connect, read_to_end

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
                server.wait_until(
                    lambda: server.status()["connections"]["kept"] > 0, "the keeper has it"
                )
                # An event is with the client before its commit is made.
                server.wait_until(
                    lambda: not server.ask("reload-forecast")["stays"], "it has committed"
                )
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


_FACTS = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    size = 0
    while True:
        message = await receive()
        size += len(message["body"])
        if not message["more_body"]:
            break
    text = f"{scope['scheme']} {scope['client']} {size}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
"""


def _proxied(client: str, payload: bytes, address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(f"PROXY TCP4 {client} 192.0.2.9 4242 80\r\n".encode() + payload)
        return read_to_end(sock)


def test_a_large_body_from_a_proxy_s_client_is_no_cause_for_a_word(tmp_path: Path) -> None:
    (tmp_path / "facts_app.py").write_text(_FACTS)
    options = ("--proxy-protocol", "on", "--max-connections", "1000", "-w", "2")
    with Server(tmp_path, "facts_app:app", *options) as server:
        size = 80_000_000
        head = f"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
        came = _proxied("192.0.2.7", head.encode() + bytes(size), server.address)
        assert came.endswith(f"http ('192.0.2.7', 4242) {size}".encode())
        # Clients that go, wherever they are.
        for cut in (3, 40, 90, len(head) + 10, 4_000_000):
            with connect(server.address) as sock:
                sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.9 1 80\r\n" + head.encode()[:cut])
                sock.sendall(bytes(max(0, cut - len(head))))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        bad = _proxied("192.0.2.7", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", server.address)
        assert bad.startswith(b"HTTP/1.1 400 ")
        server.wait_until(lambda: not server.connections(), "all connections are over")
        server.wait_event("bad request", level="info")
        gone = server.wait_event("application raised when its client had gone")
        assert "KeyError" in gone["error"]
        assert gone["at"].startswith(str(tmp_path / "facts_app.py"))
        told = {event["level"] for event in server.events}
        assert told == {"info"}, told


_BACKGROUND = """
import asyncio
from pathlib import Path

VERSION = "{version}"
ENOUGH = Path(__file__).with_name("enough")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": VERSION.encode()}})
    if scope["path"] == "/work":
        while not ENOUGH.exists():
            await asyncio.sleep(0.01)
        Path(__file__).with_name("done").touch()
"""


def test_what_runs_in_the_background_is_finished_before_the_connection_moves(
    tmp_path: Path,
) -> None:
    def write(version: str) -> str:
        (tmp_path / "background_app.py").write_text(_BACKGROUND.format(version=version))
        return "background_app:app"

    with (
        Server(tmp_path, write("1")) as server,
        httpx.Client(base_url=f"http://{server.address}") as client,
    ):
        port = _port(client.get("/work"))
        write("2")
        assert server.reload().exit_code == 0
        assert client.get("/").text == "1"  # the worker that works has the connection
        (tmp_path / "enough").touch()
        server.wait_event("worker exited")
        assert (tmp_path / "done").exists()
        answer = client.get("/")
        assert answer.text == "2"
        assert _port(answer) == port


_NOTED = """
import asyncio, os, signal

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        return
    size = 0
    while (message := await receive())["more_body"]:
        size += len(message["body"])
    size += len(message["body"])
    with open("calls", "a") as calls:
        calls.write(f"{size}\\n")
    if scope["path"] == "/fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % size})
"""


def test_a_request_is_not_begun_again_where_websockets_have_messages_again(tmp_path: Path) -> None:
    (tmp_path / "noted_app.py").write_text(_NOTED)
    options = ("--ws-redeliver", "--keep", "crash", "--keep-after", "0", "--workers", "1")
    with (
        Server(tmp_path, "noted_app:app", *options) as server,
        httpx.Client(base_url=f"http://{server.address}", timeout=20) as client,
    ):
        # More than the kernel holds of a connection.
        body = bytes(20_000_000)
        assert client.post("/", content=body).text == str(len(body))
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/fatal", content=b"x")
        assert client.post("/", content=b"xyz").text == "3"
        server.wait_event("closed after a crash")
    assert (tmp_path / "calls").read_text().split() == [str(len(body)), "1", "3"]
