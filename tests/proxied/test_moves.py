"""A client behind a proxy stays the client, whatever becomes of the worker that serves it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import FIRST_WHEEL, Server, Versions, connect
from tests.proxied.support import CLIENT, FRONT, RICH, ask, begin, refusals, serving


@contextmanager
def clients(server: Server, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(begin(server.address, RICH)) for _ in range(number)]


def is_the_client(facts: Any, attached: str) -> None:
    assert (facts["peer"], facts["local"]) == (str(CLIENT), str(FRONT))
    assert facts["proxy"]["tls"][0] == "TLSv1.3"
    assert facts["attached"] == attached


@pytest.mark.parametrize(
    ("model", "decorated"),
    [("fork", "@resumable"), ("thread", "@resumable(redeliver=True)"), ("async", "@resumable")],
)
def test_reload_crash_and_upgrade(model: str, decorated: str, tmp_path: Path) -> None:
    """The header goes along from worker to worker, also from one that was killed."""
    options = ("--keep", "crash", "--keep-after", "0.01", "--park-after", "off", "-w", "3")
    with (
        serving(tmp_path, model, *options, decorated=decorated) as server,
        clients(server, 3) as socks,
    ):
        for sock in socks:
            is_the_client(ask(sock), "accepted")
        server.reload()
        for sock in socks:
            is_the_client(ask(sock), "reload")
        server.wait_until(lambda: server.status()["connections"]["kept"] == 3, "kept")
        pids = {ask(sock)["pid"] for sock in socks}
        server.wait_clean()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for sock in socks:
            is_the_client(ask(sock), "crash")
        assert {each["peer"] for each in server.connections()} == {str(CLIENT)}
        assert server.cli("upgrade").exit_code == 0
        for sock in socks:
            is_the_client(ask(sock), "upgrade")
        assert server.status()["totals"]["lost"] == 0
        assert refusals(server) == {}


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_parked(model: str, tmp_path: Path) -> None:
    """Nor is it lost while the keeper has the connection alone, or becomes another version."""
    with (
        serving(tmp_path, model, "--park-after", "0.05") as server,
        clients(server, 3) as socks,
    ):
        for what in ("nothing", "upgrade", "reload"):
            for sock in socks:
                ask(sock)
            server.wait_until(lambda: server.status()["connections"]["parked"] == 3, "parked")
            if what != "nothing":
                assert server.cli(what).exit_code == 0
            assert {each["peer"] for each in server.connections()} == {str(CLIENT)}
            for sock in socks:
                is_the_client(ask(sock), "parked")


def test_no_way_back_to_a_version_that_reads_none(tmp_path: Path) -> None:
    """It would take headers for what clients say: the upgrade is refused, and all goes on."""
    versions = Versions(tmp_path / "versions")
    versions.directory.mkdir()
    versions.unpack(FIRST_WHEEL, "first")
    versions.add("present")
    versions.install("present")
    environment = {"PYTHONPATH": versions.path}
    with (
        serving(tmp_path, "thread", environment=environment) as server,
        begin(server.address, RICH) as sock,
    ):
        ask(sock)
        versions.install("first")
        done = server.cli("upgrade")
        assert done.exit_code == 1
        assert "format 2 or newer is needed to read it" in done.stderr
        assert ask(sock)["peer"] == str(CLIENT)


def test_more_than_seats(tmp_path: Path) -> None:
    """While connections wait for a seat the keeper accepts in the workers' place; so with headers.

    Beside one that is served and never ends there are those parked, and those that come.
    """
    options = ("-w", "1", "--park-after", "0.05", "--keep", "crash", "--keep-after", "0.01")
    with serving(tmp_path, "prefork", *options) as server, ExitStack() as stack:
        socks = []
        for number in range(12):
            sock = stack.enter_context(connect(server.address))
            raw = RICH.encode()
            if number % 2:
                sock.sendall(raw + b"first\n")
            else:
                sock.sendall(raw[:30])
                sock.sendall(raw[30:] + b"first\n")
            socks.append(sock)
        for _ in range(3):
            for sock in socks:
                sock.sendall(b"again\n")
        for sock in socks:
            told = b""
            while told.count(b"\n") < 4:
                told += sock.recv(65536)
            assert told.count(str(CLIENT).encode()) == 4
        assert refusals(server) == {}
