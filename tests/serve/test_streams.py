"""Callbacks of asyncio.start_server as their clients see them."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Final

import pytest

from tests.edge.support import begin, client_context, issue
from tests.harness import Server, connect, read_reply, read_to_end, write_source
from tests.serve.moved import reload_whole

LARGE: Final = 16 << 20

_SOURCE: Final = """
import asyncio
import os
import ssl

from socketkeep import resumable

VERSION = b"{version}"


@resumable
async def kept(reader, writer):
    count = writer.state or 0
    async for line in reader:
        count += 1
        said = (VERSION, writer.attached.encode(), os.getpid(), count, line)
        writer.write(b"%s %s %d %d %s" % said)
        writer.commit(count)
        await writer.drain()


async def plain(reader, writer):
    while line := await reader.readline():
        if line == b"fail\\n":
            raise RuntimeError("told to fail")
        writer.write(b"x" * int(line) + b" " + VERSION + b"\\n")
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def function(reader, writer):
    asyncio.create_task(plain(reader, writer))


async def names(reader, writer):
    facts = [writer.get_extra_info(name) for name in ("peername", "sockname", "sslcontext")]
    tls = writer.get_extra_info("ssl_object")
    facts += [tls and tls.version(), writer.get_extra_info("cipher")]
    writer.write(repr(facts).encode() + b"\\n")
    await writer.drain()


async def upgrades(reader, writer):
    context = None
    if (await reader.readline()) == b"own\\n":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain("server.pem", "server.key")
    writer.write(b"go\\n")
    await writer.start_tls(context)
    writer.write(b"over TLS: " + await reader.readline())
    await writer.drain()
    writer.close()
"""


def write(directory: Path, version: str) -> None:
    write_source(directory, _SOURCE.format(version=version))


def serving(directory: Path, name: str, *options: str, listener: str = "") -> Server:
    write(directory, "v1")
    bind = [f"127.0.0.1:0{listener}"]
    return Server(directory, f"handlers.py:{name}", "--asyncio", *options, bind=bind)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_kept_callback_goes_through_reload_and_crash(loop: str, tmp_path: Path) -> None:
    """Bytes that the reader has and has not given out, too."""
    options = ("--keep", "crash", "--keep-after", "0", "--loop", loop)
    with serving(tmp_path, "kept", *options) as server, connect(server.address) as peer:
        peer.sendall(b"one\ntwo\nthr")
        assert read_reply(peer).startswith(b"v1 accepted")
        assert read_reply(peer).endswith(b" 2 two")
        write(tmp_path, "v2")
        reload_whole(server, 2)
        peer.sendall(b"ee\n")
        version, attached, pid, count, line = read_reply(peer).split()
        assert (version, attached, count, line) == (b"v2", b"reload", b"3", b"three")
        server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "kept")
        server.wait_clean()
        os.kill(int(pid), signal.SIGKILL)
        peer.sendall(b"four\n")
        _, attached, _, count, line = read_reply(peer).split()
        assert (attached, count, line) == (b"crash", b"4", b"four")
        peer.shutdown(socket.SHUT_WR)
        assert read_to_end(peer) == b""


def test_a_death_with_bytes_in_the_reader_is_no_clean_one(tmp_path: Path) -> None:
    """They are gone with the worker, so the connection is closed, as `on_crash` says."""
    options = ("--keep", "crash", "--keep-after", "0")
    with serving(tmp_path, "kept", *options) as server, connect(server.address) as peer:
        peer.sendall(b"one\nhal")
        pid = int(read_reply(peer).split()[2])
        server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "kept")
        os.kill(pid, signal.SIGKILL)
        assert read_to_end(peer) == b""


@pytest.mark.parametrize("name", ["plain", "function"])
def test_an_unmarked_callback_is_drained(name: str, tmp_path: Path) -> None:
    """A reply that its peer takes in slowly is whole, and requests are served by the old code."""
    with serving(tmp_path, name) as server, connect(server.address) as peer:
        peer.sendall(b"%d\n" % LARGE)
        received = bytearray(peer.recv(1))
        write(tmp_path, "v2")
        server.signal(signal.SIGHUP)
        server.wait_event("reload done", generation=2)
        while not received.endswith(b"\n"):
            received += peer.recv(1 << 20)
        assert received == b"x" * LARGE + b" v1\n"
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"x v1"
        peer.shutdown(socket.SHUT_WR)
        assert read_to_end(peer) == b""
        with connect(server.address) as newcomer:
            newcomer.sendall(b"1\n")
            assert read_reply(newcomer) == b"x v2"


def test_a_callback_that_fails_ends_its_connection_alone(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "plain") as server,
        connect(server.address) as failing,
        connect(server.address) as other,
    ):
        failing.sendall(b"fail\n")
        assert read_to_end(failing) == b""
        event = server.wait_event("handler failed")
        assert "RuntimeError: told to fail" in event["traceback"]
        other.sendall(b"1\n")
        assert read_reply(other) == b"x v1"


def test_names_and_tls_of_the_edge(tmp_path: Path) -> None:
    listener = f",{issue(tmp_path).text}"
    with serving(tmp_path, "names", listener=listener) as server, begin(server.address) as peer:
        facts = [peer.getsockname(), ("127.0.0.1", server.port), None, "TLSv1.3", peer.cipher()]
        assert peer.recv(1000) == repr(facts).encode() + b"\n"
        assert peer.recv(1000) == b""


@pytest.mark.parametrize("whose", [b"own\n", b"the listener's\n"])
def test_tls_that_the_callback_begins(whose: bytes, tmp_path: Path) -> None:
    listener = f",{issue(tmp_path).text},start-tls=on"
    with serving(tmp_path, "upgrades", listener=listener) as server:
        sock = connect(server.address)
        sock.sendall(whose)
        assert read_reply(sock) == b"go"
        context = client_context(check_hostname=False, minimum_version=ssl.TLSVersion.TLSv1_3)
        with context.wrap_socket(sock) as peer:
            peer.sendall(b"a line\n")
            assert peer.recv(100) == b"over TLS: a line\n"
            assert peer.recv(100) == b""
