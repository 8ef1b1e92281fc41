"""What a server logs: as JSON, to a file that is rotated, of connections and of failures."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
from pathlib import Path
from typing import Any

from tests.harness import Server, connect, read_reply, read_to_end, write_handler, write_source
from tests.server.support import PrefixedServer, accepts, seats

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


def test_what_the_code_prints(tmp_path: Path) -> None:
    """It goes to standard output at once, and once, however many processes are forked."""
    target = write_source(
        tmp_path,
        "print('loaded')\ndef handle(conn):\n    print('called')\n    conn.send(conn.recv())\n",
    )
    out = tmp_path / "out"
    prefix = ["env", "-u", "PYTHONUNBUFFERED", "sh", "-c", f'exec "$@" >{out}', "sh"]
    with PrefixedServer(prefix, tmp_path, target, "-k", "fork", "-w", "2") as server:
        assert out.read_text() == "loaded\n"
        with connect(server.address) as peer:
            server.wait_until(lambda: "called" in out.read_text(), "what the handler prints")
            peer.sendall(b"1")
            assert read_to_end(peer) == b"1"
        with connect(server.address) as peer:
            peer.sendall(b"1")
            assert read_to_end(peer) == b"1"
    assert out.read_text() == "loaded\ncalled\ncalled\n"


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
            assert why(port) == "moved to another worker"
            peer.sendall(b"x\n")
            assert peer.recv(1) == b"x"
            server.signal(signal.SIGTERM)
            assert read_to_end(peer) == b""
        assert why(port, 2) == "the server is stopping"


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
        assert len(server.find("handler failed")) == 1
