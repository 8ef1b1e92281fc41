"""Handler classes of socketserver and http.server, as their clients see them."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.edge.support import begin, issue
from tests.harness import Server, connect, read_reply, read_to_end
from tests.serve.moved import reload_whole

MODELS: Final = ("fork", "prefork", "thread")

_COUNTER: Final = """
import os
import socketserver

from socketkeep import resumable

VERSION = b"{version}"


class Plain(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%s %d %s" % (VERSION, os.getpid(), line))


@resumable
class Kept(socketserver.StreamRequestHandler):
    wbufsize = -1

    def handle(self):
        count = self.connection.state or 0
        while line := self.rfile.readline():
            count += 1
            attached = self.connection.attached.encode()
            said = (VERSION, attached, os.getpid(), count, line)
            self.wfile.write(b"%s %s %d %d %s" % said)
            self.connection.commit(count)


class Names(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(100)
        names = (self.client_address, self.server.server_address, self.request.getsockname())
        self.request.sendall(repr(names).encode())
"""

_HTTP: Final = """
import http.server
from functools import partial

from socketkeep import resumable

VERSION = "{version}"


@resumable
class Pages(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = VERSION

    def do_GET(self):
        super().do_GET()
        self.connection.commit()


files = partial(Pages, directory="files")
"""


def write(directory: Path, version: str, source: str = _COUNTER) -> None:
    new = directory / "code.new"
    new.write_text(source.format(version=version))
    new.replace(directory / "code.py")


def serving(directory: Path, name: str, model: str, *options: str, tls: str = "") -> Server:
    write(directory, "v1")
    flags = ("--socketserver", "-k", model, *options)
    return Server(directory, f"code.py:{name}", *flags, bind=[f"127.0.0.1:0{tls}"])


@pytest.mark.parametrize("model", MODELS)
def test_a_kept_handler_goes_through_reload_and_crash(model: str, tmp_path: Path) -> None:
    """Bytes that were read ahead, too: a whole line, and the beginning of one."""
    with (
        serving(tmp_path, "Kept", model, "--keep", "crash", "--keep-after", "0") as server,
        connect(server.address) as peer,
    ):
        peer.sendall(b"one\ntwo\nthr")
        assert read_reply(peer).startswith(b"v1 accepted")
        assert read_reply(peer).endswith(b" 2 two")
        write(tmp_path, "v2")
        reload_whole(server, 2)
        peer.sendall(b"ee\n")
        version, attached, pid, count, line = read_reply(peer).split()
        assert (version, count, line) == (b"v2", b"3", b"three")
        assert attached in (b"reload", b"parked")
        server.wait_clean()
        if model == "fork":
            server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "kept")
        with contextlib.suppress(ProcessLookupError):  # it may have parked
            os.kill(int(pid), signal.SIGKILL)
        peer.sendall(b"four\n")
        _, attached, after, count, line = read_reply(peer).split()
        assert (count, line) == (b"4", b"four")
        assert after != pid
        assert attached in (b"crash", b"parked")


def test_an_unmarked_handler_is_drained(tmp_path: Path) -> None:
    with serving(tmp_path, "Plain", "thread") as server, connect(server.address) as peer:
        peer.sendall(b"one\n")
        assert read_reply(peer).startswith(b"v1 ")
        write(tmp_path, "v2")
        server.signal(signal.SIGHUP)
        server.wait_event("reload done", generation=2)
        peer.sendall(b"two\n")
        assert read_reply(peer).startswith(b"v1 ")
        peer.shutdown(1)
        assert read_to_end(peer) == b""


def test_names_behind_tls_are_the_clients(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "Names", "prefork", tls=f",{issue(tmp_path).text}") as server,
        begin(server.address) as peer,
    ):
        peer.sendall(b"who\n")
        client, port = peer.getsockname(), server.port
        local = ("127.0.0.1", port)
        assert peer.recv(1000) == repr((client, local, local)).encode()


def test_http_server_keeps_its_connections(tmp_path: Path) -> None:
    """One keep-alive connection is served by the old code and then by the new."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/page.txt").write_text("a page")
    write(tmp_path, "v1", _HTTP)
    with Server(tmp_path, "code.py:files", "--socketserver", "-k", "thread") as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        client.connect()
        sock = client.sock
        for generation, version in enumerate(("v1", "v2"), 2):
            client.request("GET", "/page.txt")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"a page")
            assert (answer.getheader("Server") or "").startswith(version)
            assert client.sock is sock
            write(tmp_path, "v2", _HTTP)
            reload_whole(server, generation)
        client.close()
