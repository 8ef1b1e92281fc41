"""What a server logs: as JSON, to a file that is rotated, of connections and of failures."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, connect, read_reply, read_to_end, write_handler, write_source
from tests.server.support import accepts, seats
from tests.test_events import DECLARED

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class FileServer(Server):
    """A server that logs to ``server.log`` of its directory."""

    def __init__(self, directory: Path, target: str, *options: str) -> None:
        self.log = directory / "server.log"
        super().__init__(directory, target, *options, "--log-file", str(self.log), wait_ready=False)

    def lines(self, name: str = "server.log") -> list[dict[str, Any]]:
        """Return what stands in a log file, each line of which must be a JSON object."""
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines() if line]

    def wait_logged(self, name: str, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until so many events of that name stand in a log file; return the last."""

        def found() -> list[dict[str, Any]]:
            if not (self.directory / name).exists():
                return []
            return [line for line in self.lines(name) if line["event"] == event]

        self.wait_until(lambda: len(found()) >= count, f"{event!r} in {name}")
        return found()[-1]


def test_every_line_is_json(tmp_path: Path, model: str) -> None:
    """Each has time, level and event, from keeper and workers, and stderr has nothing else."""
    target = write_handler(tmp_path, "v0", "fails", is_async=model == "async")
    with (
        Server(tmp_path, target, *seats(model, 1), "--access-log") as server,
        connect(server.address) as peer,
    ):
        peer.sendall(b"fail\n")
        assert read_to_end(peer) == b""
        server.wait_event("connection")
        server.reload()
    assert len(server.stderr) == len(server.events) > 8
    for event in server.events:
        assert _TIME.fullmatch(event["time"]), event
        assert event["level"] in {"info", "warning", "error"}, event
    names = [event["event"] for event in server.events]
    assert names[0] == "control"
    assert names.index("listening") == names.index("ready") - 1
    assert names[-1] == "stopped"


def test_rotation(tmp_path: Path, model: str) -> None:
    """After a rename and SIGUSR1 every process writes to the new file, and no line is lost."""
    target = write_handler(tmp_path, "v0", "drained counter", is_async=model == "async")
    with FileServer(tmp_path, target, *seats(model, 2), "--access-log") as server:
        address = server.wait_logged("server.log", "listening")["address"]
        server.wait_logged("server.log", "ready")
        with connect(address) as peer, connect(address) as other:
            for one in (peer, other):
                one.sendall(b"1\n")
                assert read_reply(one) == b"1 1 v0"
            peer.close()
            server.wait_logged("server.log", "connection")
            server.log.rename(tmp_path / "server.log.1")
            server.signal(signal.SIGUSR1)
            server.wait_logged("server.log", "log reopened")
        server.wait_logged("server.log", "connection")
        with connect(address) as peer:
            pass
        server.wait_logged("server.log", "connection", 2)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert "connection" in [line["event"] for line in server.lines("server.log.1")]
        assert server.lines()[-1]["event"] == "stopped"
        assert server.stderr == []


def test_log_directory_that_is_gone(tmp_path: Path) -> None:
    """It is said on standard error, nothing ends, and the log goes on once there is a place."""
    target = write_handler(tmp_path, "v0", "drained counter", is_async=False)
    logs = tmp_path / "logs"
    logs.mkdir()
    options = ("-k", "fork", "--access-log", "--log-file", str(logs / "server.log"))
    bind = f"unix:{tmp_path}/listener"
    with Server(tmp_path, target, *options, bind=[bind], wait_ready=False) as server:
        server.wait_until(lambda: accepts(bind), "the listener")
        with connect(bind) as peer:
            peer.sendall(b"1\n")
            assert read_reply(peer) == b"1 1 v0"
            logs.rename(tmp_path / "old")
            server.signal(signal.SIGUSR1)
            server.wait_until(lambda: len(server.stderr) > 0, "a complaint of the keeper's")
            before = len(server.stderr)
            peer.sendall(b"2\n")
            assert read_reply(peer) == b"2 2 v0"
        server.wait_until(lambda: len(server.stderr) > before, "a complaint of the handler's")
        server.reload()
        logs.mkdir()
        server.signal(signal.SIGUSR1)
        log = logs / "server.log"
        server.wait_until(lambda: log.exists() and "log reopened" in log.read_text(), "the log")
        with connect(bind) as peer:
            peer.sendall(b"1\n")
            assert read_reply(peer) == b"1 1 v0"
        server.wait_until(lambda: '"event": "connection"' in log.read_text(), "its line")
    assert all(
        line.startswith("socketkeep: cannot write the log: ") and "No such file" in line
        for line in server.stderr
    )
    assert len(server.stderr) <= 4  # from keeper, handler, the worker that ended, and its successor


