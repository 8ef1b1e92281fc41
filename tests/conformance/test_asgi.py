"""Frameworks, clients and load of others over HTTP, while the server reloads once a second."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.asgi.differential import search
from tests.documentation.pages import blocks
from tests.harness import Server

_RELOADS = 3  # that a test goes through
_SECONDS = 6  # of load

_STARLETTE = """
import contextlib, hashlib
from pathlib import Path

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

HERE = Path(__file__).parent
done = []

async def upload(request):
    async with request.form() as form:
        content = await form["file"].read()
        return JSONResponse({"name": form["name"], "sum": hashlib.sha256(content).hexdigest()})

async def consume(request):
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    return JSONResponse({"size": size, "sum": digest.hexdigest()})

async def numbers(request):
    async def parts():
        for number in range(int(request.path_params["count"])):
            yield f"{number}\\n"
    return StreamingResponse(parts(), media_type="text/plain")

async def later(request):
    return PlainTextResponse("now", background=BackgroundTask(done.append, 1))

async def state(request):
    return JSONResponse({"pool": request.state.pool, "client": request.client.host})

async def fails(request):
    raise LookupError("as it was told to")

class Marked(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-marked"] = request.url.path
        return response

@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"pool": "open"}

handle = Starlette(
    routes=[
        Route("/upload", upload, methods=["POST"]),
        Route("/consume", consume, methods=["POST"]),
        Route("/numbers/{count:int}", numbers),
        Route("/later", later),
        Route("/state", state),
        Route("/fails", fails),
        Route("/file", lambda request: FileResponse(HERE / "large.bin")),
        Mount("/static", StaticFiles(directory=HERE)),
    ],
    lifespan=lifespan,
)
handle.add_middleware(Marked)
handle.add_middleware(GZipMiddleware)
"""

_FASTAPI = """
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, File, Header, HTTPException, UploadFile
from pydantic import BaseModel

class Item(BaseModel):
    name: str
    price: float
    tags: list[str] = []

@asynccontextmanager
async def lifespan(app):
    app.state.ready = True
    yield

handle = FastAPI(lifespan=lifespan)
closed = []

async def session():
    try:
        yield "session"
    finally:
        closed.append(1)

@handle.get("/items/{item_id}")
async def read_item(item_id: int, q: str | None = None):
    if item_id == 404:
        raise HTTPException(404, "no such item")
    return {"item_id": item_id, "q": q, "ready": handle.state.ready}

@handle.put("/items/{item_id}")
async def update_item(item_id: int, item: Item, db: Annotated[str, Depends(session)]):
    return {"item_id": item_id, "db": db, **item.model_dump()}

@handle.get("/sync")
def sync(x_token: Annotated[str, Header()]):
    return {"token": x_token}

@handle.post("/files")
async def files(file: UploadFile):
    return {"size": len(await file.read()), "name": file.filename}
"""

#: The response class is the page's.
_EVENTS = """
import asyncio
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

ENOUGH = Path(__file__).with_name("enough")
handle = FastAPI()

COMMITTING
@handle.get("/events")
async def events(request: Request):
    ours = request.scope["extensions"]["socketkeep"]

    async def numbers():
        number = ours["state"] or 0
        while not ENOUGH.exists():
            number += 1
            yield number, f"id: {number}\\ndata: {ours['attached']}\\n\\n".encode()
            await asyncio.sleep(0.005)

    return Committing(numbers(), media_type="text/event-stream")
""".replace("COMMITTING", blocks("how-to/asgi", "text")[0])

_MCP = """
from mcp.server import MCPServer

server = MCPServer("calculator")

@server.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b

