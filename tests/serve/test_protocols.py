"""Factories of asyncio.Protocol as their clients see them, with `--protocol`."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Final

from tests.edge.support import begin, issue
from tests.harness import Server, connect, read_reply, read_to_end, write_source
from tests.serve.moved import reload_whole

LARGE: Final = 16 << 20

_SOURCE: Final = """
import asyncio
import os

from socketkeep import NotCommitted, resumable

VERSION = b"{version}"


class Lines(asyncio.Protocol):
    count = 0

    def connection_made(self, transport):
        self.transport = transport
        self.part = b""

    def data_received(self, data):
        *lines, self.part = (self.part + data).split(b"\\n")
        for line in lines:
            self.line(line)

    def line(self, line):
        self.count += 1
        said = (VERSION, os.getpid(), self.count, line)
        self.transport.write(b"%s %d %d %s\\n" % said)


class Plain(Lines):
    def line(self, line):
        self.transport.write(b"x" * int(line) + b" " + VERSION + b"\\n")


class Detaching(Lines):
    given = None
    busy = None

    def attach(self, state):
        self.given = state

    def connection_made(self, transport):
        super().connection_made(transport)
        if self.given is None:
            transport.write(b"hello\\n")
        else:
            self.count, self.part = self.given

    def line(self, line):
        if line == b"work":
            self.busy = asyncio.get_running_loop().call_later(0.5, self.worked)
        else:
            super().line(line)

    def worked(self):
        self.busy = None
        super().line(b"worked")

    def detach(self):
        if self.busy:
            raise NotCommitted("a line is being worked on")
        return self.count, self.part


@resumable
class Committing(Lines):
    def connection_made(self, transport):
        super().connection_made(transport)
        self.count = transport.get_extra_info("socketkeep").state or 0

    def line(self, line):
        super().line(line)
        if not self.part:
            self.transport.commit(self.count)


class Buffered(asyncio.BufferedProtocol):
    def __init__(self):
        self.buffer = bytearray(3)

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(b"%d " % count + self.buffer[:count] + b"\\n")

    def eof_received(self):
        self.transport.write(b"the end\\n")


class Fails(asyncio.Protocol):
    def data_received(self, data):
        raise RuntimeError("told to fail")


def names():
    class Names(asyncio.Protocol):
        def connection_made(self, transport):
            facts = [transport.get_extra_info(name) for name in ("peername", "cipher")]
            transport.write(repr(facts).encode() + b"\\n")
            transport.close()

    return Names()
"""


def write(directory: Path, version: str) -> None:
    write_source(directory, _SOURCE.format(version=version))


def serving(directory: Path, name: str, *options: str, listener: str = "") -> Server:
    write(directory, "v1")
    bind = [f"127.0.0.1:0{listener}"]
    return Server(directory, f"handlers.py:{name}", "--protocol", *options, bind=bind)


def test_a_protocol_that_detaches_goes_through_reloads(tmp_path: Path) -> None:
    """With what it has of a message; and what it was busy with is finished first."""
    with serving(tmp_path, "Detaching") as server, connect(server.address) as peer:
        assert read_reply(peer) == b"hello"
        peer.sendall(b"one\ntw")
        assert read_reply(peer).endswith(b" 1 one")
        write(tmp_path, "v2")
        reload_whole(server, 2)
        peer.sendall(b"o\nwork\n")
        assert read_reply(peer).split()[::2] == [b"v2", b"2"]
        write(tmp_path, "v3")
        server.signal(signal.SIGHUP)
        assert read_reply(peer).split()[::3] == [b"v2", b"worked"]
        server.wait_event("reload done", generation=3)
        server.wait_until(lambda: len(server.workers()) == 1, "the old worker has gone")
        peer.sendall(b"four\n")
        assert read_reply(peer).split()[::2] == [b"v3", b"4"]
        peer.shutdown(socket.SHUT_WR)
        assert read_to_end(peer) == b""


def test_a_protocol_that_commits_goes_through_a_crash(tmp_path: Path) -> None:
    options = ("--keep", "crash", "--keep-after", "0")
    with serving(tmp_path, "Committing", *options) as server, connect(server.address) as peer:
        peer.sendall(b"one\n")
        pid = int(read_reply(peer).split()[1])
        server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "kept")
        server.wait_clean()
        os.kill(pid, signal.SIGKILL)
        peer.sendall(b"two\n")
        version, other, count, line = read_reply(peer).split()
        assert (version, count, line) == (b"v1", b"2", b"two")
        assert int(other) != pid
        write(tmp_path, "v2")
        reload_whole(server, 2)
        peer.sendall(b"three\n")
        assert read_reply(peer).split()[::2] == [b"v2", b"3"]


def test_a_plain_protocol_is_drained(tmp_path: Path) -> None:
    """A reply that its peer takes in slowly is whole, and requests are served by the old code."""
    with serving(tmp_path, "Plain") as server, connect(server.address) as peer:
        peer.sendall(b"%d\n" % LARGE)
        received = bytearray(peer.recv(1))
        write(tmp_path, "v2")
        server.signal(signal.SIGHUP)
        server.wait_event("reload done", generation=2)
        peer.sendall(b"1\n")
        while not received.endswith(b"x v1\n"):
            received += peer.recv(1 << 20)
        assert received == b"x" * LARGE + b" v1\nx v1\n"
        peer.shutdown(socket.SHUT_WR)
        assert read_to_end(peer) == b""


def test_a_buffered_protocol(tmp_path: Path) -> None:
    with serving(tmp_path, "Buffered") as server, connect(server.address) as peer:
        peer.sendall(b"abcdefgh")
        peer.shutdown(socket.SHUT_WR)
        assert read_to_end(peer) == b"3 abc\n3 def\n2 gh\nthe end\n"


def test_a_protocol_that_fails(tmp_path: Path) -> None:
    with serving(tmp_path, "Fails") as server, connect(server.address) as peer:
        peer.sendall(b"x")
        assert read_to_end(peer) == b""
        assert "told to fail" in server.wait_event("handler failed")["traceback"]


def test_names_behind_tls_are_the_clients(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "names", listener=f",{issue(tmp_path).text}") as server,
        begin(server.address) as peer,
    ):
        assert peer.recv(1000) == repr([peer.getsockname(), peer.cipher()]).encode() + b"\n"
        assert peer.recv(1000) == b""