def test_full_disk(tmp_path: Path) -> None:
    """A line on standard error from each process that has something to say, and serving goes on."""
    target = write_handler(tmp_path, "v0", "drained counter", is_async=False)
    options = ("-k", "thread", "--access-log", "--log-file", "/dev/full")
    bind = f"unix:{tmp_path}/listener"
    with Server(tmp_path, target, *options, bind=[bind], wait_ready=False) as server:
        server.wait_until(lambda: accepts(bind), "the listener")
        for _ in range(20):
            with connect(bind) as peer:
                peer.sendall(b"1\n")
                assert read_reply(peer) == b"1 1 v0"
        assert server.cli("stop").exit_code == 0
        assert server.wait_exit() == 0
    complaint = "socketkeep: cannot write the log: [Errno 28] No space left on device"
    assert server.stderr == [complaint] * 2  # keeper and worker


_CHATTY = """
import logging
import os
from socketkeep import resumable

log = logging.getLogger("chat")
print("loaded")

RESUMABLE
def handle(conn):
    log.warning("called\\n")
    for line in conn.lines(commit=True):
        conn.name = line.decode()
        print("got", line.decode(), end="")
        print()
        log.info("named", extra={"size": len(line)})
        log.debug("too much")
        os.write(2, b"by number 2\\n")
        conn.send(line)
"""


@pytest.mark.parametrize(
    ("model", "resumable"),
    [("fork", False), ("prefork", True), ("thread", False), ("async", True), ("async", False)],
)
def test_what_the_code_logs_and_prints(tmp_path: Path, model: str, resumable: bool) -> None:
    """Once each, as objects, with the connection, and its name from when it has one."""
    source = _CHATTY.replace("RESUMABLE", "@resumable" if resumable else "")
    if model == "async":
        source = source.replace("def handle", "async def handle").replace("for l", "async for l")
        source = source.replace("conn.send", "await conn.send")
    with Server(tmp_path, write_source(tmp_path, source), *seats(model, 2)) as server:
        for name in ("ada", "bob"):
            with connect(server.address) as peer:
                peer.sendall(f"{name}\n".encode())
                assert peer.recv(10) == name.encode()
                where = f"127.0.0.1:{peer.getsockname()[1]}"
                called = server.wait_event("called\n", peer=where)
                assert (called["level"], called["logger"]) == ("warning", "chat")
                assert "name" not in called
                printed = server.wait_event(f"got {name}", peer=where)
                assert (printed["stream"], printed["id"]) == ("stdout", called["id"])
                logged = server.wait_event("named", peer=where)
                assert (logged["size"], logged["id"]) == (3, called["id"])
                assert (printed["name"], logged["name"]) == (name, name)
                assert read_to_end_of(peer) == b""
        (loaded,) = server.find("loaded")
        assert loaded["stream"] == "stdout"
        assert not server.find("too much")
        # It comes another way than what is logged, and so not in time with that.
        server.wait_until(lambda: server.stderr.count("by number 2") == 2, "what number 2 got")
    assert len(server.stderr) == len(server.events) + 2


def read_to_end_of(peer: socket.socket) -> bytes:
    peer.shutdown(socket.SHUT_WR)
    return read_to_end(peer)


_LAST_WORDS = """
import faulthandler
import os
import sys

faulthandler.enable()

def handle(conn):
    how = conn.recv(1)
    print("printed before the end")
    sys.stderr.write("half a line ")
    sys.stderr.flush()
    if how == b"c":
        os.abort()
    os.write(2, b"the very last words\\n")
    os._exit(3)
"""


