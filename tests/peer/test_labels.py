"""What a connection is called, where people look: the access log, the metrics, the list."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.admin.web import admin_port, fetch
from tests.harness import Server, connect

_APP = """
from socketkeep import resumable

@resumable
async def handle(conn):
    async for line in conn.lines():
        name, _, firmware = line.decode().partition(" ")
        conn.name = name
        conn.labels = {"firmware": firmware, "site": "north"}
        await conn.send(b"ok\\n")
        conn.commit()
"""


def test_labels_are_shown_and_counted(tmp_path: Path) -> None:
    """By the values of one label, of which so many have a series, the others one together."""
    (tmp_path / "app.py").write_text(_APP)
    options = ("--admin", "127.0.0.1:0", "--metrics-label", "firmware=2", "--access-log")
    with (
        Server(tmp_path, "app:handle", *options, "-w", "1") as server,
        ExitStack() as stack,
    ):
        port = admin_port(server)
        peers = [stack.enter_context(connect(server.address)) for _ in range(5)]
        for number, (peer, firmware) in enumerate(
            zip(peers, ("2.1", "2.1", "3.0", "4.0", "5.0"), strict=True)
        ):
            peer.sendall(b"device-%d %s\n" % (number, firmware.encode()))
            assert peer.recv(10) == b"ok\n"
        metrics = fetch(port, "/metrics").text
        counted = [
            each
            for each in metrics.splitlines()
            if each.startswith("socketkeep_connections_by_label{")
        ]
        assert sorted(counted) == [
            'socketkeep_connections_by_label{value=""} 2.0',
            'socketkeep_connections_by_label{value="2.1"} 2.0',
            'socketkeep_connections_by_label{value="3.0"} 1.0',
        ]
        listed = server.cli("connections").stdout
        assert "device-4" in listed
        assert "firmware" in listed
        peers[2].close()
        ended = server.wait_event("connection")
        assert (ended["name"], ended["labels"]) == (
            "device-2",
            {"firmware": "3.0", "site": "north"},
        )
        server.wait_until(lambda: server.status()["connections"]["by_label"]["3.0"] == 0, "gone")
        assert server.status()["connections"]["by_label"] == {"": 2, "2.1": 2, "3.0": 0}
