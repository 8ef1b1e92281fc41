"""The edge's own life: new certificates, its death, the server's end, and bad beginnings."""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.edge.support import (
    AUTHORITY,
    HOST,
    TELLS,
    Files,
    ask,
    begin,
    crowd,
    edges,
    issue,
    serving,
)
from tests.harness import FIRST_WHEEL, Server, Versions
from tests.harness.processes import wait_exit
from tests.harness.tellers import write_teller
from tests.server.support import run


def serial(address: str) -> Any:
    """Return the serial number of the certificate that the server shows now."""
    with begin(address) as sock:
        told: Any = sock.getpeercert()
        return told["serialNumber"]


def queued(server: Server) -> int:
    """Return how many wait in the queue of the first listener."""
    count: int = server.ask("listeners")[0]["queued"]
    return count


def test_new_certificates(tmp_path: Path) -> None:
    """At HUP and when the files change; a bad one is refused in a line, and the old one stays."""
    files = issue(tmp_path)
    with serving(tmp_path, "async") as server, begin(server.address) as before:
        first = serial(server.address)
        files.put(AUTHORITY.issue_cert(HOST))
        server.signal(signal.SIGHUP)
        server.wait_event("certificates renewed")
        second = serial(server.address)
        assert second != first

        good = files.certificate.read_bytes()
        files.certificate.write_text("no certificate")
        mark = server.mark()
        server.signal(signal.SIGHUP)
        line = server.wait_event("certificates not renewed: those before stay", since=mark)
        assert str(files.certificate) in line["error"]
        assert serial(server.address) == second
        files.certificate.write_bytes(good)

        mark = server.mark()
        files.put(AUTHORITY.issue_cert(HOST))
        server.wait_event("certificates renewed", since=mark)
        assert serial(server.address) not in (first, second)
        assert ask(before)["tls"]["version"] == "TLSv1.3"


