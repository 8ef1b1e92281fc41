"""The edge among very many clients: those that stay, and those that never finish to shake hands."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.edge.support import (
    HANDSHAKE_TIME,
    MOST_SHAKING,
    ask,
    begin,
    client_context,
    crowd,
    edges,
    host_and_port,
    serving,
)

_STAY: Final = 1000
_HALF_DONE: Final = 10_000
#: How testssl calls what it does not complain of; "LOW" are ciphers in CBC mode, for old clients.
_NOT_WEAK: Final = ("OK", "INFO", "LOW", "DEBUG")
_MOST_EACH: Final = 96 * 1024  # bytes of memory; OpenSSL takes some 70


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_clients(tmp_path: Path) -> None:
    """Through a reload, the death of all workers and an upgrade none is cut."""
    options = ("--keep", "crash", "--keep-after", "0.01", "-w", "2", "--park-after", "off")
    decorated = "@resumable(redeliver=True)"
    with serving(tmp_path, "async", *options, decorated=decorated) as server:
        with crowd(server.address, _STAY, again=True) as asking:
            server.reload()
            asking.wait_answers(_STAY)
            server.wait_until(lambda: server.status()["connections"]["kept"] == _STAY, "kept")
            for worker in server.workers():
                os.kill(worker["pid"], signal.SIGKILL)
            asking.wait_answers(2 * _STAY)
            assert server.cli("upgrade").exit_code == 0
            asking.wait_answers(2 * _STAY)
        assert {"reload", "crash", "upgrade"} <= asking.attached.keys()
        assert server.status()["totals"]["lost"] == 0
        assert server.status()["edges"]["handshakes"] == {"TLSv1.3": _STAY}


def first_words() -> bytes:
    """Return what a client begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, outgoing, server_hostname="keeper.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def rss(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


@pytest.mark.parametrize("how", ["said nothing", "said a part", "said hello"])
def test_half_done_handshakes(how: str, tmp_path: Path) -> None:
    """Ten thousand take a bounded room for a bounded time, and others shake hands meanwhile."""
    hello = first_words()
    said = {"said nothing": b"", "said a part": hello[:100], "said hello": hello}[how]
    with (
        serving(tmp_path, "async", "--backlog", "4096") as server,
        begin(server.address) as before,
        contextlib.ExitStack() as stack,
    ):
        ask(before)
        (edge,) = edges(server)
        began, longest = rss(edge), 0.0
        for number in range(_HALF_DONE):
            sock = socket.create_connection(host_and_port(server.address), timeout=20)
            stack.enter_context(sock)
            if said:
                with contextlib.suppress(ConnectionError):  # sent away by then
                    sock.send(said)
            if number % 1000 == 999:
                started = time.monotonic()
                with begin(server.address) as other:
                    assert ask(other)["count"] == 1
                longest = max(longest, time.monotonic() - started)
        server.wait_until(
            lambda: server.status()["edges"]["failed"].get("no_room", 0) > 0, "some are sent away"
        )
        assert server.status()["edges"]["shaking"] <= MOST_SHAKING
        assert rss(edge) - began < MOST_SHAKING * _MOST_EACH
        assert longest < 5
        assert ask(before)["count"] == 2
        server.wait_until(
            lambda: server.status()["edges"]["shaking"] == 0, "late", HANDSHAKE_TIME + 20
        )
        failed = server.status()["edges"]["failed"]
        assert sum(failed.values()) == _HALF_DONE
        assert failed["late"] > 0
        assert ask(before)["count"] == 3


@pytest.mark.timeout(120)
def test_nothing_that_testssl_calls_weak(tmp_path: Path) -> None:
    """Protocols, ciphers, forward secrecy, and the vulnerabilities that are known."""
    found = tmp_path / "found.json"
    with serving(tmp_path, "async") as server, begin(server.address) as before:
        _, port = host_and_port(server.address)
        command = ("testssl", "--warnings", "off", "--color", "0", "--nodns", "none")
        what = ("--protocols", "--std", "--fs", "--vulnerable", "--jsonfile", str(found))
        done = subprocess.run(  # its exit code is how many it found
            [*command, *what, f"127.0.0.1:{port}"],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
            timeout=100,
        )
        assert ask(before)["count"] == 1
    told = {
        each["id"]: (each["severity"], each["finding"]) for each in json.loads(found.read_text())
    }
    weak = {name: said for name, said in told.items() if said[0] not in _NOT_WEAK}
    assert not weak, done.stdout
    offered = {name for name in ("TLS1", "TLS1_1", "TLS1_2", "TLS1_3") if told[name][0] == "OK"}
    assert offered == {"TLS1_2", "TLS1_3"}