handle = server.streamable_http_app(stateless_http=True)
"""

_PLAIN = """
async def handle(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"Hello, World!"})
"""


class Reloading:
    """A server that is reloaded once a second.  goes_on: there are reloads still to come."""

    def __init__(self, server: Server) -> None:
        self.address = server.address
        self.reloads = 0

    @property
    def goes_on(self) -> bool:
        return self.reloads < _RELOADS


@contextlib.contextmanager
def reloading(directory: Path, source: str, *options: str) -> Iterator[Reloading]:
    """Serve the application, and reload it once a second."""
    (directory / "served_app.py").write_text(source)
    over = threading.Event()
    failed: list[object] = []

    def reload() -> None:
        while not over.wait(1.0):
            done = server.reload()
            if done.exit_code:
                failed.append(done)
            served.reloads += 1

    with Server(directory, "served_app:handle", *options) as server:
        served = Reloading(server)
        thread = threading.Thread(target=reload)
        thread.start()
        try:
            yield served
        finally:
            over.set()
            thread.join()
        assert not failed
        assert served.reloads > 1


def test_starlette(tmp_path: Path) -> None:
    large = bytes(n * n % 251 for n in range(3_000_000))
    (tmp_path / "large.bin").write_bytes(large)
    with (
        reloading(tmp_path, _STARLETTE) as server,
        httpx.Client(base_url=f"http://{server.address}", timeout=30) as client,
    ):
        ports = set()
        while server.goes_on:
            answer = client.post("/upload", data={"name": "n"}, files={"file": large[:200_000]})
            assert answer.json()["name"] == "n"
            answer = client.post("/consume", content=iter([large[:100_000]] * 5))
            assert answer.json()["size"] == 500_000
            answer = client.get("/numbers/2000")
            assert answer.text.split() == [str(n) for n in range(2000)]
            assert answer.headers["content-encoding"] == "gzip"
            assert client.get("/later").text == "now"
            assert client.get("/state").json() == {"pool": "open", "client": "127.0.0.1"}
            assert client.get("/file").content == large
            answer = client.get("/static/large.bin", headers={"Range": "bytes=10-19"})
            assert (answer.status_code, answer.content) == (206, large[10:20])
            assert client.head("/file").headers["content-length"] == "3000000"
            answer = client.get("/nowhere")
            assert (answer.status_code, answer.headers["x-marked"]) == (404, "/nowhere")
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(ports) == 1
        assert client.get("/fails").status_code == 500


def test_fastapi(tmp_path: Path) -> None:
    with (
        reloading(tmp_path, _FASTAPI) as server,
        httpx.Client(base_url=f"http://{server.address}", timeout=30) as client,
    ):
        item = {"name": "a", "price": 1.5, "tags": ["b"]}
        while server.goes_on:
            told = client.get("/items/5", params={"q": "\u20ac"}).json()
            assert told == {"item_id": 5, "q": "\u20ac", "ready": True}
            assert client.get("/items/x").status_code == 422
            assert client.get("/items/404").json() == {"detail": "no such item"}
            told = client.put("/items/5", json=item).json()
            assert told == {"item_id": 5, "db": "session", **item}
            assert client.get("/sync", headers={"X-Token": "t"}).json() == {"token": "t"}
            sent = {"file": ("f.bin", b"x" * 50_000)}
            assert client.post("/files", files=sent).json() == {"size": 50_000, "name": "f.bin"}
            assert client.get("/openapi.json").json()["paths"].keys() >= {"/items/{item_id}"}


def test_an_event_stream_of_fastapi_goes_on(tmp_path: Path) -> None:
    seen = []
    with (
        reloading(tmp_path, _EVENTS) as server,
        httpx.stream("GET", f"http://{server.address}/events", timeout=30) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                seen.append((number, line[6:]))
            if not server.goes_on:
                (tmp_path / "enough").touch()
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert [attached for _, attached in seen].index("reload") > 0


def test_aiohttp_s_client(tmp_path: Path) -> None:
    async def parts() -> Any:
        for _ in range(20):
            yield b"x" * 10_000
            await asyncio.sleep(0)

    async def visit(session: aiohttp.ClientSession, server: Reloading) -> int:
        count = 0
        while server.goes_on:
            async with session.post("/consume", data=parts()) as answer:
                assert (await answer.json())["size"] == 200_000
            async with session.get("/numbers/500") as answer:
                assert (await answer.text()).count("\n") == 500
            async with session.post("/consume", data=b"y" * 50_000, expect100=True) as answer:
                assert (await answer.json())["size"] == 50_000
            count += 3
        return count

    async def run(server: Reloading) -> int:
        connector = aiohttp.TCPConnector(limit=20)
        url = f"http://{server.address}"
        async with aiohttp.ClientSession(url, connector=connector) as session:
            return sum(await asyncio.gather(*(visit(session, server) for _ in range(20))))

    with reloading(tmp_path, _STARLETTE, "-w", "2") as server:
        assert asyncio.run(run(server)) > 100


def test_an_mcp_server_over_streamable_http(tmp_path: Path) -> None:
    from mcp import Client

    async def run(server: Reloading) -> int:
        count = 0
        async with Client(f"http://{server.address}/mcp") as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["add"]
            while server.goes_on:
                result = await client.call_tool("add", {"a": count, "b": 1})
                assert result.structured_content == {"result": count + 1}
                count += 1
        return count

    with reloading(tmp_path, _MCP) as server:
        assert asyncio.run(run(server)) > 10


@pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "pipelined"])
def test_wrk_sees_no_error(tmp_path: Path, pipelined: bool) -> None:
    wrk = shutil.which("wrk")
    assert wrk, "make packages installs it"
    script = []
    if pipelined:
        path = tmp_path / "pipeline.lua"
        path.write_text(
            "init = function(args)\n"
            "  local one = wrk.format()\n"
            "  all = one .. one .. one .. one\n"
            "end\n"
            "request = function() return all end\n"
        )
        script = ["-s", str(path)]
    with reloading(tmp_path, _PLAIN, "-w", "2") as server:
        command = [wrk, "-t", "1", "-c", "50", "-d", f"{_SECONDS}s", *script]
        done = subprocess.run(
            [*command, f"http://{server.address}/"],
            capture_output=True,
            text=True,
            timeout=50,
            check=True,
        )
    assert "Socket errors" not in done.stdout, done.stdout
    assert "Non-2xx" not in done.stdout, done.stdout
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 1000, done.stdout


def test_h2load_sees_no_error(tmp_path: Path) -> None:
    h2load = shutil.which("h2load")
    assert h2load, "make packages installs it"
    with reloading(tmp_path, _PLAIN, "-w", "2") as server:
        command = [h2load, "--h1", "-c", "50", "-D", str(_SECONDS), f"http://{server.address}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert re.search(r" 0 failed, 0 errored, 0 timeout", done.stdout), done.stdout
    found = re.search(r"(\d+) succeeded", done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 1000, done.stdout


def test_h11_sees_what_we_see_in_mutated_requests() -> None:
    # Another search each day: 100,000 where the machine has nothing else to do.
    seed = int(time.time()) // 86400 * 1000
    end = time.monotonic() + 30
    for number in range(20):
        _, found = search(seed + number, 5000)
        assert found == [], f"seed {seed + number}"
        if time.monotonic() > end:
            break
