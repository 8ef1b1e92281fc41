"""A connection that cannot be served ends, whatever it is that raises, and nothing else does."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_handler
from tests.peer.conftest import Site

#: Names that clients give their own sockets: none of them is text that may be shown as it is.
_NAMES = (b"\0\xff\xfe", b"\0\x1b[2Jname\n", b"\0a\0b", "\0\u202ename".encode())

#: In the worker: no connection object can be made for a client whose name begins with "bad".
_BREAK = """
import socketkeep._stream._aio, socketkeep._stream._connection

def _breaking(make):
    def begin(self, sock, **more):
        assigned = more.get("lease")
        if assigned is not None and "bad-" in assigned.peer:
            raise {error}
        make(self, sock, **more)
    return begin

for _class in (socketkeep._stream._aio.AsyncConnection, socketkeep._stream._connection.Connection):
    _class.__init__ = _breaking(_class.__init__)
"""


@pytest.fixture
def unix_site(model: str, tmp_path: Path) -> Site:
    """Each model, over a Unix socket."""
    return Site(model, "unix", tmp_path)


def _from(server: Server, name: bytes) -> socket.socket:
    """Return a connection from a socket that has a name of its own."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.bind(name)
    sock.connect(server.address.removeprefix("unix:"))
    return sock


def _asks(sock: socket.socket, word: bytes) -> bytes:
    sock.sendall(word + b"\n")
    return read_reply(sock)


def test_a_client_may_have_any_name(unix_site: Site) -> None:
    """It is served as others are, shown so that it can be printed, and leaves nothing behind."""
    target = unix_site.write("v1")
    with unix_site.serve(target, "--access-log", clients=2) as server:
        with connect(server.address) as bystander:
            assert _asks(bystander, b"one") == b"1 one v1"
            in_the_file_system = os.fsencode(unix_site.directory) + b"/\xff\n"
            for name in (*_NAMES, in_the_file_system):
                mark = os.urandom(4).hex().encode()
                with _from(server, name + mark if name[0] == 0 else name) as stranger:
                    assert _asks(stranger, b"one") == b"1 one v1"
                    peers = [each["peer"] for each in server.connections()]
                    assert all(text.isprintable() for text in peers), peers
            assert _asks(bystander, b"two") == b"2 two v1"
        server.wait_until(lambda: server.status()["connections"]["open"] == 0, "all ended")
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["closed"]) == (6, 6)
        assert (totals["worker_deaths"], totals["unserved"]) == (0, 0)
        server.wait_event("connection", count=6)
        ended = [event["peer"] for event in server.find("connection")]
        assert all(text.isprintable() for text in ended), ended
        assert sum("\\" in text for text in ended) == 5, ended


@pytest.mark.parametrize("error", ["OSError(107, 'not connected')", "LookupError('a bug')"])
def test_what_cannot_be_served_ends_alone(unix_site: Site, error: str) -> None:
    target = write_handler(
        unix_site.directory,
        "v1",
        is_async=unix_site.is_async,
        tail=_BREAK.replace("{error}", error),
    )
    with unix_site.serve(target, clients=2) as server, connect(server.address) as bystander:
        assert _asks(bystander, b"one") == b"1 one v1"
        for number in range(12):
            with _from(server, b"\0bad-%d-%s" % (number, os.urandom(4).hex().encode())) as bad:
                assert bad.recv(10) == b""
        assert _asks(bystander, b"two") == b"2 two v1"
        with connect(server.address) as another:
            assert _asks(another, b"one") == b"1 one v1"
        server.wait_until(lambda: server.status()["connections"]["open"] == 1, "the others ended")
        totals = server.status()["totals"]
        assert (totals["worker_deaths"], totals["lost"], totals["unserved"]) == (0, 0, 12)
        server.wait_event("connections that cannot be served are closed")
        said = server.find("connections that cannot be served are closed")
        assert 1 <= len(said) <= len(server.workers()), "at a bounded rate, each worker"
        assert said[0]["traceback"].splitlines()[-1].startswith(error.partition("(")[0])
