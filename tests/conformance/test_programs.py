"""Servers that others wrote, as they are, each with its own client, while the server reloads."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import telnetlib3
from pymodbus.client import ModbusTcpClient

from tests.harness import Server

_RELOADS = 3
_CLIENTS = 8

_SMTP = """
from pathlib import Path
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP

def factory():
    return SMTP(Mailbox(Path(__file__).parent / "mail"), hostname="here")
"""

_TELNET = """
from telnetlib3.server import TelnetServer

async def shell(reader, writer):
    while line := await reader.readline():
        writer.write("heard " + line.rstrip() + "\\r\\n")
        await writer.drain()
    writer.close()

def factory():
    return TelnetServer(shell=shell, connect_maxwait=0.2)
"""

_MODBUS = """
import os
from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler
from pymodbus.simulator import DataType, SimData, SimDevice
from socketkeep import NotCommitted, resumable

server = None

def unmodified():
    global server
    if server is None:
        data = SimData(0, values=[7, os.getpid() % 65536, 9], datatype=DataType.REGISTERS)
        server = ModbusTcpServer(SimDevice(1, simdata=[data]))
    return server.handle_new_connection()

class Kept(ServerRequestHandler):
    busy = False

    def callback_data(self, data, addr=None):
        used = super().callback_data(data, addr)
        self.busy = bool(self.last_pdu)
        return used

    async def handle_request(self):
        try:
            await super().handle_request()
        finally:
            self.busy = False

    def detach(self):
        if self.busy:
            raise NotCommitted("a request is being answered")
        return self.recv_buffer

    def attach(self, unfinished):
        self.recv_buffer = unfinished

@resumable
def kept():
    made = unmodified()
    made.__class__ = Kept
    return made
"""


@contextlib.contextmanager
def reloading(server: Server) -> Iterator[threading.Event]:
    """Reload again and again; the event is set once it has been done often enough."""
    enough, over = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def reload() -> None:
        try:
            for count in range(1, 1000):
                if over.wait(0.5):
                    return
                server.ask("reload")
                if count >= _RELOADS:
                    enough.set()
        except BaseException as error:
            failed.append(error)
            enough.set()

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        yield enough
    finally:
        over.set()
        thread.join()
    assert not failed


def test_aiosmtpd(tmp_path: Path) -> None:
    """Sessions that begin before, during and after reloads; no mail is lost or there twice."""
    (tmp_path / "app.py").write_text(_SMTP)
    sent: list[str] = []

    def send(name: int, enough: threading.Event) -> None:
        number = 0
        while not enough.is_set():
            with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
                for _ in range(3):
                    number += 1
                    mail = f"Subject: {name}-{number}\r\n\r\n" + "a line of it\r\n" * 500
                    assert client.sendmail("a@example.org", ["b@example.org"], mail) == {}
                    sent.append(f"{name}-{number}")

    with Server(tmp_path, "app:factory", "--protocol") as server, reloading(server) as enough:
        clients = [threading.Thread(target=send, args=(i, enough)) for i in range(_CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(50)
    subjects = [
        line.partition(": ")[2].strip()
        for path in (tmp_path / "mail/new").iterdir()
        for line in path.read_text().splitlines()
        if line.startswith("Subject: ")
    ]
    assert len(sent) >= _CLIENTS * 3
    assert sorted(subjects) == sorted(sent)


def test_telnetlib3(tmp_path: Path) -> None:
    """A session that spans the reloads goes on in the code that it began in, and others begin."""
    (tmp_path / "app.py").write_text(_TELNET)

    async def talk(enough: threading.Event) -> None:
        reader, writer = await telnetlib3.open_connection("127.0.0.1", server.port)
        number = 0
        while not enough.is_set():
            number += 1
            writer.write(f"line {number}\r\n")
            assert f"heard line {number}" in await asyncio.wait_for(reader.readline(), 20)
        writer.close()

    async def talk_all(enough: threading.Event) -> None:
        await asyncio.gather(*(talk(enough) for _ in range(_CLIENTS)))

    with Server(tmp_path, "app:factory", "--protocol") as server, reloading(server) as enough:
        asyncio.run(talk_all(enough))
        asyncio.run(talk_all(enough))  # no time is left: one line each


def test_pymodbus(tmp_path: Path) -> None:
    """As it is a client's connection stays with the old worker; with a few lines more it moves."""
    (tmp_path / "app.py").write_text(_MODBUS)
    seen: dict[str, set[int]] = {}
    for name in ("unmodified", "kept"):
        seen[name] = set()
        with Server(tmp_path, f"app:{name}", "--protocol") as server:
            client = ModbusTcpClient("127.0.0.1", port=server.port, timeout=20, retries=0)
            assert client.connect()
            sock = client.socket
            with reloading(server) as enough:
                while not enough.is_set():
                    answer = client.read_holding_registers(0, count=3, device_id=1)
                    assert not answer.isError()
                    assert answer.registers[::2] == [7, 9]
                    seen[name].add(answer.registers[1])
            assert client.socket is sock
            client.close()
    assert len(seen["unmodified"]) == 1
    assert len(seen["kept"]) > _RELOADS - 1


def test_http_server_and_curl(tmp_path: Path) -> None:
    """The standard library's own class, with no line of code; nothing is refused or cut."""
    (tmp_path / "page").write_bytes(page := bytes(range(256)) * 4000)
    target = "http.server:SimpleHTTPRequestHandler"
    with (
        Server(tmp_path, target, "--socketserver", "-k", "thread") as server,
        reloading(server) as enough,
    ):
        rounds = 0
        while not enough.is_set() or not rounds:
            rounds += 1
            url = f"http://{server.address}/page"
            got = [tmp_path / f"got{number}" for number in range(_CLIENTS)]
            outputs = [part for path in got for part in ("-o", str(path), url)]
            command = ["curl", "-sSf", "--parallel", "--max-time", "20", *outputs]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert all(path.read_bytes() == page for path in got)
