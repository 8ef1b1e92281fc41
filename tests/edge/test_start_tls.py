"""TLS that a handler begins by `start_tls()`: the edge has it, and the connection is kept."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path

import pytest

from tests.edge.support import AUTHORITY, HOST, TELLS, ask, client_context, edges, issue, serving
from tests.harness import Server, connect, read_reply
from tests.harness.tellers import teller
from tests.proxied.support import CLIENT, FRONT, RICH
from tests.server.support import MODELS

_SYNC = """
def begin(conn):
    for line in conn.lines():
        if line == b"early":
            conn.start_tls()
        conn.send(b"ready\\n")
        conn.commit("beginning")
        conn.start_tls()
        conn.commit(0)
        return


@DECORATED
def handle(conn: Connection) -> None:
    if conn.tls is None:
        begin(conn)
    serve(conn)
"""
_ASYNC = """
async def begin(conn):
    async for line in conn.lines():
        if line == b"early":
            await conn.start_tls()
        await conn.send(b"ready\\n")
        conn.commit("beginning")
        await conn.start_tls()
        conn.commit(0)
        return


@DECORATED
async def handle(conn: AsyncConnection) -> None:
    if conn.tls is None:
        await begin(conn)
    await serve(conn)
"""


def starting(
    directory: Path,
    model: str,
    *options: str,
    decorated: str = "@resumable",
    tls: str = "start-tls=on",
) -> Server:
    """Return a server whose handler begins TLS when it has received a line."""
    directory.mkdir(parents=True, exist_ok=True)
    code = (_ASYNC if model == "async" else _SYNC).replace("@DECORATED", decorated)
    (directory / "app.py").write_text(teller(TELLS, model, "", "serve") + code)
    text = f"{issue(directory).text},{tls}"
    return serving(directory, model, *options, tls=text, target="app:handle")


def shake(sock: socket.socket, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """Ask for TLS, and shake hands."""
    sock.sendall(b"begin\n")
    assert read_reply(sock) == b"ready"
    context = context or client_context()
    return context.wrap_socket(sock, server_hostname=HOST, suppress_ragged_eofs=False)


@pytest.mark.parametrize(
    ("model", "decorated"),
    [*((model, "@resumable") for model in MODELS), ("thread", "@resumable(redeliver=True)")],
)
def test_it_is_kept(model: str, decorated: str, tmp_path: Path) -> None:
    """Through a reload and the worker's death, with its addresses and the facts of its TLS."""
    options = ("--keep", "crash", "--keep-after", "0.01", "--park-after", "off", "-w", "2")
    with starting(tmp_path, model, *options, decorated=decorated) as server:
        plain = connect(server.address)
        name = f"127.0.0.1:{plain.getsockname()[1]}"
        with shake(plain) as sock:

            def told(attached: str, count: int) -> int:
                facts = ask(sock)
                assert (facts["peer"], facts["local"]) == (name, server.address)
                assert (facts["attached"], facts["count"]) == (attached, count)
                assert facts["tls"]["version"] == "TLSv1.3"
                assert facts["tls"]["sni"] == HOST
                assert not facts["proxy"]
                pid: int = facts["pid"]
                return pid

            told("accepted", 1)
            server.reload()
            pid = told("reload", 2)
            server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "kept")
            server.wait_until(lambda: not server.connections()[0]["busy"], "clean")
            os.kill(pid, signal.SIGKILL)
            told("crash", 3)
            sock.unwrap()
        server.wait_until(lambda: not server.connections(), "ended")
        assert server.status()["totals"]["lost"] == 0


def test_behind_a_proxy(tmp_path: Path) -> None:
    """The client's addresses, what the proxy said, and TLS: each is told, before a move and after.

    What came along with the line before belongs to the handshake.
    """
    with starting(tmp_path, "async", tls="start-tls=on,proxy=on") as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sock = connect(server.address)
        with sock:
            sock.sendall(RICH.encode() + b"begin\n" + outgoing.read())
            assert read_reply(sock) == b"ready"
            for _ in range(2):
                incoming.write(sock.recv(65536))
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                break
            sock.sendall(outgoing.read())
            for attached in ("accepted", "reload"):
                tls.write(b"who\n")
                sock.sendall(outgoing.read())
                line = b""
                while not line.endswith(b"\n"):
                    try:
                        line += tls.read(65536)
                    except ssl.SSLWantReadError:
                        incoming.write(sock.recv(65536))
                assert f'"peer": "{CLIENT}", "local": "{FRONT}"'.encode() in line
                assert b'"proxy": true' in line
                assert b'"version": "TLSv1.3"' in line
                assert f'"attached": "{attached}"'.encode() in line
                server.reload()


@pytest.mark.parametrize("model", ["thread", "async"])
def test_what_goes_wrong(model: str, tmp_path: Path) -> None:
    """Each is told to the handler, ends that connection, and no other."""
    authority = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    tls = f"start-tls=on,client-ca={authority}"
    context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    AUTHORITY.issue_cert("device-7").configure_cert(context)
    with (
        starting(tmp_path, model, tls=tls) as server,
        shake(connect(server.address), context) as before,
    ):
        assert ask(before)["tls"]["der"] > 0

        def failures() -> str:
            return str(server.find("handler ended") + server.find("handler failed"))

        with connect(server.address) as sock:
            sock.sendall(b"begin\nGET / HTTP/1.1\r\n\r\n")
            assert read_reply(sock) == b"ready"
            while sock.recv(100):
                pass
            server.wait_until(lambda: "it speaks no TLS" in failures(), "told")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            shake(connect(server.address), client_context(maximum_version=ssl.TLSVersion.TLSv1_2))
        server.wait_until(lambda: "certificate" in failures(), "told")
        with connect(server.address) as sock:
            sock.sendall(b"early\n")
            server.wait_until(lambda: "NotCommitted" in failures(), "told")
        with connect(server.address) as sock:
            sock.sendall(b"begin\n")
            assert read_reply(sock) == b"ready"
            server.wait_until(lambda: server.status()["edges"]["shaking"] == 1, "shaking")
            assert ask(before)["count"] == 2
            (pid,) = edges(server)
            os.kill(pid, signal.SIGKILL)
            server.wait_until(lambda: "edge could not shake hands" in failures(), "told")
            assert sock.recv(1) == b""
        server.wait_event("edge ready", count=2)
        with shake(connect(server.address), context) as after:
            assert ask(after)["count"] == 1


def test_without_tls_to_begin(tmp_path: Path) -> None:
    """The listener has none: the handler is told what to give."""
    (tmp_path / "app.py").write_text(
        teller(TELLS, "thread", "", "serve") + _SYNC.replace("@DECORATED", "")
    )
    with (
        Server(tmp_path, "app:handle", "-k", "thread") as server,
        connect(server.address) as sock,
    ):
        sock.sendall(b"begin\n")
        assert read_reply(sock) == b"ready"
        assert sock.recv(1) == b""
        line = server.wait_event("handler failed")
        assert "start-tls=on" in line["traceback"]
