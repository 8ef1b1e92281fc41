"""Workers die, hang and are killed under connections that are kept; the peers' side of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect, read_reply
from tests.harness.processes import wait_exit
from tests.peer.conftest import Site
from tests.peer.told import Peers, name_of, told

KEPT: Final = ("--keep", "crash", "--keep-after", "0.01", "--park-after", "off")
#: One of each process in which a connection can be, for each way to deal with it.
POLICIES: Final = [
    ("fork", "close", "FIN"),
    ("prefork", "close", "FIN"),
    ("thread", "reset", "RST"),
    ("async", "reset", "RST"),
    ("fork", "resume", ""),
    ("async", "resume", ""),
]


@contextmanager
def kept(site: Site, number: int, *options: str, decorated: str = "") -> Iterator[Peers]:
    """Serve peers that the keeper holds too, and whose first answer is committed.

    An answer is out before its commit is made: a worker that dies in between, by what another of
    its connections is told, has that one judged too.
    """
    with told(site, number, *KEPT, *options, decorated=decorated) as peers:
        wait_kept(peers.server, number)
        peers.server.wait_clean()
        yield peers


def wait_kept(server: Server, number: int) -> None:
    server.wait_until(
        lambda: server.status()["connections"]["kept"] == number, f"{number} kept", 10.0
    )


def test_clean_connections_outlive_their_process(tcp_site: Site) -> None:
    """They go on in another one, with the state of their last commit; the peers see nothing.

    However often, and however it dies: it is no poison.
    """
    with kept(tcp_site, 3) as peers:
        crashes = 0
        for how in ("outside", "exit", "segv", "outside"):
            before = peers.owners()
            if how == "outside":
                os.kill(before[0], signal.SIGKILL)
            else:
                peers.ask(0, f"later-{how}")
            assert wait_exit(before[0], 10.0)
            for index, owner in enumerate(before):
                attached, redelivered = peers.ask(index, "again")
                assert (attached == "crash") >= (owner == before[0])
                assert not redelivered
            crashes += before.count(before[0])
            wait_kept(peers.server, 3)
        totals = peers.server.status()["totals"]
        assert (totals["lost"], totals["poisoned"]) == (0, 0)
        assert totals["attached"]["crash"] == crashes


@pytest.mark.parametrize("model", ["thread", "async"])
def test_a_worker_that_raises(model: str, tmp_path: Path) -> None:
    """It is a crash like any other, and ends no connection on its way out."""
    site = Site(model, "ipv4", tmp_path)
    with kept(site, 3) as peers:
        before = peers.owners()
        os.kill(before[0], signal.SIGURG)
        assert wait_exit(before[0], 10.0)
        peers.server.wait_event("worker failed")
        for index, owner in enumerate(before):
            attached, _ = peers.ask(index, "again")
            assert (attached == "crash") >= (owner == before[0])
        assert peers.server.status()["totals"]["lost"] == 0


def test_the_workers_of_forked_children_die(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The children serve on; what dies later goes to the children of other workers."""
    site = Site("fork", "ipv4", tmp_path_factory.mktemp("fork"))
    with kept(site, 4) as peers:
        parents = [each["pid"] for each in peers.server.workers()]
        children = peers.owners()
        for pid in parents:
            os.kill(pid, signal.SIGKILL)
            assert wait_exit(pid, 10.0)
        for index in range(4):
            assert peers.ask(index, "again") == ("accepted", False)
        assert peers.owners() == children
        os.kill(children[0], signal.SIGKILL)
        assert wait_exit(children[0], 10.0)
        assert peers.ask(0, "again") == ("crash", False)
        assert peers.ask(1, "again") == ("accepted", False)