def test_a_certificate_that_expires_soon_is_told(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    issue(tmp_path, not_before=now, not_after=now + dt.timedelta(days=13, hours=12))
    tls = Files(tmp_path / "server.pem", tmp_path / "server.key").text
    with serving(tmp_path, "async", tls=tls) as server:
        line = server.wait_event("certificate expires soon")
        assert (line["path"], line["days"]) == (str(tmp_path / "server.pem"), 13)


def test_the_death_of_an_edge(tmp_path: Path) -> None:
    """It ends its connections, which is told, and no others; another one takes its place."""
    with serving(tmp_path, "async", more=["localhost:0"]) as server:
        plain = socket.create_connection(
            ("localhost", int(server.addresses[1].rpartition(":")[2])), timeout=20
        )
        with plain, begin(server.address) as sock:
            ask(sock)
            ask(plain)
            server.wait_until(lambda: server.status()["edges"]["connections"] == 1, "told")
            (pid,) = edges(server)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                sock.recv(1)
            line = server.wait_event("edge ended, and its connections with it")
            assert (line["pid"], line["connections"]) == (pid, 1)
            server.wait_event("edge ready", count=2)
            with begin(server.address) as again:
                assert ask(again)["count"] == 1
            assert ask(plain)["count"] == 2
            server.wait_until(lambda: server.status()["connections"]["open"] == 1, "ended")
            done = {"TLSv1.3": 2}  # with that of the one that died
            server.wait_until(lambda: server.status()["edges"]["handshakes"] == done, "told")


def test_a_stop_lets_replies_out(tmp_path: Path) -> None:
    """A client that reads late has all of the reply, and the end of TLS behind it."""
    source = """
from socketkeep import AsyncConnection


async def handle(conn: AsyncConnection) -> None:
    await conn.recv(10)
    await conn.send(b"x" * 150_000)
"""
    (tmp_path / "app.py").write_text(source)
    with serving(tmp_path, "async", target="app:handle") as server, begin(server.address) as sock:
        sock.sendall(b"go")
        server.wait_until(lambda: server.status()["totals"]["closed"] == 1, "closed")
        server.signal(signal.SIGTERM)
        server.wait_event("stopping")
        received = b""
        while data := sock.recv(65536):
            received += data
        assert len(received) == 150_000
        assert server.wait_exit() == 0


def test_the_keepers_death(tmp_path: Path) -> None:
    """What was there goes on between edge and worker, and the next keeper takes it over.

    The edge ends when its connections have.
    """
    first = serving(tmp_path, "async", "--park-after", "off")
    with first, begin(first.address) as sock:
        ask(sock)
        (pid,) = edges(first)
        first.signal(signal.SIGKILL)
        first.process.wait(20)
        assert ask(sock)["count"] == 2
        place = first.control.with_suffix(".d")
        first.wait_until(lambda: any(place.glob("[0-9]*.sock")), "a worker waits for a keeper")
        with serving(tmp_path, "async") as second:
            assert second.address == first.address
            facts = ask(sock)
            second.wait_until(lambda: ask(sock)["attached"] == "reload", "it has moved")
            assert facts["tls"]["sni"] == HOST
            with begin(second.address) as late:
                assert ask(late)["count"] == 1
            sock.close()
            assert wait_exit(pid, 20)
            assert not first.processes(timeout=5.0)


def test_accepting_is_paused_and_goes_on(tmp_path: Path) -> None:
    """WINCH leaves TLS connections in the queue, as it does plain ones."""
    with (
        serving(tmp_path, "async") as server,
        begin(server.address) as sock,
        ExitStack() as waiting,
    ):
        ask(sock)
        server.signal(signal.SIGWINCH)
        server.wait_event("accepting paused until the next reload")

        def waits() -> bool:
            """Whether one more is left in the queue; the edge learns of it a moment later."""
            waiting.enter_context(socket.create_connection(sock.getpeername(), timeout=20))
            return queued(server) > 0

        server.wait_until(waits, "queued")
        server.reload()
        server.wait_until(lambda: queued(server) == 0, "accepted")
        assert ask(sock)["count"] == 2


def test_more_connections_than_seats(tmp_path: Path) -> None:
    """They wait for one as plain connections do."""
    options = ("-w", "2", "--park-after", "0.05", "--keep", "crash", "--keep-after", "0.01")
    with (
        serving(tmp_path, "prefork", *options) as server,
        crowd(server.address, 12) as asking,
    ):
        asking.wait_answers(60)


def test_no_way_back_to_a_version_without_edges(tmp_path: Path) -> None:
    """It could not read the listener's options: refused, and all goes on."""
    versions = Versions(tmp_path / "versions")
    versions.directory.mkdir()
    versions.unpack(FIRST_WHEEL, "first")
    versions.add("present")
    versions.install("present")
    server = serving(tmp_path, "thread")
    server._environment["PYTHONPATH"] = str(versions.path)
    with server, begin(server.address) as sock:
        ask(sock)
        versions.install("first")
        done = server.cli("upgrade")
        assert done.exit_code == 1
        assert "format 3 or newer is needed to read it" in done.stderr
        assert ask(sock)["count"] == 2


def test_bad_beginnings(tmp_path: Path) -> None:
    """Each is one line that names the listener and the file, and exit code 2."""
    write_teller(tmp_path, TELLS, "thread")
    good, other = issue(tmp_path, stem="good"), issue(tmp_path, stem="other")
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    old = issue(tmp_path, stem="old", not_before=past, not_after=past + dt.timedelta(days=1))
    mixed = f"tls={good.certificate},key={other.key}"
    for given, line in (
        (mixed, "the key does not fit the certificate"),
        ("tls=none.pem", "cannot read none.pem: No such file or directory"),
        (old.text, "it has expired"),
        (f"{good.text},{other.text}", f"{good.certificate} is for {HOST}, too"),
        (f"{good.text},proxy=on", "a PROXY header before TLS is not read"),
        (f"{good.text},client-ca=none", "client-ca: cannot read none"),
        (f"{good.text},ciphers=none", "ciphers: 'none': there is no such cipher"),
        (f"key={good.key}", "key means nothing without tls=CERTIFICATE"),
    ):
        text = f"127.0.0.1:0,{given}"
        done = run(tmp_path, "serve", "app:handle", "-b", text)
        assert done.exit_code == 2, (text, done)
        assert done.stderr.startswith(f"socketkeep: error: --bind: {text}: ")
        assert line in done.stderr
        assert done.stderr.count("\n") == 1
    done = run(tmp_path, "serve", "app:handle", "--edges", "0")
    assert (done.exit_code, done.stderr) == (
        2,
        "socketkeep: error: --edges: must be at least 1, got '0'\n",
    )
