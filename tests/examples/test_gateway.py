"""gateway.py: devices with frames, and commands from the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import closing
from typing import Any

from socketkeep import Connection, Timeout
from tests.examples.conftest import Serve
from tests.harness import Server
from tests.harness.peers import connect


class Device:
    """A device, which speaks in frames."""

    def __init__(self, server: Server, name: str, site: str) -> None:
        sock: socket.socket = connect(server.address)
        self.conn = Connection(sock, mode=Timeout(20))
        self.answer = self.ask(login=name, secret="open sesame", site=site)

    def ask(self, **fields: Any) -> Any:
        self.conn.send_frame(json.dumps(fields).encode(), "u16")
        return self.hear()

    def hear(self) -> Any:
        return json.loads(self.conn.recv_frame("u16"))

    def close(self) -> None:
        self.conn.close()


def test_devices_get_commands_through_a_reload_and_a_death(serve: Serve) -> None:
    example = serve("gateway", "--workers", "2", "--keep", "crash", "--keep-after", "0s")
    server = example.server
    with closing(Device(example.server, "device-1", "north")) as one:
        with closing(Device(example.server, "device-2", "north")) as two:
            assert (one.answer, two.answer) == ({"welcome": 0}, {"welcome": 0})
            assert one.ask(reading=21.5) == {"readings": 1}
            done = server.cli("push", "device-1", '{"set": "on"}')
            assert (done.exit_code, one.hear()) == (0, {"set": "on"})
            server.reload()
            done = server.cli("publish", "site:north", '{"report": 1}')
            assert (done.exit_code, one.hear(), two.hear()) == (0, {"report": 1}, {"report": 1})
            server.wait_until(lambda: server.status()["connections"]["kept"] == 2, "both are kept")
            owner = next(e["owner"] for e in server.connections() if e["name"] == "device-1")
            os.kill(owner, signal.SIGKILL)
            assert one.ask(reading=22) == {"readings": 2}
            assert server.cli("push", "device-1", '{"set": "off"}').exit_code == 0
            assert one.hear() == {"set": "off"}
        server.wait_until(lambda: len(server.connections()) == 1, "device-2 has gone")
        done = server.cli("push", "device-2", "{}")
        assert (done.exit_code, done.stdout) == (1, "not connected\n")


def test_a_device_comes_back_before_it_has_gone(serve: Serve) -> None:
    example = serve("gateway", "--workers", "2")
    with (
        closing(Device(example.server, "device-1", "north")) as before,
        closing(Device(example.server, "device-1", "south")) as after,
    ):
        assert before.conn.recv() == b""
        assert example.server.cli("push", "device-1", '{"set": "on"}').exit_code == 0
        assert after.hear() == {"set": "on"}


def test_who_is_no_device(serve: Serve) -> None:
    example = serve("gateway", "--workers", "1")
    conn = Connection(connect(example.server.address), mode=Timeout(20))
    with conn:
        conn.send_frame(b'{"login": "device-1", "secret": "guess"}', "u16")
        assert json.loads(conn.recv_frame("u16")) == {"refused": "wrong secret"}
        assert conn.recv() == b""
