"""`socketkeep fin`, `abort` and `release`, as a user meets them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Cli
from tests.inspect.support import HOST, acting
from tests.server.support import as_other_user


@pytest.fixture
def pairs() -> Iterator[tuple[str, list[socket.socket]]]:
    """The address of a server in another process, and two clients whom it has accepted."""
    with acting() as actor:
        address = (HOST, actor.listen())
        # From HOST, where nothing that others have left has the same port.
        with (
            socket.create_connection(address, 10, (HOST, 0)) as first,
            socket.create_connection(address, 10, (HOST, 0)) as second,
        ):
            actor.do("conns = [listener.accept()[0] for _ in range(2)]")
            yield "{}:{}".format(*address), [first, second]


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    finally:
        client.settimeout(10)


def test_one_is_ended_without_a_question(pairs: tuple[str, list[socket.socket]], cli: Cli) -> None:
    """Both ends are on this machine: the address is that of the client's, which is ended."""
    address, (client, other) = pairs
    ours = "{}:{}".format(*client.getsockname())
    finished = cli("fin", ours)
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert finished.stdout == f"{ours} with {address}: FIN sent\n"
    with pytest.raises(BrokenPipeError):
        client.send(b"x")
    assert is_open(other)


def test_more_than_one_asks(pairs: tuple[str, list[socket.socket]], cli: Cli) -> None:
    """Where nobody can be asked nothing is done; --yes says so beforehand."""
    address, clients = pairs
    finished = cli("fin", address)
    assert finished.exit_code == 1
    assert "more than one connection is meant: say --yes" in finished.stderr
    assert finished.stdout.count(": would send FIN; held by ") == 2
    assert f"{address}: left alone: it is a listener" in finished.stdout
    assert all(is_open(client) for client in clients)
    finished = cli("fin", address, "--yes")
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert finished.stdout.count(": FIN sent\n") == 2
    assert [client.recv(1) for client in clients] == [b"", b""]


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 130)])
def test_the_answer_is_heeded(
    pairs: tuple[str, list[socket.socket]], answer: bytes, code: int
) -> None:
    address, clients = pairs
    terminal, end = os.openpty()
    command = [sys.executable, "-m", "socketkeep", "abort", address]
    with subprocess.Popen(command, stdin=end, stdout=subprocess.PIPE, text=True) as running:
        os.close(end)
        os.write(terminal, answer)
        output, _ = running.communicate(timeout=30)
    os.close(terminal)
    assert running.returncode == code
    assert "reset to these 2 connections? [y/N]" in output
    for client in clients:
        if code:
            assert is_open(client)
        else:
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_dry_run(pairs: tuple[str, list[socket.socket]], cli: Cli) -> None:
    address, clients = pairs
    finished = cli("abort", address, "--dry-run", "--yes")
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert finished.stdout.count(": would reset; held by ") == 2
    assert all(is_open(client) for client in clients)


def test_json(pairs: tuple[str, list[socket.socket]], cli: Cli) -> None:
    """What was chosen, what was left alone, and what became of it; nobody is asked."""
    address, clients = pairs
    finished = cli("fin", address, "--json")
    assert (finished.exit_code, finished.stdout) == (1, "")
    assert "say --yes" in finished.stderr
    shown = json.loads(cli("fin", address, "--json", "--dry-run").stdout)
    assert [shown["verb"], shown["dry_run"], len(shown["chosen"]), shown["outcomes"]] == [
        *("fin", True, 2),
        [],
    ]
    assert [left["subject"] for left in shown["left"]] == [address]
    assert all(is_open(client) for client in clients)
    finished = cli("fin", address, "--json", "--yes")
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert [each["done"] for each in json.loads(finished.stdout)["outcomes"]] == [True, True]
    assert [client.recv(1) for client in clients] == [b"", b""]
    finished = cli("fin", address, "--json", "--yes")
    assert finished.exit_code == 1
    assert "nothing to fin" in finished.stderr
    assert {left["reason"] for left in json.loads(finished.stdout)["left"]} >= {
        "its FIN has been sent already"
    }


def test_nothing_to_end(cli: Cli) -> None:
    with socket.create_server((HOST, 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        finished = cli("abort", f"{os.getpid()}:{listener.fileno()}")
        assert finished.exit_code == 1
        assert finished.stdout.startswith(f"{address}: left alone: it is a listener")
        assert "nothing to abort" in finished.stderr
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()
    assert cli("fin", "nonsense").exit_code == 2


def test_another_user_may_not(pairs: tuple[str, list[socket.socket]]) -> None:
    """It says which process it must be allowed to look into, and nothing is ended."""
    address, clients = pairs
    command = [*as_other_user(), sys.executable, "-m", "socketkeep", "fin", address, "--yes"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert (
        finished.stdout.count("no handle can be borrowed: cannot be seen from here: held by") == 2
    )
    assert all(is_open(client) for client in clients)


def test_release_is_refused(cli: Cli) -> None:
    finished = cli("release", "4321:7")
    assert (finished.exit_code, finished.stdout) == (1, "")
    assert finished.stderr == (
        "socketkeep: error: 4321:7 cannot be released from outside: a descriptor is closed by its "
        "own process alone, and a borrowed handle is only one more. End the connection whoever "
        "holds it: socketkeep fin 4321:7, or abort 4321:7; or end the process: kill 4321\n"
    )
