"""TLS connections of a server whose keeper and workers are killed: the edge has them, and lives."""

from __future__ import annotations

import os
import signal
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.edge.support import HOST, TELLS, ask, begin, edges, issue
from tests.guard.support import GuardedServer
from tests.guard.test_guarded import KEEP, held
from tests.harness import read_reply
from tests.harness.processes import wait_exit
from tests.harness.tellers import write_teller
from tests.server.support import seats

CLIENTS = 3

REPLIES = """
from socketkeep import Connection, resumable

@resumable(redeliver=True)
def handle(conn: Connection) -> None:
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.reply(b"%d\\n" % count, state=count)
"""


@pytest.mark.timeout(120)
def test_replies_are_once_after_the_keepers_death(tmp_path: Path) -> None:
    """The next keeper asks the edge of the one before how much has passed, and waits for its end.

    A connection with a record of a reply, of which nobody could tell that, would be ended.
    """
    (tmp_path / "app.py").write_text(REPLIES)
    bind = [f"127.0.0.1:0,{issue(tmp_path).text}"]
    options = ("-k", "thread", *KEEP, "--park-after", "off")
    with (
        GuardedServer(tmp_path, "app:handle", *options, bind=bind) as server,
        begin(server.address) as client,
    ):
        (first,) = edges(server)
        for count in (1, 2, 3):
            client.sendall(b"count\n")
            assert read_reply(client) == b"%d" % count
            server.wait_clean()
            server.wait_until(lambda: held(server) == 1, "to be stored")
            server.kill_all_but(first)
            shown = server.status()["edges"]
            assert shown["leaving"] == [first]
            assert first not in shown["pids"]
        server.wait_until(lambda: server.status()["edges"]["connections"] == 1, "to be told")
        client.sendall(b"count\n")
        assert read_reply(client) == b"4"
        assert server.status()["totals"]["lost"] == 0
        server.signal(signal.SIGTERM)
        assert client.recv(1) == b""  # goodbye was said
        assert server.wait_exit() == 0
        assert not os.path.exists(f"/proc/{first}")


@pytest.mark.parametrize(("model", "park_after"), [("prefork", "0.1"), ("async", "off")])
@pytest.mark.timeout(120)
def test_all_but_guard_and_edges_are_killed(tmp_path: Path, model: str, park_after: str) -> None:
    """First the keeper alone, then twice all that can be; the edge's own death ends them."""
    target = write_teller(tmp_path, TELLS, model, "@resumable")
    options = ("-k", model, *seats(model, CLIENTS + 1), *KEEP, "--park-after", park_after)
    bind = [f"127.0.0.1:0,{issue(tmp_path).text}"]
    with ExitStack() as stack:
        server = stack.enter_context(GuardedServer(tmp_path, target, *options, bind=bind))
        clients = [stack.enter_context(begin(server.address)) for _ in range(CLIENTS)]
        (first,) = edges(server)
        assert [ask(client)["count"] for client in clients] == [1, 1, 1]
        for number, spared in enumerate((None, (first,), (first,)), 2):
            server.wait_clean()
            server.wait_until(lambda: held(server) == CLIENTS, "all to be stored")
            if spared is None:
                server.kill_keeper()
            else:
                server.kill_all_but(*spared)
            for client in clients:
                facts = ask(client)
                assert facts["count"] == number
                assert facts["local"] == server.address
                assert facts["tls"]["sni"] == HOST
        assert server.status()["totals"]["lost"] == 0
        with begin(server.address) as late:
            assert ask(late)["count"] == 1
        server.reload()
        assert [ask(client)["count"] for client in clients] == [5, 5, 5]
        server.kill_all_but_guard()
        for client in clients:
            with pytest.raises(ssl.SSLEOFError):  # nobody can say goodbye for it
                client.recv(1)
        with begin(server.address) as late:
            assert ask(late)["count"] == 1
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert wait_exit(first, 5.0)
