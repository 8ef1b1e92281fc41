"""TLS connections as handlers and clients see them: facts, ends, and who speaks otherwise."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.edge.support import (
    AUTHORITY,
    HOST,
    MOST_SHAKING,
    ask,
    begin,
    client_context,
    crowd,
    edges,
    issue,
    serving,
)
from tests.harness import Server, connect, read_reply, write_handler
from tests.server.support import MODELS

_ENDS = """
from socketkeep import Connection, PeerReset, Truncated


def handle(conn: Connection) -> None:
    told = open("told", "a")
    try:
        for line in conn.lines():
            if line == b"abort":
                conn.send(b"before")
                conn.abort()
                return
            if line == b"end":
                conn.send(b"first")
                conn.send_eof()
                while conn.recv(65536):
                    pass
                break
            if line == b"close":
                conn.send(b"x" * 300000)
                break
    except Truncated:
        told.write("truncated\\n")
    except PeerReset:
        told.write("reset\\n")
    else:
        told.write("ended\\n")
    finally:
        told.close()
"""


def read_raw(sock: ssl.SSLSocket) -> None:
    """Read what is on the wire, to its end: `ssl` takes a reset for one."""
    while socket.socket.recv(sock, 65536):
        pass


def resumed(server_address: str, context: ssl.SSLContext, sock: ssl.SSLSocket) -> bool:
    with begin(server_address, context, session=sock.session) as again:
        answer: bool = ask(again)["tls"]["resumed"]
        assert again.session_reused == answer
        return answer


def wait_shown(server: Server, peers: set[str]) -> None:
    """Wait until these are shown, and those before have gone."""
    server.wait_until(
        lambda: {each["peer"] for each in server.connections()} == peers, f"{peers} alone"
    )


def policies(server: Server) -> set[int]:
    """Return by which the workers are scheduled."""
    return {os.sched_getscheduler(each["pid"]) for each in server.workers()}


@pytest.mark.parametrize("model", MODELS)
def test_the_handler_has_the_facts(model: str, tmp_path: Path) -> None:
    """Also a handler that is not resumable; plain connections beside have none."""
    tls = f"{issue(tmp_path).text},alpn=chat/2,alpn=chat/1"
    with serving(tmp_path, model, tls=tls, decorated="", more=["localhost:0"]) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = client_context(maximum_version=version)
            context.set_alpn_protocols(["chat/1"])
            with begin(server.address, context) as sock:
                facts = ask(sock)
                assert facts["peer"] == f"127.0.0.1:{sock.getsockname()[1]}"
                assert facts["local"] == server.address
                assert facts["attached"] == "accepted"
                assert facts["tls"] == {
                    "version": sock.version(),
                    "cipher": list(sock.cipher() or ()),
                    "alpn": "chat/1",
                    "sni": HOST,
                    "resumed": False,
                    "certificate": None,
                    "der": None,
                }
                wait_shown(server, {facts["peer"]})
                assert resumed(server.address, context, sock)
        with connect(server.addresses[1]) as plain:
            plain.sendall(b"who\n")
            assert b'"tls": null' in read_reply(plain)
        done = {"TLSv1.2": 2, "TLSv1.3": 2}
        server.wait_until(lambda: server.status()["edges"]["handshakes"] == done, "told")
        told = server.status()["edges"]
        assert told["resumed"] == 2
        (certificate,) = told["certificates"]
        assert certificate["names"] == [HOST]
        assert certificate["listener"] == server.address
        assert certificate["expires_in"] > 0
        assert policies(server) == {os.SCHED_BATCH}
        text = server.cli("status").stdout
        assert "handshakes: TLSv1.3" in text
        assert str(tmp_path / "server.pem") in text


def test_a_clients_certificate(tmp_path: Path) -> None:
    """Without one there is no connection; with one the handler has it, taken apart and whole."""
    authority = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    tls = f"{issue(tmp_path).text},client-ca={authority}"
    with serving(tmp_path, "async", tls=tls) as server:
        context = client_context()
        AUTHORITY.issue_cert("device-7", common_name="device-7").configure_cert(context)
        with begin(server.address, context) as sock:
            told = ask(sock)["tls"]
            assert ["DNS", "device-7"] in told["certificate"]["subjectAltName"]
            assert told["der"] > 300
            server.reload()
            assert ask(sock)["tls"] == told
        bare = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            begin(server.address, bare)
        server.wait_event("TLS handshake failed", reason="certificate")


def test_how_each_end_ends(tmp_path: Path) -> None:
    """Abort, half-close and close of the handler; end, truncation and reset of the client."""
    (tmp_path / "app.py").write_text(_ENDS)
    told = tmp_path / "told"
    with serving(tmp_path, "thread", target="app:handle") as server:
        with begin(server.address) as sock:
            sock.sendall(b"abort\n")
            with pytest.raises(ConnectionResetError):
                read_raw(sock)
        told.unlink(missing_ok=True)
        with begin(server.address) as sock:
            sock.sendall(b"end\n")
            assert sock.recv(100) == b"first"
            assert sock.recv(100) == b""  # close_notify
            sock.unwrap()
        server.wait_until(lambda: told.exists() and told.read_text() == "ended\n", "ended")
        with begin(server.address) as sock:
            sock.sendall(b"close\n")
            received = b""
            while data := sock.recv(65536):
                received += data
            assert received == b"x" * 300_000
        told.unlink()
        with begin(server.address) as sock:
            sock.sendall(b"half")
            socket.socket.shutdown(sock, socket.SHUT_WR)
            server.wait_until(lambda: told.exists() and told.read_text() != "", "told")
            assert told.read_text() == "truncated\n"
        told.unlink()
        server.wait_until(lambda: not server.connections(), "the ones before have gone")
        with begin(server.address) as sock:
            sock.sendall(b"half")
            # Before that a reset would be one in the handshake, whose end the edge must still read.
            server.wait_until(lambda: len(server.connections()) == 1, "it is served")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.wait_until(lambda: told.exists() and told.read_text() != "", "told")
        assert told.read_text() == "reset\n"


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl(version: str, tmp_path: Path) -> None:
    """`openssl s_client` resumes its session in every edge, also in those that come later.

    TLS 1.2 is not negotiated anew.
    """
    authority = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    session = tmp_path / "session"
    with serving(tmp_path, "async", "--edges", "2") as server:
        command = [
            *("openssl", "s_client", "-connect", server.address, version, "-servername", HOST),
            *("-CAfile", str(authority), "-verify_return_error", "-verify_hostname", HOST),
        ]

        def ask_by(*more: str, renegotiate: bool = False) -> bool:
            process = subprocess.Popen(
                [*command, *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"who\n")
            process.stdin.flush()
            lines: list[bytes] = []
            while not (lines and lines[-1].startswith(b"who ")):
                lines.append(process.stdout.readline())
                assert lines[-1], lines
            if renegotiate:
                process.stdin.write(b"R\n")  # asks for new keys
                process.stdin.flush()
            process.stdin.close()
            process.wait(20)
            process.stdout.close()
            return b'"resumed": true' in lines[-1]

        assert not ask_by("-sess_out", str(session), renegotiate=version == "-tls1_2")
        assert all(ask_by("-sess_in", str(session)) for _ in range(8))
        assert server.cli("upgrade").exit_code == 0
        server.wait_event("edge has left", count=2)
        assert ask_by("-sess_in", str(session))
        for pid in edges(server):
            os.kill(pid, signal.SIGKILL)
        server.wait_event("edge ready", count=6)
        assert ask_by("-sess_in", str(session))


def test_who_speaks_no_tls_and_who_does_where_none_is(tmp_path: Path) -> None:
    """One line for each at most in ten seconds; others are served."""
    with (
        serving(tmp_path, "async", more=["localhost:0"]) as server,
        begin(server.address) as before,
    ):
        for _ in range(20):
            with connect(server.address) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                while sock.recv(100):
                    pass
        line = server.wait_event("TLS handshake failed")
        assert len(server.find("TLS handshake failed", reason="no_tls")) == 1
        assert "it speaks no TLS" in line["why"]
        assert line["listener"] == server.address
        server.wait_until(lambda: server.status()["edges"]["failed"] == {"no_tls": 20}, "counted")
        assert ask(before)["count"] == 1


def test_a_worker_without_an_edge_is_scheduled_as_any_process(tmp_path: Path) -> None:
    target = write_handler(tmp_path, "v0", is_async=True)
    with Server(tmp_path, target, "-k", "async") as server:
        assert policies(server) == {os.SCHED_OTHER}


def test_half_done_handshakes_are_bounded(tmp_path: Path) -> None:
    """In number, time and memory: thousands that say nothing, or half of it, keep nobody out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    silent = []
    with serving(tmp_path, "async") as server, begin(server.address) as before:
        (edge,) = edges(server)
        try:
            for number in range(MOST_SHAKING + 200):
                sock = connect(server.address)
                silent.append(sock)
                if number % 2:
                    sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the begin of a ClientHello
            with crowd(server.address, 10) as asking:
                asking.wait_answers(20)
            server.wait_until(
                lambda: server.status()["edges"]["failed"].get("no_room", 0) >= 200, "bounded"
            )
            assert server.status()["edges"]["shaking"] <= MOST_SHAKING
            assert memory(edge) < 300 << 20
            assert ask(before)["count"] == 1
            for sock in silent:
                sock.settimeout(20)
                assert sock.recv(1) == b""
            server.wait_event("TLS handshake failed", reason="late")
            assert len(server.find("TLS handshake failed", reason="late")) == 1
        finally:
            for sock in silent:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server.wait_until(lambda: server.status()["edges"]["shaking"] == 0, "forgotten")
        assert len(os.listdir(f"/proc/{edge}/fd")) < 40


