"""`socketkeep holders`, as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import msgspec
import pytest

from socketkeep.inspect import HeldSocket, HeldSockets, SocketHolder, TcpFacts, Timer
from tests.cli.conftest import Cli
from tests.inspect.support import HOST
from tests.server.support import as_other_user


def test_the_fields_of_the_json() -> None:
    """What is promised to users: exactly these names."""

    def names(struct: type[msgspec.Struct]) -> str:
        return " ".join(field.name for field in msgspec.structs.fields(struct))

    assert names(HeldSockets) == "what sockets unreadable why hidden"
    assert names(HeldSocket) == (
        "kind state local peer receive_queue send_queue timer nonblocking age shut user inode"
        " cookie tcp holders note"
    )
    assert names(SocketHolder) == "pid fd command user how of"
    assert names(Timer) == "kind left fired"
    assert names(TcpFacts) == (
        "sent received acknowledged unsent retransmitted window rtt since_sent since_received"
    )


def test_a_row_a_socket_and_a_line_a_holder(cli: Cli) -> None:
    with socket.create_server((HOST, 0)) as listener, listener.dup() as again:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port), source_address=(HOST, 0)) as client:
            finished = cli("holders", f"{HOST}:{port}")
            assert (finished.exit_code, finished.stderr) == (0, "")
            headings, *lines = finished.stdout.splitlines()
            assert headings.split()[:4] == ["KIND", "STATE", "LOCAL", "PEER"]
            assert lines[0].split()[:3] == ["tcp", "LISTEN", f"{HOST}:{port}"]
            pid = os.getpid()
            assert f" {pid}:{listener.fileno()} " in lines[0]
            assert lines[1].split()[0] == f"{pid}:{again.fileno()}"
            waits, client_row = sorted(lines[2:4], key=lambda line: str(pid) in line)
            assert "no process has accepted it yet" in waits
            assert f" {pid}:{client.fileno()} " in client_row


def test_json(cli: Cli) -> None:
    with socket.create_server((HOST, 0)) as listener:
        finished = cli("holders", f"{os.getpid()}:{listener.fileno()}", "--json")
        assert finished.exit_code == 0
        found = msgspec.json.decode(finished.stdout, type=HeldSockets)
        (held,) = found
        assert held.inode == os.fstat(listener.fileno()).st_ino
        assert held.holders[0].pid == os.getpid()


def test_nothing_found(cli: Cli) -> None:
    """Exit code 1, as grep has it, and a sentence."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    finished = cli("holders", f"{HOST}:{port}")
    assert (finished.exit_code, finished.stderr) == (1, "")
    assert finished.stdout.split() == ["no", "socket", f"{HOST}:{port}"]
    finished = cli("holders", f"{HOST}:{port}", "--json")
    assert finished.exit_code == 1
    assert json.loads(finished.stdout)["sockets"] == []


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("nonsense", 2, "is not an address"),
        ("4194303", 1, "there is no process 4194303 (a port is written :4194303)"),
        ("127.77.0.1:0", 2, "no socket has port 0"),
    ],
)
def test_mistakes(cli: Cli, what: str, code: int, said: str) -> None:
    finished = cli("holders", what)
    assert finished.exit_code == code
    assert finished.stdout == ""
    assert finished.stderr.startswith("socketkeep: error: ")
    assert len(finished.stderr.splitlines()) == 1
    assert said in finished.stderr


def test_another_user_is_told_what_was_not_seen() -> None:
    """Without the right to look into this process, its listener is shown, with its user."""
    command = [*as_other_user(), sys.executable, "-m", "socketkeep", "holders"]
    with socket.create_server((HOST, 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        seen = subprocess.run([*command, address], capture_output=True, text=True, check=False)
        assert (seen.returncode, seen.stderr) == (0, "")
        assert "held by a process that could not be looked into, or by none" in seen.stdout
        assert "of user root" in seen.stdout
        assert ": it is of user root: run this as that user, or as root (sudo)" in seen.stdout
        pid = str(os.getpid())
        refused = subprocess.run([*command, pid], capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"socketkeep: error: no right to trace process {pid} (")
        assert refused.stderr.endswith(
            ", user root): run this as root (sudo), which has CAP_SYS_PTRACE, or as user root\n"
        )


def test_watch() -> None:
    """A line of JSON each second, until Ctrl-C; what changes in between is seen."""
    with socket.create_server((HOST, 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        command = [sys.executable, "-m", "socketkeep", "holders", address, "--json", "--watch"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            assert len(json.loads(running.stdout.readline())["sockets"]) == 1
            with socket.create_connection(listener.getsockname()):
                counts = [
                    len(json.loads(line)["sockets"])
                    for line, _ in zip(running.stdout, range(2), strict=False)
                ]
                assert counts[-1] == 3
            running.send_signal(signal.SIGINT)
            assert running.wait(10) == 130