@pytest.mark.parametrize("model", ["fork", "thread"])
def test_the_last_words_of_a_process_are_not_lost(tmp_path: Path, model: str) -> None:
    """What was printed is there, and what C writes to standard error is as it was."""
    with Server(tmp_path, write_source(tmp_path, _LAST_WORDS), *seats(model, 2)) as server:
        for how in (b"c", b"e"):
            with connect(server.address) as peer:
                peer.sendall(how)
                read_to_end(peer)
        server.wait_until(
            lambda: {"Fatal Python error: Aborted", "the very last words"} <= set(server.stderr),
            "what was written to number 2",
        )
        server.wait_event("printed before the end", count=2, stream="stdout")
        server.wait_event("half a line ", count=2, stream="stderr")


@pytest.mark.parametrize("model", ["fork", "async"])
def test_every_line_is_declared(tmp_path: Path, model: str) -> None:
    """Of a server through a reload, a failure and a death: name, level and fields."""
    target = write_handler(tmp_path, "v0", "fails", is_async=model == "async")
    options = (*seats(model, 2), "--access-log", "--connect-log", "--log-level", "debug")
    with Server(tmp_path, target, *options) as server:
        for said in (b"fail\n", b"x" * 70_000):
            with connect(server.address) as peer:
                peer.sendall(said)
                assert read_to_end(peer) == b""
        server.reload()
        with connect(server.address) as peer:
            peer.sendall(b"1\n")
            assert read_reply(peer)
            os.kill(server.workers()[0]["pid"], signal.SIGKILL)
            server.wait_event("worker exited", level="warning")
    of_the_server = [e for e in server.events if not {"logger", "stream"} & e.keys()]
    assert len(of_the_server) > 10
    for event in of_the_server:
        one = DECLARED[event["event"]]
        assert event["level"] in one.levels.split()
        known = "|".join(re.escape(each).replace(r"\*", ".*") for each in one.fields.split())
        for field in event.keys() - {"time", "level", "event", "repeated"}:
            assert re.fullmatch(known, field), event


@pytest.mark.parametrize("model", ["fork", "thread", "async"])
def test_a_storm_of_moves_is_no_storm_of_lines(tmp_path: Path, model: str) -> None:
    """A reload says in one line how many moved, and that they began and ended elsewhere."""
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    options = (*seats(model, 20), "--access-log", "--connect-log", "--park-after", "off")
    with ExitStack() as stack, Server(tmp_path, target, *options) as server:
        peers = [stack.enter_context(connect(server.address)) for _ in range(20)]
        for peer in peers:
            peer.sendall(b"1\n")
            assert read_reply(peer) == b"1 1 v0"
        server.wait_event("connected", count=20)
        server.wait_clean()
        since = server.mark()
        server.reload()
        gone = server.wait_event("earlier code gone", since=since)
        assert (gone["moved"], gone["ended"]) == (20, 0)
        exited = server.find("worker exited", since)
        assert sum(event["moved"] for event in exited) == 20
        for peer in peers:
            peer.sendall(b"2\n")
            assert read_reply(peer) == b"2 2 v0"
        told = server.events[since:]
        assert not [e for e in told if e["event"] in ("connection", "connected")]


def test_what_becomes_of_connections_after_a_death(tmp_path: Path) -> None:
    """Resumed or lost, by reason, in one line; of those lost ten are named."""
    target = write_handler(tmp_path, "v0", "asks back", is_async=False)
    options = ("-k", "thread", "-w", "1", "--threads", "30", "--park-after", "off")
    with (
        ExitStack() as stack,
        Server(tmp_path, target, *options, "--keep", "crash", "--keep-after", "0") as server,
    ):
        peers = [stack.enter_context(connect(server.address)) for _ in range(15)]
        for peer in peers[:12]:  # each has a question out, and has committed nothing since
            peer.sendall(b"1\n")
            assert peer.recv(100)
        server.wait_until(lambda: server.status()["connections"]["open"] == 15, "all served")
        server.wait_until(
            lambda: sum(each["committed"] for each in server.connections()) == 3, "the quiet ones"
        )
        (worker,) = server.workers()
        os.kill(worker["pid"], signal.SIGKILL)
        told = server.wait_event("connections after a death", pid=worker["pid"])
        assert (told["resumed"], told["lost_uncommitted"]) == (3, 12)
        named = server.find("connection lost", why="uncommitted")
        assert len(named) == 10
        lost = {f"127.0.0.1:{peer.getsockname()[1]}" for peer in peers[:12]}
        assert {event["peer"] for event in named} <= lost


