"""Two and three servers in one cluster, over a real broker."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from socketkeep import Client, Presence, Published
from tests.admin.web import admin_port, fetch
from tests.cluster.broker import Broker
from tests.harness import Server
from tests.harness.peers import connect
from tests.peer.test_pushes import Peer

HANDLER = """
from socketkeep import *

@resumable(on_crash="resume")
async def handle(conn):
    async for line in conn.lines():
        verb, _, rest = line.decode().partition(" ")
        to, _, text = rest.partition(" ")
        answer = "ok"
        if verb == "name":
            conn.name = rest
        elif verb == "join":
            conn.join(rest)
        elif verb == "push":
            told = await push(to, text.encode() + b"\\n", timeout=3)
            answer = f"{told.outcome} {told.node.rpartition('/')[2]}".strip()
        elif verb == "many":
            asked = [push(to, b"%d\\n" % number) for number in range(int(text))]
            answer = " ".join([(await each).outcome for each in asked])
        elif verb == "publish":
            done = await publish(to, text.encode() + b"\\n", timeout=3)
            answer = f"{done.delivered} {done.failed}"
        elif verb == "who":
            found = await who(rest, timeout=3)
            nodes = sorted(each.node.rpartition("/")[2] or "here" for each in found.found)
            answer = " ".join([*nodes, "" if found.complete else "?"]).strip()
        await conn.send(answer.encode() + b"\\n")
        conn.commit()
