"""The commands to a running server, as a user or a script meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.admin import web
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, done, progress
from tests.harness.command import main

STATUS = replace(
    web.STATUS,
    pid=4321,
    core="compiled core",
    uptime=3725.0,
    model="fork",
    keep="reload",
    generation=7,
    listeners=[replace(web.STATUS.listeners[0], address="127.0.0.1:7000", dropped=12)],
    connections=replace(web.STATUS.connections, open=5, owned=4, moving=1),
)
WORKER = web.worker(0, 77, 7, connections=5, uptime=12.5, rss=15 * 2**20)
CONNECTION = web.connection(
    "2f-1",
    77,
    None,
    peer="[::1]:5555",
    listener="[::1]:7000",
    generation=7,
    epoch=3,
    age=90.0,
    idle=0.25,
    bytes_in=1536,
    bytes_out=10,
    worker=None,
)


def plain(report: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(report))


def test_the_fields_of_the_reports() -> None:
    """The JSON that is promised to users: exactly these names."""
    status = plain(STATUS)
    assert " ".join(status) == (
        "name pid version python uptime state target model keep generation"
        " listeners workers connections totals accepting last_reload waits core edges full"
        " child_requests spare guard cluster holding fork_snapshot"
    )
    assert " ".join(status["listeners"][0]) == "address backlog queued proxy tls dropped"
    assert " ".join(status["edges"]) == (
        "pids connections shaking handshakes resumed failed certificates leaving"
    )
    assert " ".join(status["workers"]) == "starting ready draining"
    assert " ".join(status["connections"]) == (
        "open owned moving parked orphaned kept awaiting_header named groups by_label"
    )
    assert " ".join(status["totals"]) == (
        "accepted closed reset detached attached lost reloads upgrades worker_deaths"
        " handler_errors poisoned unserved refused_messages proxy_refused over_limit overdue pushes"
    )
    assert " ".join(status["totals"]["proxy_refused"]) == (
        "not_allowed missing malformed cut late no_room"
    )
    assert " ".join(status["totals"]["over_limit"]) == ("max_per_address denied rate_per_address")
    assert " ".join(status["totals"]["attached"]) == "accepted reload parked crash upgrade"
    assert " ".join(plain(WORKER)) == "slot pid generation state connections busy uptime rss"
    assert " ".join(plain(CONNECTION)) == (
        "id peer listener state owner generation epoch age idle bytes_in bytes_out busy worker slot"
        " name groups labels stored committed"
    )


@pytest.mark.system
def test_status(runtime: Path, cli: Cli) -> None:
    """status asks for the status of the only server and prints it aligned."""
    with FakeServer(runtime / "chat.sock", [done(plain(STATUS))]) as server:
        finished = cli("status")
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert server.requests == [{"command": "status", "arguments": {}}]
    lines = [line.split() for line in finished.stdout.splitlines()]
    assert ["server", "chat"] in lines
    assert ["uptime", "1h02m"] in lines
    assert ["version", "0.1.0,", "Python", "3.11.7,", "compiled", "core"] in lines
    assert ["127.0.0.1:7000", "2048", "3", "12"] in lines
    assert ["moving", "1"] in lines
    assert ["accepted", "11"] in lines
    assert "(" not in finished.stdout.partition("TOTAL")[2], "a report within is no row"


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("status", plain(STATUS)),
        ("workers", [plain(WORKER)]),
        ("connections", [plain(CONNECTION)]),
        ("listeners", plain(STATUS)["listeners"]),
    ],
)
def test_json(runtime: Path, capsys: pytest.CaptureFixture[str], command: str, result: Any) -> None:
    """--json prints what the server said, a newer server's new fields included."""
    (result[0] if isinstance(result, list) else result)["new_field"] = 1
    with FakeServer(runtime / "chat.sock", [done(result)]):
        assert main([command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


def test_listeners(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer(runtime / "chat.sock", [done(plain(STATUS)["listeners"])]):
        assert main(["listeners"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert said == [
        ["LISTENER", "BACKLOG", "QUEUED", "DROPPED"],
        ["127.0.0.1:7000", "2048", "3", "12"],
    ]


def test_workers(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers stand under their headings, aligned to the right; sizes and times are readable."""
    two = [plain(WORKER), {**plain(WORKER), "slot": 10, "pid": 12345, "state": "draining"}]
    with FakeServer(runtime / "chat.sock", [done(two)]):
        assert main(["workers"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "SLOT    PID  GENERATION  STATE     CONNECTIONS  BUSY  UPTIME  RSS",
        "   0     77           7  ready               5     1     12s  15M",
        "  10  12345           7  draining            5     1     12s  15M",
    ]


def test_connections(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A connection is one row; one that nobody owns has a dash."""
    orphan = {**plain(CONNECTION), "state": "orphaned", "owner": None}
    with FakeServer(runtime / "chat.sock", [done([plain(CONNECTION), orphan])]):
        assert main(["connections"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    row = "2f-1 [::1]:5555 [::1]:7000 owned 77 7 3 1m30s 0.2s 1.5K 10 no no"
    assert first.split() == row.split()
    assert second.split()[3:5] == ["orphaned", "-"]


def test_an_empty_list(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No connections are the headings alone, and no failure."""
    with FakeServer(runtime / "chat.sock", [done([])]):
        assert main(["connections"]) == 0
    assert capsys.readouterr().out.startswith("ID  PEER")
    assert len(capsys.readouterr().out.splitlines()) <= 1


def test_an_answer_of_another_version(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report that lacks a field is one line, not a traceback."""
    with FakeServer(runtime / "chat.sock", [done([{"slot": 1}])]):
        assert main(["workers"]) == 1
    assert "it is of another version" in capsys.readouterr().err


def test_actions(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress goes to stderr, the result to stdout."""
    pieces = [progress("loading"), done({"generation": 8, "target": "chat:f"})]
    with FakeServer(runtime / "chat.sock", pieces) as server:
        assert main(["reload"]) == 0
        said = "generation: 8\nchat:f: moving 0 connections to the new code\n"
        assert capsys.readouterr() == (said, "loading\n")
        assert main(["scale", "3", "--json"]) == 0
        shown = '{\n  "generation": 8,\n  "target": "chat:f"\n}\n'
        assert capsys.readouterr() == (shown, "loading\n")
        assert main(["drain"]) == 0
        assert main(["stop"]) == 0
    assert [asked["command"] for asked in server.requests] == ["reload", "scale", "drain", "stop"]
    assert server.requests[1]["arguments"] == {"workers": 3}


FORECAST: dict[str, Any] = {
    "target": "shop:handle",
    "resumable": True,
    "moves": 1,
    "held": 0,
    "stays": [],
    "seconds": 29.0,
}


def test_what_a_reload_would_do(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code tells a script whether anybody would be left behind."""
    stays = [{"reason": "uncommitted", "connections": 2}, {"reason": "of-later", "connections": 1}]
    with FakeServer(runtime / "chat.sock", [done(FORECAST)]) as server:
        assert main(["reload", "--dry-run"]) == 0
        said = "shop:handle: 1 connection would move to the new code at the next receive\n"
        assert capsys.readouterr() == (said, "")
        assert server.requests == [{"command": "reload-forecast", "arguments": {}}]
        server.pieces = [done({**FORECAST, "held": 2, "stays": stays})]
        assert main(["reload", "--dry-run"]) == 1
        uncommitted = "2 connections, the handler has sent something since its last commit"
        until = "served by the old code until the end, for 29 s at most"
        assert capsys.readouterr().out.splitlines()[1:] == [
            "2 connections, parked or between workers, would wake in it",
            f"{uncommitted}: {until}",
            f"1 connection, of-later: {until}",
        ]
        assert main(["reload", "--dry-run", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["stays"] == stays
    assert main(["reload", "--dry-run", "--wait"]) == 2


LEFT: dict[str, Any] = {"slot": 1, "pid": 77, "generation": 7, "connections": 4, "seconds": 29.0}
WORKERS: dict[str, Any] = {"option": "workers", "was": "1", "now": "2"}
MODEL: dict[str, Any] = {"option": "model", "was": "fork", "now": "thread"}


def test_workers_and_options_of_a_reload_to_come(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker that does not answer is named, as is a settings file that would be refused."""
    left = "1 connection of worker 1 (pid 77)"
    earlier = {**LEFT, "connections": 1, "seconds": 2.5}
    forecast = {**FORECAST, "earlier": [earlier], "changed": [WORKERS], "restart": [MODEL]}
    with FakeServer(runtime / "chat.sock", [done(forecast)]) as server:
        assert main(["reload", "--dry-run"]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == [
            f"{left}: served by the code of generation 7 still, for 2.5 s at most",
            "workers would change from 1 to 2",
            "model stays fork: restart the server to make it thread",
        ]
        server.pieces = [done({**FORECAST, "silent": [LEFT]})]
        assert main(["reload", "--dry-run"]) == 1
        said = "4 connections of worker 1 (pid 77), which does not answer: moved when it does, for"
        assert capsys.readouterr().out.splitlines()[1:] == [f"{said} 29 s at most"]
        server.pieces = [done({**FORECAST, "error": "server.toml: not TOML: …"})]
        assert main(["reload", "--dry-run"]) == 2
        shown, told = capsys.readouterr()
        assert (shown, "a reload would be refused: server.toml: not TOML" in told) == ("", True)
        assert main(["reload", "--dry-run", "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"] == "server.toml: not TOML: …"


def test_what_a_reload_costs(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told when the new code serves, and is no failure."""
    result: dict[str, Any] = {
        "generation": 8,
        "target": "shop:handle",
        "moves": 3,
        "held": 1,
        "seconds": 29.0,
        "stays": [{"reason": "bound", "connections": 2}],
        "changed": [WORKERS],
        "restart": [MODEL],
    }
    with FakeServer(runtime / "chat.sock", [done(result)]):
        assert main(["reload"]) == 0
    why = "only its process can go on with it, such as with TLS begun by a handler"
    bound = f"2 connections, {why}"
    assert capsys.readouterr().out.splitlines() == [
        "generation: 8",
        "shop:handle: moving 3 connections to the new code",
        "1 connection, parked or between workers, will wake in it",
        f"{bound}: served by the old code until the end, for 29 s at most",
        "workers is 2 now, and was 1",
        "model stays fork: restart the server to make it thread",
    ]


def test_what_became_of_the_old_codes(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result: dict[str, Any] = {"generation": 8, "moved": 3, "ended": 1, "cut": []}
    with FakeServer(runtime / "chat.sock", [progress("loading"), done(result)]) as server:
        assert main(["reload", "--wait"]) == 0
        assert capsys.readouterr().out == "generation: 8\n3 connections moved, 1 ended\n"
        assert server.requests == [{"command": "reload", "arguments": {"wait": True}}]
        server.pieces = [done({**result, "cut": [{"reason": "busy", "connections": 1}]})]
        assert main(["reload", "--wait"]) == 1
        said = "1 connection, the handler has not asked for input since: cut when the time was over"
        assert said in capsys.readouterr().out
        # An earlier version does not wait, and tells the generation alone.
        server.pieces = [done({"generation": 8})]
        assert main(["reload", "--wait"]) == 1
        assert "it is of another version" in capsys.readouterr().err


@pytest.mark.parametrize("exit_code", [1, 3, 4])
def test_failures(runtime: Path, capsys: pytest.CaptureFixture[str], exit_code: int) -> None:
    """A failed command exits as the server says, and shows the error whole."""
    error = "cannot load chat:handle\nTraceback (most recent call last):\n  ..."
    with FakeServer(runtime / "chat.sock", [done(None, exit_code, error)]):
        assert main(["reload"]) == exit_code
    assert capsys.readouterr().err == f"socketkeep: error: {error}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scale"], "Missing argument 'N'"),
        (["scale", "0"], "N: expected a whole number from 1, got '0'"),
        (["scale", "x"], "N: expected a whole number from 1, got 'x'"),
        (["leaks", "x"], "PID: expected a whole number from 1, got 'x'"),
        (["guard", "--store", "1.5"], "--store: expected a whole number from 1, got '1.5'"),
        (["top", "--interval", "nan"], "--interval: expected seconds from 0.1 to 3600, got 'nan'"),
        (["stauts"], "there is no command 'stauts' (did you mean status?)"),
        (["status", "--jsno"], "--json"),
        (["status", "--control", "a", "--name", "b"], "not both"),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """A usage error is one line with what was meant, and exit code 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("socketkeep: error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.system
def test_no_server_and_several(runtime: Path, cli: Cli) -> None:
    """Exit code 1 when none runs, 2 when it must be said which one."""
    none = cli("status")
    assert none.exit_code == 1
    assert none.stderr.startswith("socketkeep: error: no server is running")
    with FakeServer(runtime / "a.sock"), FakeServer(runtime / "b.sock"):
        several = cli("status")
    assert several.exit_code == 2
    assert "--name a\n  --name b" in several.stderr


def test_name_and_control(runtime: Path, tmp_path: Path) -> None:
    """Among several the one that is named is asked, or one that lies elsewhere."""
    with (
        FakeServer(runtime / "a.sock", [done()]) as first,
        FakeServer(runtime / "b.sock", [done()]) as second,
        FakeServer(tmp_path / "c.sock", [done()]) as third,
    ):
        assert main(["stop", "--name", "b"]) == 0
        assert main(["stop", "--control", str(tmp_path / "c.sock")]) == 0
    assert [len(server.requests) for server in (first, second, third)] == [0, 1, 1]


@pytest.mark.system
def test_a_reader_that_leaves(runtime: Path) -> None:
    """`socketkeep connections | head -1` ends without a traceback."""
    many = [plain(CONNECTION)] * 5000
    # An unbuffered stdout does not notice that only a part was written (CPython's TextIOWrapper).
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONUNBUFFERED"}
    with FakeServer(runtime / "chat.sock", [done(many)]):
        process = subprocess.Popen(
            [sys.executable, "-m", "socketkeep", "connections"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"ID")
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(30) == 1
    assert errors == b""


@pytest.mark.system
def test_watch(runtime: Path) -> None:
    """--watch asks again every second until Ctrl-C, which is no error to tell."""
    with FakeServer(runtime / "chat.sock", [done([plain(WORKER)])]) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "socketkeep", "workers", "--watch", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().strip() == b""
        process.stdout.close()
        process.stderr.close()
    assert json.loads(first) == json.loads(second) == [plain(WORKER)]
    assert len(server.requests) >= 2


@pytest.mark.system
def test_tables_of_rich(runtime: Path) -> None:
    """In a terminal the tables are rich's, and addresses in brackets survive its markup."""
    pytest.importorskip("rich")
    master, slave = os.openpty()
    with FakeServer(runtime / "chat.sock", [done([plain(CONNECTION)])]):
        finished = subprocess.run(
            [sys.executable, "-m", "socketkeep", "connections"],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.PIPE,
            env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
            timeout=30,
            check=True,
        )
    os.close(slave)
    drawn = os.read(master, 65536).decode()
    os.close(master)
    assert finished.stderr == b""
    assert "[::1]:5555" in drawn
    assert "─" in drawn


@pytest.mark.system
def test_version_and_help(cli: Cli) -> None:
    """--version is one line; the help lists every command, and each has its own."""
    assert cli("--version").stdout.startswith("socketkeep 1.")
    assert cli("--version", SOCKETKEEP_PURE="1").stdout.endswith(" (pure Python)\n")
    listed = cli("--help").stdout
    assert cli() == cli("--help")
    for topic in ("Serve", "A running server", "Change a running server", "This machine"):
        assert f"\n\n{topic}:\n  " in listed
    for command in ("serve", "status", "workers", "connections", "listeners", "reload"):
        assert f"\n  {command} " in listed
    for command in ("scale", "drain", "stop", "demo"):
        assert f"\n  {command} " in listed
        assert main([command, "--help"]) == 0


@pytest.mark.system
def test_commands_are_fast_to_start(cli: Cli) -> None:
    """status imports neither asyncio, nor the keeper, nor the options' TOML reader."""
    script = (
        "import sys; from socketkeep._cli import main; main(['status']);"
        "print(*(name for name in ('socketkeep._keeper', 'socketkeep._worker', 'tomllib',"
        " 'socketkeep._cli.serve') if name in sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert finished.stdout.strip() == ""


@pytest.mark.system
def test_a_server_loads_no_more_than_most_need() -> None:
    script = (
        "import sys; import socketkeep._cli.serve, socketkeep._admin._server;"
        "import socketkeep._worker._template, socketkeep._worker._fork;"
        "import socketkeep._worker._prefork, socketkeep._worker._thread;"
        "print(*(name for name in ('asyncio', 'ssl', 'logging.handlers', 'subprocess', 'hashlib',"
        " 'random', 'termios', 'tomllib') if name in sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert finished.stdout.strip() == ""
