"""The tutorial, step by step: its programs are deployed, and its commands run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.documentation.pages import Shown, blocks, commands
from tests.harness import Server, connect, read_reply
from tests.harness.command import main


def shape(text: str) -> str:
    """Return an output without what differs from run to run."""
    return re.sub(r"\d+", "N", re.sub(r'File "[^"]*"', "File", text))


class Reader:
    """Somebody who does what the pages say: in a directory, and to a server."""

    def __init__(self, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.code = server.directory / "counter.py"
        self._capsys = capsys

    def edit(self, before: str, after: str) -> None:
        source = self.code.read_text()
        assert source.count(before) == 1, before
        self.code.write_text(source.replace(before, after))

    def run(self, shown: Shown, exit_code: int = 0) -> None:
        """Run a command of a page, and require the output that the page shows, where it does."""
        self._capsys.readouterr()
        words = shown.words
        if words[0] == "kill":
            os.kill(self.serving(), signal.SIGKILL)
            return
        assert words[0] == "socketkeep", shown
        done = main([*words[1:], "--control", str(self.server.control)])
        told = self._capsys.readouterr()
        assert done == exit_code, f"{shown}: {told}"
        if shown.output:
            assert shape(told.out + told.err) == shape(shown.output), shown

    def serving(self) -> int:
        """Return the process that serves a connection, or else that is to serve the next one."""
        self.server.wait_clean()
        owners = [each["owner"] for each in self.server.connections()]
        return int((owners or [worker["pid"] for worker in self.server.workers()])[0])


def following(page: str, programs: Sequence[str] = ("socketkeep", "kill")) -> Iterator[Shown]:
    """Yield the commands of a page that are for a running server, in their order."""
    for shown in commands(page):
        if shown.words[0] in programs and shown.words[1] != "serve":
            yield shown


def served(page: str) -> list[str]:
    """Return the arguments of `serve` on a page."""
    (serve,) = (each.words[2:] for each in commands(page) if each.words[1:2] == ["serve"])
    return serve


def test_a_handler_is_served_and_then_deployed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 1 and 2."""
    (tmp_path / "counter.py").write_text(blocks("tutorial/first-server", "python")[0])
    with Server(tmp_path, *served("tutorial/first-server")) as server:
        reader = Reader(server, capsys)
        with connect(server.address) as peer:
            peer.sendall(b"hello\nagain\n")
            assert (read_reply(peer), read_reply(peer)) == (b"1 hello", b"2 again")
            for shown in following("tutorial/first-server"):
                reader.run(shown)
            ask, deploy, ask_again, redeploy, break_it = following("tutorial/deploy-new-code")
            reader.run(ask, 1)
            reader.code.write_text(blocks("tutorial/deploy-new-code", "python")[0])
            reader.run(deploy)
        with connect(server.address) as peer:
            peer.sendall(b"hello\n")
            assert read_reply(peer) == b"1 hello"
            server.wait_until(lambda: len(server.connections()) == 1, "the first client has gone")
            reader.edit('b"%d %s\\n"', 'b"line %d: %s\\n"')
            reader.run(ask_again)
            reader.run(redeploy)
            server.wait_event("earlier code gone", generation=3)
            peer.sendall(b"world\n")
            assert read_reply(peer) == b"line 2: world"
            reader.edit("conn.commit(count)", "conn.commit(cuont)")
            reader.edit("-> None:", "-> None")
            reader.run(break_it, 4)
            peer.sendall(b"on\n")
            assert read_reply(peer) == b"line 3: on"
            reader.edit("-> None\n", "-> None:\n")
            reader.run(redeploy)
            server.wait_event("earlier code gone", generation=5)
            peer.sendall(b"on\n")
            assert read_reply(peer) == b"line 4: on"
            assert peer.recv(1) == b""
        assert "NameError" in server.wait_event("handler failed")["traceback"]


def test_a_connection_survives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Step 3: the death of the process that serves it, before and after it has `reply`."""
    page = "tutorial/survive-a-crash"
    source = blocks("tutorial/deploy-new-code", "python")[0]
    (tmp_path / "counter.py").write_text(source.replace('b"%d %s\\n"', 'b"line %d: %s\\n"'))
    with Server(tmp_path, *served(page)) as server, connect(server.address) as peer:
        reader = Reader(server, capsys)
        peer.sendall(b"hello\n")
        assert read_reply(peer) == b"line 1: hello"
        server.wait_until(lambda: bool(server.status()["connections"]["kept"]), "it is kept")
        for shown in following(page):
            reader.run(shown)
        peer.sendall(b"world\n")
        assert read_reply(peer) == b"line 2: world"
        reader.code.write_text(blocks(page, "python")[0])
        server.reload()
        server.wait_event("earlier code gone", generation=2)
        os.kill(reader.serving(), signal.SIGKILL)
        peer.sendall(b"on\n")
        assert read_reply(peer) == b"line 3: on"


def test_a_deploy_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Step 4, with fewer clients."""
    page = "tutorial/deploy-under-load"
    counter, load = blocks(page, "python")
    (tmp_path / "counter.py").write_text(counter)
    (tmp_path / "load.py").write_text(load)
    (options,) = blocks(page, "toml")
    target, _, options = options.partition("\n")
    (tmp_path / "server.toml").write_text(options)
    name = target.partition(" = ")[2].strip('"')
    with Server(tmp_path, name, *served(page)) as server:
        reader = Reader(server, capsys)
        command = [sys.executable, "load.py", "20", str(server.port)]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as client:
            server.wait_until(lambda: len(server.connections()) == 20, "all are connected")
            reader.edit('b"%d %s\\n"', 'b"line %d: %s\\n"')
            *shown, stop = following(page)
            for each in shown:
                reader.run(each)
            client.send_signal(signal.SIGINT)
            told, _ = client.communicate()
        assert "20 connections" in told
        assert " 0 ended badly" in told, told
        assert client.returncode == 0
        reader.run(stop)