def test_human_format(tmp_path: Path) -> None:
    """One line an event: time, level, event, fields; a traceback below its line."""
    target = write_handler(tmp_path, "v0", "fails", is_async=False)
    with Server(tmp_path, target, "--log-format", "human", wait_ready=False) as server:
        server.wait_until(
            lambda: any(" ready generation=1 " in line for line in server.stderr), "ready"
        )
        (line,) = [line for line in server.stderr if " listening " in line]
        time, level, rest = line.split(maxsplit=2)
        assert _TIME.fullmatch(time)
        assert level == "info"
        address = rest.removeprefix("listening address=")
        with connect(address) as peer:
            peer.sendall(b"fail\n")
            assert read_to_end(peer) == b""
        server.wait_until(
            lambda: "  RuntimeError: the handler was told to fail" in server.stderr, "traceback"
        )
        (failed,) = [line for line in server.stderr if " handler failed " in line]
        assert re.search(r" error +handler failed id=\S+ peer=127\.0\.0\.1:\d+$", failed)


def test_level(tmp_path: Path) -> None:
    """--log-level warning leaves out what is in order."""
    target = write_handler(tmp_path, "v0", is_async=False)
    bind = f"unix:{tmp_path}/listener"
    options = ("--log-level", "warning")
    with Server(tmp_path, target, *options, bind=[bind], wait_ready=False) as server:
        server.wait_until(lambda: accepts(bind), "the listener")
        with connect(bind) as peer:
            peer.sendall(b"1\n")
            assert read_reply(peer) == b"1 1 v0"
    assert server.stderr == []


def _reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_access_log(tmp_path: Path, model: str) -> None:
    """A line for each connection at its end, with who, how long, how much and how."""
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    with Server(tmp_path, target, *seats(model, 2), "--access-log") as server:
        peer = connect(server.address)
        port = peer.getsockname()[1]
        peer.sendall(b"12345\n")
        assert read_reply(peer) == b"1 12345 v0"
        (shown,) = server.connections()
        peer.close()
        event = server.wait_event("connection")
        assert event["id"] == shown["id"]
        assert event["peer"] == f"127.0.0.1:{port}"
        assert event["listener"] == server.address
        assert 0 < event["duration"] < 30
        assert (event["bytes_in"], event["bytes_out"]) == (6, 11)
        assert (event["ended"], event["why"]) == ("closed", "the peer ended it")
        other = connect(server.address)
        other.sendall(b"1\n")
        assert read_reply(other) == b"1 1 v0"
        _reset(other)
        event = server.wait_event("connection", count=2)
        assert (event["ended"], event["why"]) == ("reset", "reset by the peer")

        def counted() -> bool:
            totals = server.status()["totals"]
            return (totals["closed"], totals["reset"], totals["handler_errors"]) == (1, 1, 0)

        server.wait_until(counted, "each counted for how it ended")


_ENDS = """
from socketkeep import resumable

@resumable
def handle(conn):
    for line in conn.lines(commit=True):
        if line == b"return":
            return
        if line == b"fail":
            raise RuntimeError
        if line == b"wait":
            conn.recv(timeout=0.05)
        conn.send(line)
"""


