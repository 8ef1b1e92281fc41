"""A peer that has vanished without a word, its cable cut, is noticed in the time that is set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from tests.harness import read_reply, write_source
from tests.harness.network import SERVER, cable
from tests.server.support import PrefixedServer

#: Asked after a second, a second time a second later, and over after one more.
KEEPALIVE: Final = "1:1:2"
IN_ALL: Final = 3.0
USER_TIMEOUT: Final = 2.0
#: A machine that is busy is late, but the kernel's own time would be minutes.
LATE: Final = 20.0

HANDLER: Final = """
import time

from socketkeep import Connection, resumable


@resumable
def handle(conn: Connection) -> None:
    for line in conn.lines():
        conn.send(b"yes\\n")
        if line == b"park":
            conn.commit()
        while line == b"talk":
            conn.send(b".")
            time.sleep(0.1)
"""


def test_parked_or_served_or_spoken_to(tmp_path: Path) -> None:
    """Keepalive ends a silence, wherever the connection waits; what is sent has its own time."""
    target = write_source(tmp_path, HANDLER)
    options = ["-k", "thread", "--park-after", "0.1", "--tcp-keepalive", KEEPALIVE, "--access-log"]
    bind = [f"{SERVER}:7001", f"{SERVER}:7002,tcp-user-timeout={USER_TIMEOUT:g}"]
    with (
        cable() as (inside, outside),
        PrefixedServer(inside.prefix, tmp_path, target, *options, bind=bind) as server,
    ):
        peers = []
        for word, port in ((b"park", 7001), (b"hold", 7001), (b"talk", 7002)):
            peers.append(outside.connect((SERVER, port)))
            peers[-1].sendall(word + b"\n")
            assert read_reply(peers[-1]) == b"yes"
        server.wait_until(lambda: server.status()["connections"]["parked"] == 1, "one parked")
        outside.run("ip", "link", "set", "cable", "down")
        cut = time.monotonic()
        server.wait_until(lambda: server.status()["connections"]["open"] == 0, "all over")
        assert 1 < time.monotonic() - cut < IN_ALL + LATE
        server.wait_event("connection", count=3)
        assert [end["why"] for end in server.find("connection")] == ["the peer took too long"] * 3
        assert not server.find("handler failed")
        for peer in peers:
            peer.close()
