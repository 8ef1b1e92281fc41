"""A server that tells each peer who it takes it for, and clients that begin with a header."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from socketkeep.proxy import InetAddress, ProxyHeader, ProxyTls
from tests.harness import Server, connect, read_reply
from tests.harness.tellers import write_teller

TELLS: Final = """
import json
import os

from socketkeep import AsyncConnection, Connection, resumable


def facts(conn, _count):
    header, told = conn.proxy, None
    if header is not None:
        tls = header.tls
        told = {
            "version": header.version,
            "local": header.local,
            "authority": header.authority,
            "alpn": header.alpn.decode(),
            "unique_id": header.unique_id.hex(),
            "checksum": header.checksum,
            "aws": header.aws_vpc_endpoint,
            "tls": tls and [tls.version, tls.cipher, tls.common_name, tls.verified],
        }
    return json.dumps({
        "peer": conn.peer, "local": conn.local, "proxy": told,
        "attached": conn.attached, "pid": os.getpid(), "count": conn.state,
    }).encode()

"""
CLIENT: Final = InetAddress("198.51.100.7", 40123)
FRONT: Final = InetAddress("203.0.113.1", 443)
#: All that a header can say.
RICH: Final = ProxyHeader(
    source=CLIENT,
    destination=FRONT,
    alpn=b"h2",
    authority="chat.example",
    unique_id=b"\x00\x01id",
    tls=ProxyTls(version="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256", common_name="client"),
    aws_vpc_endpoint="vpce-0a",
    checksum=True,
)
PLAIN: Final = ProxyHeader(version=1, source=CLIENT, destination=FRONT)


def serving(
    directory: Path,
    model: str,
    *options: str,
    bind: str = "127.0.0.1:0,proxy=on",
    decorated: str = "@resumable",
    environment: dict[str, str] | None = None,
) -> Server:
    """Return a server, yet to be entered, one of whose listeners expects headers."""
    target = write_teller(directory, TELLS, model, decorated)
    return Server(directory, target, "-k", model, *options, bind=[bind], environment=environment)


def ask(sock: socket.socket, word: bytes = b"who") -> Any:
    """Ask the server who it takes this peer for."""
    sock.sendall(word + b"\n")
    told = read_reply(sock)
    assert told.startswith(word + b" "), told
    return json.loads(told[len(word) + 1 :])


def begin(address: str, header: ProxyHeader | bytes) -> socket.socket:
    """Connect, and send the header."""
    sock = connect(address)
    sock.sendall(header if isinstance(header, bytes) else header.encode())
    return sock


def refused(sock: socket.socket) -> bool:
    """Whether the server ends the connection without a byte, in whatever way."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def refusals(server: Server) -> dict[str, int]:
    """Return how many were refused, by why, those reasons for which any were."""
    counts: dict[str, int] = server.status()["totals"]["proxy_refused"]
    return {why: count for why, count in counts.items() if count}


def words_of(server: Server, event: str) -> Sequence[str]:
    """Return the reasons that the log has of refused connections."""
    return [line["reason"] for line in server.find(event)]