def test_why_a_connection_ended(tmp_path: Path, model: str) -> None:
    """The access log tells in words who or what ended it."""
    source = _ENDS
    if model == "async":
        source = re.sub(r"(conn\.(recv|send)\()", r"await \1", source)
        source = source.replace("def handle", "async def handle").replace(
            "for line", "async for line"
        )
    target = write_source(tmp_path, source)
    options = (*seats(model, 2), "--access-log", "--idle-timeout", "5")
    with Server(tmp_path, target, *options, "--park-after", "off") as server:

        def why(port: int, count: int = 1) -> object:
            event = server.wait_event("connection", count=count, peer=f"127.0.0.1:{port}")
            return event["why"]

        for said, expected in (
            (b"return\n", "the handler ended it"),
            (b"fail\n", "the handler failed"),
            (b"wait\n", "the peer took too long"),
            (b"x" * 70_000, "the peer's message is longer than its bound"),
            (b"", "idle for 5 s"),
        ):
            with connect(server.address) as peer:
                port = peer.getsockname()[1]
                peer.sendall(said)
                assert read_to_end(peer) == b""
            assert why(port) == expected
            told = [
                each["level"] for each in server.events if each.get("peer") == f"127.0.0.1:{port}"
            ]
            assert told == {
                "the handler failed": ["error", "info"],
                "the peer took too long": ["info", "info"],
                "the peer's message is longer than its bound": ["info", "info"],
            }.get(expected, ["info"])
        with connect(server.address) as peer:
            port = peer.getsockname()[1]
        assert why(port) == "the peer ended it"
        with connect(server.address) as peer:
            port = peer.getsockname()[1]
            peer.sendall(b"x\n")
            assert peer.recv(1) == b"x"
            server.ask("reload")
            # On its way to the new code, at the stop, it would be the keeper that ends it.
            server.wait_event("earlier code gone", moved=1)
            peer.sendall(b"x\n")
            assert peer.recv(1) == b"x"
            server.signal(signal.SIGTERM)
            assert read_to_end(peer) == b""
        assert why(port) == "the server is stopping"


def test_no_access_log_unless_asked_for(tmp_path: Path) -> None:
    """It is an option."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Server(tmp_path, target) as server:
        with connect(server.address) as peer:
            peer.sendall(b"1\n")
            assert read_reply(peer) == b"1 1 v0"
        server.wait_until(lambda: server.status()["totals"]["closed"] == 1, "its end")
        assert not server.find("connection")


_FAILING = """
async def inner(conn):
    raise LookupError("no such order")

def handle(conn):
    line = conn.recv_until(b"\\n")
    if line == b"exit":
        raise SystemExit(7)
    conn.send(b"half a reply")
    raise LookupError("no such order")

async def handle_async(conn):
    line = await conn.recv_until(b"\\n")
    if line == b"exit":
        raise SystemExit(7)
    await conn.send(b"half a reply")
    await inner(conn)
"""


def test_handler_exception(tmp_path: Path, model: str) -> None:
    """Its traceback is logged without our frames, and counted; the peer gets an orderly end."""
    write_source(tmp_path, _FAILING)
    target = f"{tmp_path}/handlers.py:handle{'_async' if model == 'async' else ''}"
    with Server(tmp_path, target, *seats(model, 3)) as server:
        with connect(server.address) as bystander:
            with connect(server.address) as peer:
                # Unread data in the server's queue, which must not turn the end into a reset.
                peer.sendall(b"go\n" + b"never read" * 10_000)
                assert read_to_end(peer) == b"half a reply"
                name = f"127.0.0.1:{peer.getsockname()[1]}"
            event = server.wait_event("handler failed", level="error", peer=name)
            assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+-[0-9a-f]+", event["id"])
            lines = event["traceback"].splitlines()
            assert lines[0].startswith("Traceback")
            assert lines[-1] == "LookupError: no such order"
            files = [line for line in lines if line.startswith("  File ")]
            assert all(f'"{tmp_path}/handlers.py"' in line for line in files), lines
            assert files
            bystander.sendall(b"exit\n")
            assert read_to_end(bystander) == b""
        server.wait_until(lambda: server.status()["totals"]["closed"] == 2, "both ended")
        totals = server.status()["totals"]
        assert (totals["handler_errors"], totals["worker_deaths"]) == (1, 0)
        server.wait_event("handler failed")
        assert len(server.find("handler failed")) == 1
