"""Connections whose client a PROXY header tells: at the handler, in the reports, in every model."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from socketkeep.proxy import InetAddress, ProxyHeader, UnixAddress
from tests.harness import connect
from tests.proxied.support import CLIENT, FRONT, PLAIN, RICH, ask, begin, refusals, serving
from tests.server.support import MODELS


@pytest.mark.parametrize("decorated", ["@resumable", ""])
@pytest.mark.parametrize("model", MODELS)
def test_the_handler_sees_the_client(model: str, decorated: str, tmp_path: Path) -> None:
    """Addresses are the client's, the rest stands in the header, and no byte is lost.

    Headers that come whole with the first bytes, in pieces, and late are one and the same.
    """
    with serving(tmp_path, model, decorated=decorated) as server, ExitStack() as stack:
        together = stack.enter_context(begin(server.address, RICH.encode() + b"one\n"))
        pieces = stack.enter_context(connect(server.address))
        raw = RICH.encode()
        for start in range(0, len(raw), 50):
            pieces.sendall(raw[start : start + 50])
            if start + 50 < len(raw):
                # The server has looked in between: what has come is in the keeper.
                server.wait_until(
                    lambda: server.status()["connections"]["awaiting_header"] == 1, "waiting"
                )
        plain = stack.enter_context(begin(server.address, PLAIN))
        told = together.recv(1), ask(pieces), ask(plain)
        assert told[0] == b"o"
        for facts in told[1:]:
            assert (facts["peer"], facts["local"]) == (str(CLIENT), str(FRONT))
            assert facts["attached"] == "accepted"
        assert told[1]["proxy"] == {
            "version": 2,
            "local": False,
            "authority": "chat.example",
            "alpn": "h2",
            "unique_id": "00016964",
            "checksum": True,
            "aws": "vpce-0a",
            "tls": ["TLSv1.3", "TLS_AES_128_GCM_SHA256", "client", False],
        }
        assert told[2]["proxy"]["version"] == 1
        assert {each["peer"] for each in server.connections()} == {str(CLIENT)}
        assert server.status()["connections"]["open"] == 3
        assert server.status()["totals"]["accepted"] == 3
        assert refusals(server) == {}


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (ProxyHeader(local=True), ""),
        (ProxyHeader(), ""),
        (ProxyHeader(version=1), ""),
        (
            ProxyHeader(
                source=InetAddress("2001:db8::7", 1), destination=InetAddress("2001:db8::1", 2)
            ),
            "[2001:db8::7]:1",
        ),
        (
            ProxyHeader(source=UnixAddress("/run/c\n"), destination=UnixAddress("@front")),
            "unix:/run/c\\n",
        ),
    ],
)
def test_who_the_header_names(header: ProxyHeader, peer: str, tmp_path: Path) -> None:
    """LOCAL and UNKNOWN leave the connection its own addresses; every family is told as text."""
    with serving(tmp_path, "thread") as server, begin(server.address, header) as sock:
        facts = ask(sock)
        own = f"127.0.0.1:{sock.getsockname()[1]}"
        assert facts["peer"] == (peer or own)
        assert facts["proxy"]["local"] == header.local
        if not peer:
            assert facts["local"] == server.address
        if isinstance(header.source, UnixAddress):
            assert facts["local"] == "unix:@front"


def test_a_unix_listener(tmp_path: Path) -> None:
    """A proxy that comes over a Unix socket is believed: its file says who may connect."""
    bind = f"unix:{tmp_path}/s,proxy=on"
    with serving(tmp_path, "prefork", "-w", "1", bind=bind) as server:
        for _ in range(3):
            with begin(server.address, RICH) as sock:
                assert ask(sock)["peer"] == str(CLIENT)


def test_the_access_log(tmp_path: Path) -> None:
    """It has the client, as it came with the header and as it came later."""
    with serving(tmp_path, "thread", "--access-log", "--park-after", "0.05") as server:
        for parts in ((RICH.encode(),), (RICH.encode()[:20], RICH.encode()[20:])):
            mark = server.mark()
            with connect(server.address) as sock:
                for part in parts:
                    sock.sendall(part)
                ask(sock)
            line = server.wait_event("connection", since=mark)
            assert (line["peer"], line["listener"]) == (str(CLIENT), server.address)


@pytest.mark.parametrize("model", MODELS)
def test_optional(model: str, tmp_path: Path) -> None:
    """Who speaks without a header is served as it is, whatever its first bytes resemble."""
    with (
        serving(tmp_path, model, "--proxy-protocol", "optional", bind="127.0.0.1:0") as server,
        ExitStack() as stack,
    ):
        with begin(server.address, RICH) as sock:
            assert ask(sock)["peer"] == str(CLIENT)
        for word in (b"hello", b"PROX", b"PROXY"):
            sock = stack.enter_context(connect(server.address))
            own = f"127.0.0.1:{sock.getsockname()[1]}"
            for part in (word[:2], word[2:]):
                sock.sendall(part)
                if part == b"PR":
                    server.wait_until(
                        lambda: server.status()["connections"]["awaiting_header"] == 1, "waiting"
                    )
            facts = _rest(sock, word)
            assert (facts["peer"], facts["proxy"]) == (own, None)
        silent = stack.enter_context(connect(server.address))
        server.wait_until(lambda: server.status()["connections"]["open"] == 4, "served", 20.0)
        assert ask(silent)["proxy"] is None
        assert refusals(server) == {}


def _rest(sock: socket.socket, word: bytes) -> dict[str, object]:
    """Send the end of the line, and return what is told."""
    sock.sendall(b"\n")
    told = b""
    while not told.endswith(b"\n"):
        told += sock.recv(65536)
    assert told.startswith(word + b" ")
    facts: dict[str, object] = json.loads(told[len(word) + 1 :])
    return facts
