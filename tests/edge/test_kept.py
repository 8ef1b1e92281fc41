"""TLS connections outlive what plain ones do: reloads, the death of workers, upgrades, parking."""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path
from typing import Final

import pytest

from tests.edge.support import ask, begin, crowd, edges, serving
from tests.harness import read_reply
from tests.harness.processes import wait_exit

_CRASH = ("--keep", "crash", "--keep-after", "0.01")


@pytest.mark.parametrize(
    ("model", "decorated"),
    [("fork", "@resumable"), ("thread", "@resumable(redeliver=True)"), ("async", "@resumable")],
)
def test_reload_crash_and_upgrade(model: str, decorated: str, tmp_path: Path) -> None:
    """The same session goes on in worker after worker, and each has the facts of its TLS."""
    options = (*_CRASH, "--park-after", "off", "-w", "3")
    with (
        serving(tmp_path, model, *options, decorated=decorated) as server,
        begin(server.address) as first,
        begin(server.address) as second,
    ):
        socks = (first, second)
        before = edges(server)

        def told(attached: str, count: int) -> set[int]:
            pids = set()
            for sock in socks:
                facts = ask(sock)
                assert (facts["attached"], facts["count"]) == (attached, count)
                assert facts["peer"] == f"127.0.0.1:{sock.getsockname()[1]}"
                assert facts["local"] == server.address
                assert facts["tls"]["version"] == "TLSv1.3"
                assert facts["tls"]["sni"] == "keeper.example"
                assert not facts["proxy"]
                pids.add(facts["pid"])
            return pids

        told("accepted", 1)
        server.reload()
        serve = told("reload", 2)
        server.wait_until(lambda: server.status()["connections"]["kept"] == 2, "kept")
        server.wait_clean()
        for pid in serve:
            os.kill(pid, signal.SIGKILL)
        told("crash", 3)
        assert server.cli("upgrade").exit_code == 0
        told("upgrade", 4)
        assert server.status()["totals"]["lost"] == 0
        server.wait_event("edge leaves")
        shown = server.status()["edges"]  # by the next keeper, which was told
        assert (shown["leaving"], shown["connections"]) == (before, 2)
        assert shown["handshakes"] == {"TLSv1.3": 2}
        with begin(server.address) as late:
            assert ask(late)["count"] == 1
        assert sorted(edges(server)) == sorted([*before, *shown["pids"]])
        told("upgrade", 5)
    assert wait_exit(before[0], 20)


_REPLIES: Final = """
from socketkeep import Connection, resumable

@resumable(redeliver=True)
def handle(conn: Connection) -> None:
    count = conn.state or 0
    for line in conn.lines():
        if line == b"sent":
            conn.send(b"sent %s\\n" % conn.attached.encode())
            conn.commit(count)
        else:
            count += 1
            conn.reply(b"%d\\n" % count, state=count)
"""


def test_an_edge_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A stopped edge tells nothing: a connection with a record of a reply, which may be out or
    not, is ended, and others go on."""
    (tmp_path / "app.py").write_text(_REPLIES)
    options = (*_CRASH, "--park-after", "off", "-w", "2", "--orphan-timeout", "1")
    with (
        serving(tmp_path, "thread", *options, target="app:handle") as server,
        begin(server.address) as replied,
        begin(server.address) as sent,
    ):
        for sock, word, answer in ((replied, b"count", b"1"), (sent, b"sent", b"sent accepted")):
            sock.sendall(word + b"\n")
            assert read_reply(sock) == answer
        server.wait_until(lambda: server.status()["connections"]["kept"] == 2, "kept")
        server.wait_clean()
        (edge,) = edges(server)
        os.kill(edge, signal.SIGSTOP)
        try:
            for worker in server.workers():
                os.kill(worker["pid"], signal.SIGKILL)
            assert server.wait_event("an edge does not answer")["pid"] == edge
            server.wait_until(lambda: server.status()["totals"]["lost"] == 1, "ended")
            server.wait_until(lambda: server.status()["totals"]["attached"]["crash"] == 1, "on")
        finally:
            os.kill(edge, signal.SIGCONT)
        # Cut short, which the client can tell.  Python's ssl names a reset by its version.
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            replied.recv(100)
        sent.sendall(b"sent\ncount\n")
        assert read_reply(sent) == b"sent crash"
        assert read_reply(sent) == b"1"


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_parked(model: str, tmp_path: Path) -> None:
    """While a client is silent only the keeper and the edge have its connection."""
    with (
        serving(tmp_path, model, "--park-after", "0.05") as server,
        begin(server.address) as sock,
    ):
        ask(sock)
        for what in ("upgrade", "reload"):
            server.wait_until(lambda: server.status()["connections"]["parked"] == 1, "parked")
            assert server.cli(what).exit_code == 0
            assert ask(sock)["attached"] == "parked"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("model", "clients"), [("thread", 60), ("async", 200)])
def test_a_crowd_through_everything(model: str, clients: int, tmp_path: Path) -> None:
    """Clients that go on asking: none is cut, and no answer is lost or out of order.

    An answer may come again where its worker was killed between it and the commit.
    """
    options = (*_CRASH, "-w", "2", "--park-after", "off")
    decorated = "@resumable(redeliver=True)"
    with serving(tmp_path, model, *options, decorated=decorated) as server:
        with crowd(server.address, clients, again=True) as asking:
            server.reload()
            asking.wait_answers(2 * clients)
            assert server.cli("upgrade").exit_code == 0
            asking.wait_answers(2 * clients)
            server.wait_until(lambda: server.status()["connections"]["kept"] == clients, "kept")
            for worker in server.workers():
                os.kill(worker["pid"], signal.SIGKILL)
            asking.wait_answers(4 * clients)
            server.reload()
            asking.wait_answers(2 * clients)
        assert {"reload", "upgrade", "crash"} <= asking.attached.keys()
        assert server.status()["totals"]["lost"] == 0


def test_more_edges_than_one(tmp_path: Path) -> None:
    """Each takes its part; after upgrades as many are new, and who serves nobody has left."""
    with serving(tmp_path, "async", "--edges", "2") as server:
        server.wait_event("edge ready", count=2)
        before = sorted(edges(server))
        assert len(before) == 2
        with crowd(server.address, 20) as asking:
            for upgrades in (1, 2):
                assert server.cli("upgrade").exit_code == 0
                server.wait_event("edge leaves", count=2 * upgrades)
                asking.wait_answers(60)
            assert server.status()["edges"]["connections"] == 20
        server.wait_event("edge has left", count=4)
        shown = server.status()["edges"]
        assert shown["leaving"] == []
        assert sorted(edges(server)) == shown["pids"]
        assert not set(before) & set(shown["pids"])


def test_an_edge_leaves_in_time(tmp_path: Path) -> None:
    """With --edge-drain connections of before an upgrade are reset; later ones go on."""
    with serving(tmp_path, "async", "--edge-drain", "1") as server, begin(server.address) as old:
        ask(old)
        assert server.cli("upgrade").exit_code == 0
        server.wait_event("edge leaves")
        with begin(server.address) as late:
            assert ask(late)["count"] == 1
            with pytest.raises(OSError, match=r"reset|EOF"):
                old.recv(1)
            server.wait_event("edge has left")
            assert ask(late)["count"] == 2
