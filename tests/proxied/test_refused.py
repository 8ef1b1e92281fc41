"""Connections that are refused for their header: closed, counted, told; nothing else is lost."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from socketkeep.proxy import ProxyHeader
from tests.admin.web import admin_port, fetch
from tests.harness import connect
from tests.proxied.support import CLIENT, PLAIN, RICH, ask, begin, refusals, refused, serving
from tests.server.support import MODELS

V2 = b"\r\n\r\n\0\r\nQUIT\n"
FALSE_SUM = bytearray(RICH.encode())
FALSE_SUM[-1] ^= 1

BAD = {
    "no header": (b"GET / HTTP/1.1\r\n\r\n", "missing"),
    "unknown version": (V2 + b"\x31\x11\0\0", "malformed"),
    "unknown command": (V2 + b"\x22\x11\0\0", "malformed"),
    "too long": (V2 + b"\x21\x11\xff\xff", "malformed"),
    "false checksum": (bytes(FALSE_SUM), "malformed"),
    "cut part": (V2 + b"\x21\x11\0\x0e" + bytes(12) + b"\1\0", "malformed"),
    "no addresses": (b"PROXY TCP4 here there 1 2\r\n", "malformed"),
    "line without end": (b"PROXY " + b"x" * 200, "malformed"),
}


@pytest.mark.parametrize("model", MODELS)
def test_bad_headers(model: str, tmp_path: Path) -> None:
    """Each is refused, at once or in two pieces; who came before and comes after is served."""
    with serving(tmp_path, model, "-w", "1") as server, begin(server.address, RICH) as before:
        assert ask(before)["peer"] == str(CLIENT)
        for data, why in BAD.values():
            with begin(server.address, data) as sock:
                assert refused(sock)
            if why == "missing":
                continue  # its first bytes tell
            with begin(server.address, data[:3]) as sock:
                server.wait_until(
                    lambda: server.status()["connections"]["awaiting_header"] == 1, "waiting"
                )
                sock.sendall(data[3:])
                assert refused(sock)
        with connect(server.address) as sock:
            sock.sendall(RICH.encode()[:20])
            sock.shutdown(socket.SHUT_WR)
            assert refused(sock)
        assert ask(before)["peer"] == str(CLIENT)
        with begin(server.address, RICH) as after:
            assert ask(after)["peer"] == str(CLIENT)
        reasons = [why for _, why in BAD.values()]
        assert refusals(server) == {
            "missing": reasons.count("missing"),
            "malformed": 2 * reasons.count("malformed"),
            "cut": 1,
        }
        for why in ("missing", "malformed", "cut"):
            server.wait_event("connection refused", reason=why)
        told = server.find("connection refused")
        # A line a reason, from the worker and from the keeper, and no more in ten seconds.
        assert 3 <= len(told) <= 6
        assert {line["level"] for line in told} == {"info"}
        assert {line["reason"] for line in told} == {"missing", "malformed", "cut"}
        server.wait_until(lambda: server.status()["connections"]["open"] == 1, "nothing else")


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_who_sends_no_header_in_time(model: str, tmp_path: Path) -> None:
    """Silent ones and half ones are closed after three seconds; they take no seat meanwhile."""
    with (
        serving(tmp_path, model, "-w", "1", "--park-after", "off") as server,
        ExitStack() as stack,
    ):
        late = [stack.enter_context(connect(server.address)) for _ in range(20)]
        for sock in late[::2]:
            sock.sendall(RICH.encode()[:30])
        server.wait_until(
            lambda: server.status()["connections"]["awaiting_header"] == 20, "waiting"
        )
        with begin(server.address, RICH) as sock:
            assert ask(sock)["peer"] == str(CLIENT)
            assert server.status()["connections"]["open"] == 1
        assert all(refused(sock) for sock in late)
        assert refusals(server) == {"late": 20}
        assert server.status()["connections"]["awaiting_header"] == 0


def test_from_elsewhere(tmp_path: Path) -> None:
    """Who is not among the proxies is closed at once, header or not."""
    bind = "127.0.0.1:0,proxy=on,proxy-from=192.0.2.0/24"
    with serving(tmp_path, "thread", bind=bind) as server:
        for header in (RICH, PLAIN, b""):
            with begin(server.address, header) as sock:
                assert refused(sock)
        assert refusals(server) == {"not_allowed": 3}
        server.wait_event("connection refused")
        for line in server.find("connection refused"):  # one of each worker that has refused
            assert line["reason"] == "not_allowed"
            assert line["peer"].startswith("127.0.0.1:")
        assert server.status()["totals"]["accepted"] == 0


def test_optional_from_elsewhere(tmp_path: Path) -> None:
    """There a client from anywhere is served, and a header from elsewhere is refused."""
    options = ("--proxy-protocol", "optional", "--proxy-from", "192.0.2.0/24,2001:db8::/32")
    with serving(tmp_path, "thread", *options, bind="127.0.0.1:0") as server:
        with begin(server.address, ProxyHeader(local=True)) as sock:
            assert refused(sock)
        with connect(server.address) as sock:
            assert ask(sock)["peer"] == f"127.0.0.1:{sock.getsockname()[1]}"
        assert refusals(server) == {"not_allowed": 1}


def test_a_flood_of_halves(tmp_path: Path) -> None:
    """Thousands of half headers keep no one of those who send whole ones from being served."""
    with serving(tmp_path, "prefork", "-w", "2") as server, ExitStack() as stack:
        raw = RICH.encode()
        halves = []
        for number in range(2000):
            sock = stack.enter_context(connect(server.address))
            sock.sendall(raw[: 1 + number % 40])
            halves.append(sock)
            if number % 200 == 0:
                with begin(server.address, RICH) as good:
                    assert ask(good)["peer"] == str(CLIENT)
        assert all(refused(sock) for sock in halves)
        assert refusals(server) == {"late": 2000}


def test_figures_of_the_refused(tmp_path: Path) -> None:
    """They are in the table that `status` prints, and among the metrics, by reason."""
    with serving(tmp_path, "thread", "--admin", "127.0.0.1:0") as server:
        with begin(server.address, b"hello\n") as sock:
            assert refused(sock)
        printed = server.cli("status").stdout
        assert "PROXY header refused: missing" in printed
        assert server.status()["listeners"][0]["proxy"] == "on"
        metrics = fetch(admin_port(server), "/metrics").text
        assert 'socketkeep_connections_refused_total{reason="missing"} 1.0' in metrics
        assert 'socketkeep_connections_refused_total{reason="late"} 0.0' in metrics
        assert "socketkeep_connections_awaiting_header 0.0" in metrics
