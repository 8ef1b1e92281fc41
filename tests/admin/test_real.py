"""A real server that is shown: through its life, and the death of what shows it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from pathlib import Path

import pytest

from tests.admin.web import admin_pid, admin_port, fetch
from tests.harness import ControlError, Server, connect, read_reply, write_handler
from tests.harness.command import main
from tests.harness.processes import wait_exit

_SAME = "0123456789abcdef"


def shown(server: Server, port: int, path: str, status: int, timeout: float = 30.0) -> str:
    """Wait until `path` is answered with `status`; return the text."""
    texts = [""]

    def answered() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = fetch(port, path)
            texts.append(answer.text)
            return answer.status == status
        return False

    server.wait_until(answered, f"{path} {status}", timeout)
    return texts[-1]


def test_whole_life(tmp_path: Path) -> None:
    """Ready, shown again when that process dies, paused, reloaded, ended."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with Server(tmp_path, target, "--admin", "127.0.0.1:0", "-w", "2") as server:
        port = admin_port(server)
        assert shown(server, port, "/healthz", 200) == "ok\n"
        assert fetch(port, "/readyz").status == 200
        with connect(server.address) as peer:
            peer.sendall(b"1\n")
            assert read_reply(peer) == b"1 1 v0"
            assert 'socketkeep_connections{state="owned"} 1.0' in fetch(port, "/metrics").text
            table = json.loads(fetch(port, "/connections?filter=epoch%3D1&sort=peer").text)
            (row,), (told,) = table.pop("connections"), server.ask("connections")
            assert table["complete"]
            assert (table["open"], table["matching"]) == (1, 1)
            changing = {"age": 0, "idle": 0}
            assert {**row, **changing} == {**told, **changing}
            with pytest.raises(ControlError, match="live takes a number of connections, 1 to"):
                server.ask("live", most=0)
            first = admin_pid(server)
            os.kill(first, signal.SIGKILL)
            server.wait_event("admin process ended")
            shown(server, port, "/readyz", 200)
            assert admin_pid(server) != first
            server.signal(signal.SIGWINCH)
            assert "not ready: running" in shown(server, port, "/readyz", 503)
            assert fetch(port, "/healthz").status == 200
            server.reload()
            shown(server, port, "/readyz", 200)
            text = fetch(port, "/metrics").text
            assert "socketkeep_reloads_total 1.0" in text
            assert "socketkeep_generation 2.0" in text
            assert server.status()["last_reload"] > 0
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        with pytest.raises(ConnectionRefusedError):
            fetch(port, "/healthz")


def test_keeper_that_is_stopped_and_killed(tmp_path: Path) -> None:
    """Not healthy while it is stopped; what shows it ends with it."""
    target = write_handler(tmp_path, "v0", is_async=True)
    options = ("--admin", "127.0.0.1:0", "--orphan-timeout", "0")
    with Server(tmp_path, target, *options) as server:
        port = admin_port(server)
        shown(server, port, "/healthz", 200)
        pid = admin_pid(server)
        server.signal(signal.SIGSTOP)
        assert shown(server, port, "/healthz", 503) == "the keeper does not answer\n"
        server.signal(signal.SIGKILL)
        server.process.wait(10.0)
        # The next of its name has the address as soon as that process has noticed.
        same = ("--admin", f"127.0.0.1:{port}", "--orphan-timeout", "0")
        with Server(tmp_path, target, *same) as following:
            assert wait_exit(pid, 10.0)
            shown(following, port, "/readyz", 200)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--admin", "0.0.0.0:9000"],
            "give a token (--admin-token-file FILE, or SOCKETKEEP_ADMIN_TOKEN), or listen on",
        ),
        (["--admin", ":9000"], "can be reached from other machines"),
        (["--admin", "example.com:9000"], "can be reached from other machines"),
        (["--admin", "unix:/tmp/a"], "--admin: expected host:port, as in 127.0.0.1:9000"),
        (["--admin", "9000"], "--admin: address '9000': the port is missing"),
        (
            ["--admin", ":9000", "--admin-token", "secret"],
            "--admin-token: expected 16 to 512 letters, digits or characters of ._~+/=-",
        ),
        (["--admin", ":9000", "--admin-token-file", "/none"], "/none: No such file or directory"),
        (["--admin", ":9000", "--admin-token-file", "/dev/null"], "/dev/null: the file is empty"),
        (
            ["--admin", ":9", "--admin-token-file", "/x", "--admin-token", "0123456789abcdef"],
            "give --admin-token or --admin-token-file, not both",
        ),
        (["--metrics-label", "firmware=0"], "expected KEY or KEY=MOST, with 1 to 1000 values"),
        (["--metrics-label", "=3"], "expected KEY or KEY=MOST, with 1 to 1000 values"),
        (["--push-token", "0123456789abcdef"], "--push-token does nothing without --admin ADDRESS"),
        (
            *(["--admin", "[::1]:9", *("--push-token", _SAME), *("--admin-token", _SAME)],),
            "--push-token is the token of --admin: who looks on is not to push",
        ),
    ],
)
def test_refused_options(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, and no server."""
    assert main(["serve", "app:handle", "--check-config", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_token_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Not by --print-config, which people paste into reports."""
    token = "a-secret-0123456789"
    assert main(["serve", "app:handle", "--admin-token", token, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert token not in printed
    assert "# admin_token is not shown" in printed