@pytest.mark.parametrize(("model", "on_crash", "end"), POLICIES)
def test_in_the_middle_of_a_message(
    model: str, on_crash: str, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Having received, or having sent, something that was not committed."""
    site = Site(model, "ipv4", tmp_path_factory.mktemp(model))
    with kept(site, 2, decorated=f"on_crash={on_crash!r}") as peers:
        peers.tell(0, "now-kill")
        if end:
            assert peers.end(0) == end
        else:
            # What had been received and not committed is gone with its handler.
            peers.server.wait_until(
                lambda: peers.server.status()["totals"]["attached"]["crash"] >= 1, "resumed"
            )
            peers.asked[0] -= 1
            assert peers.ask(0, "again") == ("crash", False)
        peers.tell(1, "half-kill")
        assert read_reply(peers.socks[1]) == b"half of an answer"
        if end:
            assert peers.end(1) == end
            peers.server.wait_until(
                lambda: peers.server.status()["totals"]["lost"] == 2, "both lost"
            )
        else:
            peers.server.wait_until(
                lambda: peers.server.status()["totals"]["attached"]["crash"] >= 2, "resumed"
            )
            peers.asked[1] -= 1
            assert peers.ask(1, "again") == ("crash", False)


def test_a_message_is_delivered_again(tcp_site: Site) -> None:
    """The answers come in order, once; after the third death its connection is reset.

    One beside it in the same workers is kept.
    """
    with kept(tcp_site, 2, decorated="redeliver=True") as peers:
        peers.tell(0, "once-kill")
        peers.tell(0, "more")
        assert peers.hear(0, "once-kill", behind=1) == ("crash", True)
        assert peers.hear(0, "more")[0] == "crash"
        peers.tell(0, "now-kill")
        assert peers.end(0) == "RST"
        event = peers.server.wait_event("poisoned")
        assert event["peer"] == name_of(peers.socks[0])
        assert event["deaths"] == 3
        assert peers.ask(1, "again")[0] in ("accepted", "crash")
        totals = peers.server.status()["totals"]
        assert (totals["poisoned"], totals["lost"]) == (1, 1)


def has_stopped(pid: int) -> bool:
    """Whether each thread of the process has: the signal takes its time."""
    states = [
        stat.read_text().rpartition(")")[2] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return all(state.split()[0] == "T" for state in states)


@pytest.mark.parametrize("model", ["prefork", "thread", "async"])
def test_a_worker_that_hangs_is_dead_before_its_connections_go_on(
    model: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Continued, it would write into a stream that another worker serves."""
    site = Site(model, "ipv4", tmp_path_factory.mktemp(model))
    with kept(site, 2, "--worker-timeout", "1") as peers:
        stopped = peers.owners()[0]
        os.kill(stopped, signal.SIGSTOP)
        peers.server.wait_until(lambda: has_stopped(stopped), "each of its threads stopped")
        pidfd = os.pidfd_open(stopped)
        try:
            assert peers.ask(0, "again") == ("crash", False)
            with pytest.raises(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)
        peers.server.wait_event("worker killed: it made no progress", pid=stopped)
        for index in range(2):
            peers.ask(index, "more")
            peers.socks[index].setblocking(False)
            with pytest.raises(BlockingIOError):
                peers.socks[index].recv(1)


def test_an_end_is_an_end_though_the_keeper_has_a_handle(some_site: Site) -> None:
    ends = {"abort": "RST", "close": "FIN", "release": "FIN", "eof": "FIN"}
    with kept(some_site, len(ends) + 1) as peers:
        for index, (word, end) in enumerate(ends.items()):
            peers.tell(index, word)
            assert peers.end(index) == end, word
            peers.socks[index].close()
        wait_kept(peers.server, 1)
        assert peers.ask(len(ends), "again") == ("accepted", False)


_DEADLINES: Final = """
import os
from socketkeep import AsyncConnection, Connection, Deadline, resumable
@resumable
def handle(conn: Connection) -> None:
    for line in conn.lines():
        if line.startswith(b"in "):
            conn.deadline = Deadline.after(float(line[3:]))
        elif line == b"lift":
            conn.deadline = None
        conn.send(b"%d %s\\n" % (os.getpid(), conn.attached.encode()))
        conn.commit()
"""


@pytest.mark.parametrize("model", ["fork", "async"])
def test_a_deadline_outlives_the_worker(model: str, tmp_path: Path) -> None:
    """It ends the connection in the next one, and the one after; what was lifted stays so."""
    source = _DEADLINES
    if model == "async":
        source = source.replace("def handle(conn: ", "async def handle(conn: Async")
        source = source.replace("for line", "async for line")
        source = source.replace("conn.send", "await conn.send")
    (tmp_path / "app.py").write_text(source)
    with Server(tmp_path, "app.py:handle", "-k", model, *KEPT) as server, ExitStack() as stack:
        timed, lifted = (stack.enter_context(connect(server.address)) for _ in range(2))
        for line in (b"in 3600\n", b"in 6\n"):  # the last counts
            began = time.monotonic()
            for peer in (timed, lifted):
                peer.sendall(line)
                owner = int(read_reply(peer).split()[0])
        lifted.sendall(b"lift\n")
        assert read_reply(lifted).endswith(b"accepted")
        for _ in range(2):
            for peer in (timed, lifted):
                peer.sendall(b"who\n")
                owner = int(read_reply(peer).split()[0])
                wait_kept(server, 2)
                server.wait_clean()
                with suppress(ProcessLookupError):  # in one worker both are
                    os.kill(owner, signal.SIGKILL)
                assert wait_exit(owner, 10.0)
        assert timed.recv(1) == b""
        assert 6 <= time.monotonic() - began < 12
        server.wait_event("connection timed out", why="its deadline has passed")
        lifted.sendall(b"who\n")
        assert read_reply(lifted).endswith(b"crash")
