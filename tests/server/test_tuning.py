"""The kernel's options of connections, as their server and their listener have them."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from tests.harness import Server, connect, read_reply
from tests.harness.network import namespace
from tests.server.support import MODELS, PrefixedServer

_TELLS = """
import json
import socket

TCP = socket.IPPROTO_TCP


def told(conn):
    sock = socket.socket(fileno=conn.fileno())
    try:
        return json.dumps({
            "keepalive": [
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                sock.getsockopt(TCP, socket.TCP_KEEPIDLE),
                sock.getsockopt(TCP, socket.TCP_KEEPINTVL),
                sock.getsockopt(TCP, socket.TCP_KEEPCNT),
            ],
            "user_timeout": sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT),
            "nodelay": sock.getsockopt(TCP, socket.TCP_NODELAY),
            "sent_with_syn": bool(sock.getsockopt(TCP, socket.TCP_INFO, 8)[5] & 32),
            "rcvbuf": sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
            "sndbuf": sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        }).encode() + b"\\n"
    finally:
        sock.detach()

"""
_NO_FAST_OPEN = "TCP Fast Open has no effect: set net.ipv4.tcp_fastopen to 3"
_SYNC = "\ndef handle(conn):\n    conn.send(told(conn))\n"
_ASYNC = "\nasync def handle(conn):\n    await conn.send(told(conn))\n"


def served(directory: Path, model: str, *options: str, bind: list[str]) -> Server:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "app.py").write_text(_TELLS + (_ASYNC if model == "async" else _SYNC))
    return Server(directory, "app:handle", "-k", model, *options, bind=bind)


def told(address: str) -> Any:
    with connect(address) as sock:
        return json.loads(read_reply(sock))


def test_of_a_listener_in_each_model(tmp_path: Path) -> None:
    """What is said of the listener holds for all that is accepted from it, by whichever process."""
    options = "tcp-keepalive=20:5:2,tcp-user-timeout=1500ms,tcp-nodelay=off,rcvbuf=32K,sndbuf=48K"
    for model in MODELS:
        bind = [f"127.0.0.1:0,{options}", "[::1]:0"]
        with served(tmp_path / model, model, "--rcvbuf", "16K", bind=bind) as server:
            first, second = (told(address) for address in server.addresses)
            assert first == {
                "keepalive": [1, 20, 5, 2],
                "user_timeout": 1500,
                "nodelay": 0,
                "sent_with_syn": False,
                "rcvbuf": 2 * 32768,
                "sndbuf": 2 * 49152,
            }
            assert second["keepalive"] == [1, 60, 15, 3], "which is the default"
            assert (second["user_timeout"], second["rcvbuf"]) == (0, 2 * 16384)
            assert second["nodelay"] == 1


def test_off_leaves_it_to_the_code(tmp_path: Path) -> None:
    """Without keepalive, and with the system's buffers, nothing is set."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        usual = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    with served(tmp_path, "thread", "--tcp-keepalive", "off", bind=["127.0.0.1:0"]) as server:
        facts = told(server.address)
        assert facts["keepalive"][:2] == [0, usual]
        assert facts["user_timeout"] == 0


def test_a_listener_that_is_inherited(tmp_path: Path) -> None:
    """It gets the options, too; for an inherited Unix socket they mean nothing."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        bind = [f"fd://{tcp.fileno()},tcp-keepalive=30:7:4", f"fd://{unix.fileno()},rcvbuf=64K"]
        server = served(tmp_path, "thread", bind=bind)
        server._descriptors = (tcp.fileno(), unix.fileno())
        with server:
            assert told(server.address)["keepalive"] == [1, 30, 7, 4]
            assert os.path.exists(tmp_path / "s")


def test_fast_open(tmp_path: Path) -> None:
    """A client that has been here before sends its question along with its SYN."""
    with namespace() as there:
        bind = ["127.0.0.1:0,tcp-fastopen=16", "127.0.0.2:0"]
        (tmp_path / "app.py").write_text(_TELLS + _SYNC)

        def ask(address: str) -> Any:
            host, _, port = address.rpartition(":")
            with there.call(socket.socket) as client:
                client.sendto(b"?", socket.MSG_FASTOPEN, (host, int(port)))
                client.settimeout(10)
                return json.loads(read_reply(client))

        command = ["sh", "-c", 'echo "$0" > /proc/sys/net/ipv4/tcp_fastopen; exec "$@"']
        with PrefixedServer(
            [*there.prefix, *command, "3"], tmp_path, "app:handle", bind=bind
        ) as server:
            fast, slow = server.addresses
            assert not ask(fast)["sent_with_syn"], "it gets the cookie"
            assert ask(fast)["sent_with_syn"]
            ask(slow)
            assert not ask(slow)["sent_with_syn"]
            assert not server.find(_NO_FAST_OPEN)
        with PrefixedServer(
            [*there.prefix, *command, "1"], tmp_path, "app:handle", bind=bind
        ) as server:
            told = server.wait_event(_NO_FAST_OPEN)
            assert (told["address"], told["tcp_fastopen"]) == (server.addresses[0], "1")
            assert not ask(server.address)["sent_with_syn"]