def memory(pid: int) -> int:
    """Return what of a process is in memory, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


_HTTP = """
from socketkeep import Connection


def handle(conn: Connection) -> None:
    for _ in range(2):
        head = conn.recv_until(b"\\r\\n\\r\\n")
        body = conn.tls.version().encode() + b" " + head.split()[1]
        conn.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
"""


def test_curl(tmp_path: Path) -> None:
    """With a certificate of its own, and without the one that is asked for; on one connection."""
    (tmp_path / "app.py").write_text(_HTTP)
    authority, own = tmp_path / "authority.pem", issue(tmp_path, "device-7", stem="device")
    AUTHORITY.cert_pem.write_to_path(str(authority))
    tls = f"{issue(tmp_path).text},client-ca={authority},alpn=http/1.1"
    with serving(tmp_path, "thread", tls=tls, target="app:handle") as server:
        port = server.address.rpartition(":")[2]
        command = [
            *("curl", "--silent", "--show-error", "--max-time", "20", "--cacert", str(authority)),
            *("--resolve", f"{HOST}:{port}:127.0.0.1"),
            *(f"https://{HOST}:{port}/{name}" for name in ("one", "two")),
        ]
        certificate = ("--cert", str(own.certificate), "--key", str(own.key))
        for version in ("1.2", "1.3"):
            done = subprocess.run(
                [*command, *certificate, f"--tlsv{version}", "--tls-max", version],
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout == f"TLSv{version} /oneTLSv{version} /two"
        bare = subprocess.run(command, capture_output=True, text=True, check=False)
        assert bare.returncode
        assert "certificate required" in bare.stderr
        assert server.status()["totals"]["accepted"] == 2