"""


def serve(directory: Path, name: str, cluster: str, *options: str) -> Server:
    """Return a server that is to be a node."""
    directory = directory / name
    directory.mkdir()
    (directory / "app.py").write_text(HANDLER)
    lease = ("--cluster-lease", "2")
    variable = {"SOCKETKEEP_CLUSTER": cluster}
    return Server(directory, "app:handle", "--name", name, *lease, *options, environment=variable)


def joined(server: Server, nodes: int) -> None:
    """Wait until it is in the cluster with so many nodes."""

    def there() -> bool:
        cluster = server.status()["cluster"]
        return bool(cluster["state"] == "connected" and len(cluster["nodes"]) == nodes)

    server.wait_until(there, f"{nodes} nodes")


def cluster_of(server: Server) -> Any:
    return server.status()["cluster"]


@contextmanager
def peer(server: Server, *words: str) -> Iterator[Peer]:
    """Connect, and have the handler do as each of the lines says."""
    made = Peer(connect(server.address))
    try:
        for word in words:
            assert made.ask(word) == "ok"
        yield made
    finally:
        made.close()


def answers(asking: Peer, text: str, wanted: str, server: Server) -> None:
    """Ask until it is answered so: what one node has just said reaches the others in a while."""
    server.wait_until(lambda: asking.ask(text) == wanted, f"{text}: {wanted}")


def test_a_life_of_three_nodes(tmp_path: Path) -> None:
    """Pushes, groups, a takeover, a reload, a node's death, and a broker that goes and comes."""
    with (
        Broker(tmp_path / "broker") as broker,
        serve(tmp_path, "a", broker.url, "--admin", "127.0.0.1:0") as a,
        serve(tmp_path, "b", broker.url) as b,
        serve(tmp_path, "c", broker.url) as c,
    ):
        for server in (a, b, c):
            joined(server, 3)
        with (
            peer(a, "name alpha", "join room:1") as alpha,
            peer(b, "name beta", "join room:1") as beta,
            peer(c, "name a strange.name *", "join room:1", "join c's") as gamma,
        ):
            # By name, in order; who is nowhere is told so at once.
            answers(alpha, "who beta", "b", a)
            assert alpha.ask("push beta hello") == "delivered b"
            assert beta.hear() == "hello"
            assert alpha.ask("push nobody hello") == "not connected"
            assert alpha.ask("many beta 50") == " ".join(["delivered"] * 50)
            assert [beta.hear() for _ in range(50)] == [str(n) for n in range(50)]
            told = b.cli("push", "a strange.name *", "from b", "--newline")
            assert told.stdout.startswith("delivered: ")
            assert told.stdout.endswith("/c\n")
            assert gamma.hear() == "from b"

            # Groups, of which each node knows its own members.
            answers(alpha, "who room:1", "b c here", a)
            alpha.sock.sendall(b"publish room:1 all\n")
            assert [alpha.hear(), alpha.hear()] == ["all", "3 0"]
            assert [beta.hear(), gamma.hear()] == ["all", "all"]
            assert alpha.ask("publish c's one") == "1 0"
            assert gamma.hear() == "one"
            assert alpha.ask("publish nobody's one") == "0 0"
            assert Client(b.control).publish("c's", b"two\n") == Published(1, 0)
            assert gamma.hear() == "two"
            found = Client(b.control).who("alpha").found
            assert found == (Presence(cluster_of(a)["node"], found[0].id, 1, "alpha"),)
            shown = b.cli("who", "room:1").stdout
            assert shown.count("member") == 3
            assert shown.count("here") == 1

            # A name that is taken by a connection of another node.
            with peer(c, "name beta") as other:
                assert beta.hear() == ""  # closed
                answers(alpha, "who beta", "c", a)
                assert alpha.ask("push beta it is you") == "delivered c"
                assert other.hear() == "it is you"
            answers(alpha, "push beta gone", "not connected", a)

            # A reload moves connections, and nothing else.
            c.reload()
            assert alpha.ask("push a strange.name * x") == "not connected"
            assert a.cli("push", "a strange.name *", "moved", "-n").exit_code == 0
            assert gamma.hear() == "moved"

            # A node that dies is gone when its lease is over.
            for pid in (c.pid, *c.processes()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            answers(alpha, "who a strange.name *", "", a)
            assert a.cli("push", "a strange.name *", "x").stdout == "not connected\n"
            joined(a, 2)

            # Without a broker the machine's own names go on, and it is said.
            with peer(a, "name here") as here:
                broker.kill()
                a.wait_until(lambda: cluster_of(a)["state"] == "away", "away")
                assert alpha.ask("push here still") == "delivered"
                assert here.hear() == "still"
                answers(alpha, "push beta x", "unreachable", a)
                assert alpha.ask("who here") == "here ?"
                assert alpha.ask("publish room:1 x") == "x"
                assert alpha.hear() == "1 1"
                port = admin_port(a)
                ready = fetch(port, "/readyz")
                assert ready.status == 200
                assert ready.text.startswith("ready\ncluster away since ")
                assert "socketkeep_cluster_connected 0.0" in fetch(port, "/metrics").text
                assert "no broker can be reached (127.0.0.1:" in a.cli("status").stdout
                # A name that another node takes meanwhile is the later one's.
                with peer(b, "name here") as there:
                    broker.start()
                    for server in (a, b):
                        joined(server, 2)
                    assert here.hear() == ""
                    answers(alpha, "push here now", "delivered b", a)
                    assert there.hear() == "now"
                # The cluster's process tells the keeper, and that the page's: a moment later.
                a.wait_until(lambda: fetch(port, "/readyz").text == "ready\n", "it is back")
                assert "socketkeep_cluster_connected 1.0" in fetch(port, "/metrics").text
                taken = "socketkeep_cluster_names_taken_total 1.0"
                a.wait_until(lambda: taken in fetch(port, "/metrics").text, taken)


def test_its_process_dies_and_the_server_is_upgraded(tmp_path: Path) -> None:
    with (
        Broker(tmp_path / "broker") as broker,
        serve(tmp_path, "a", broker.url) as a,
        serve(tmp_path, "b", broker.url) as b,
        peer(a, "name alpha") as alpha,
        peer(b, "name beta") as beta,
    ):
        answers(alpha, "push beta 1", "delivered b", a)
        assert beta.hear() == "1"
        first = cluster_of(b)["pid"]
        os.kill(first, signal.SIGKILL)
        b.wait_event("the cluster's process ended")
        answers(alpha, "push beta 2", "delivered b", a)
        assert beta.hear() == "2"
        assert cluster_of(b)["pid"] != first
        assert b.cli("upgrade").exit_code == 0
        answers(alpha, "push beta 3", "delivered b", a)
        assert beta.hear() == "3"
        assert beta.ask("push alpha 4") == "delivered a"
        assert alpha.hear() == "4"
        # A broker that stands still is none, and one that goes on is one again.
        broker.signal(signal.SIGSTOP)
        a.wait_until(lambda: cluster_of(a)["state"] == "away", "away")
        broker.signal(signal.SIGCONT)
        answers(alpha, "push beta 5", "delivered b", a)
        assert beta.hear() == "5"
        # One that stops is gone at once, with its names.
        beta.close()
        b.signal(signal.SIGTERM)
        assert b.wait_exit() == 0
        answers(alpha, "who beta", "", a)
        joined(a, 1)


@pytest.mark.parametrize("wrong", ["target", "credentials", "jetstream"])
def test_what_is_refused(tmp_path: Path, wrong: str) -> None:
    """It is said in one line, the server serves, and joins once it is mended."""
    options = ("--user", "gate", "--pass", "right") if wrong == "credentials" else ()
    with Broker(tmp_path / "broker", *options, jetstream=wrong != "jetstream") as broker:
        url = broker.url.replace("//", "//gate:right@") if options else broker.url
        with contextlib.ExitStack() as stack:
            if wrong == "target":
                a = stack.enter_context(serve(tmp_path, "a", url))
                joined(a, 1)
                (tmp_path / "other.py").write_text(HANDLER)
                cluster = ("--cluster", url, "--cluster-name", "app", "--cluster-lease", "2")
                b = stack.enter_context(Server(tmp_path, "other:handle", *cluster))
                said = "the cluster 'app' serves app:handle, and this server other:handle"
            elif wrong == "credentials":
                b = stack.enter_context(serve(tmp_path, "b", url.replace("right", "wrong")))
                said = f"the broker refuses the credentials (127.0.0.1:{broker.port})"
            else:
                b = stack.enter_context(serve(tmp_path, "b", url))
                said = "the broker has no JetStream"
            error = b.wait_event("cluster not joined")["error"]
            assert error.startswith(said)
            assert "wrong@" not in "\n".join(b.stderr)
            b.wait_until(lambda: cluster_of(b)["state"] == "refused", "refused")
            with peer(b, "name beta") as beta, peer(b) as other:
                assert other.ask("push beta x") == "delivered"
                assert beta.hear() == "x"
                assert other.ask("push alpha x") == "unreachable"
            if wrong == "target":
                a.signal(signal.SIGTERM)
                assert a.wait_exit() == 0
                joined(b, 1)
