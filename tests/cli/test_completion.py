"""Completion in real shells: commands, options, values, targets, and what a server knows."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.cli.fake_server import FakeServer, done
from tests.cli.shells import Shell, bash, fish, zsh
from tests.harness import Server, connect, read_reply, write_source
from tests.harness.command import proposed

#: A line, and what its last word becomes.
CASES = [
    ("socketkeep doc", ["doctor"]),
    ("socketkeep serve --mod", ["--model"]),
    ("socketkeep serve --model f", ["fork"]),
    ("socketkeep serve --model=f", ["--model=fork"]),
    ("socketkeep serve app:handle -k f", ["fork"]),
    ("socketkeep lab at-t", ["at-the-same-time"]),
    ("socketkeep serve --log-file app.l", ["app.log"]),
    ("socketkeep serve app", ["app.py:handle"]),
    ("socketkeep serve app.py:", ["app.py:handle"]),
    ("socketkeep serve shop/", ["shop/chat.py:talk"]),
    ("socketkeep serve sh", ["shop/"]),
    ("socketkeep reload --name ch", ["chat"]),
    ("socketkeep disconnect --name chat 2f-", ["2f-1"]),
    ("socketkeep push --name chat room:", ["room:1"]),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    (directory / "shop").mkdir(parents=True)
    (directory / "app.py").write_text("def handle(conn): ...\n")
    (directory / "app.log").write_text("")
    (directory / "shop" / "chat.py").write_text("def talk(conn): ...\n")
    return directory


@pytest.fixture
def servers(runtime: Path) -> tuple[FakeServer, FakeServer]:
    os.makedirs(runtime, mode=0o700)
    answer = [["2f-1", "127.0.0.1:5555"], ["room:1", "2f-1"], ["other", ""]]
    return (
        FakeServer(runtime / "chat.sock", [done(answer)]),
        FakeServer(runtime / "shop.sock", [done([])]),
    )


def test_bash(place: Path, servers: tuple[FakeServer, FakeServer]) -> None:
    chat, shop = servers
    with chat, shop, bash(place) as shell:
        for line, expected in CASES:
            assert shell.completed(line)[-len(expected) :] == expected, line
        assert shell.completed("socketkeep reload --name ") == ["reload", "--name", "chat", "shop"]
        assert shell.completed("socketkeep disconnect ") == ["disconnect"]  # of which server?
        assert "--dry-run" in shell.completed("FOO=1 socketkeep reload -")
    asked = [each["arguments"] for each in chat.requests]
    assert {"what": "id", "beginning": "2f-"} in asked
    assert {"what": "name", "beginning": "room:"} in asked


def test_of_a_real_server(tmp_path: Path) -> None:
    """The ids and names of its connections, as fish shows them: each with what it belongs to."""
    source = "def handle(conn):\n    for line in conn.lines():\n        conn.name = line.decode()\n"
    target = write_source(tmp_path, f"{source}        conn.send(line + b'\\n')\n")
    with Server(tmp_path, target) as server, connect(server.address) as peer:
        peer.sendall(b"room:1\n")
        assert read_reply(peer) == b"room:1"
        (known,) = server.connections()
        said = fish(tmp_path, f"socketkeep disconnect --control {server.control} ")
    assert said == [f"{known['id']}\t{known['peer']}", f"room:1\t{known['id']}"]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A listener of this process, and what it is as WHAT."""
    path = tmp_path / "listener"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock, f"unix:{path}"


@pytest.mark.parametrize("shell", [bash, zsh])
def test_what_an_inspection_is_for(
    place: Path,
    listener: tuple[socket.socket, str],
    shell: Callable[[Path], AbstractContextManager[Shell]],
) -> None:
    sock, name = listener
    descriptor = f"{os.getpid()}:{sock.fileno()}"
    with shell(place) as typed:
        for command in ("holders", "why", "fin", "abort"):
            assert typed.completed(f"socketkeep {command} {name[:-3]}") == [command, name]
        for command in ("holders", "fin"):
            assert descriptor in typed.completed(f"socketkeep {command} {descriptor}")


def test_each_thing_that_what_may_be(listener: tuple[socket.socket, str]) -> None:
    """Addresses at once, hosts and processes once they are begun, sockets behind a process."""
    sock, name = listener
    pid = os.getpid()
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.create_server(("", 0)) as wide:
        port, any_port = tcp.getsockname()[1], wide.getsockname()[1]
        at_once = proposed("why", "")
        assert {f":{port}", f":{any_port}", name} <= at_once.keys()
        assert all(word.startswith((":", "unix:")) for word in at_once)
        hosts = proposed("holders", "127.0.0.1:")
        assert hosts[f"127.0.0.1:{port}"] == "listened on"
        assert f"127.0.0.1:{any_port}" not in hosts
        assert proposed("adopt", f":{port}") == {f":{port}": "listened on"}
        of_process = proposed("fin", f"{pid}:")
        assert of_process[f"{pid}:{tcp.fileno()}"] == f"tcp LISTEN 127.0.0.1:{port}"
        assert of_process[f"{pid}:{sock.fileno()}"] == f"unix LISTEN {name}"
    assert str(pid) in proposed("leaks", str(pid))
    assert str(pid) in proposed("abort", str(pid))
    assert proposed("holders", f"{1 << 22}:") == {}
    assert proposed("holders", "nothing like it") == {}


def test_zsh(place: Path, servers: tuple[FakeServer, FakeServer]) -> None:
    chat, shop = servers
    with chat, shop, zsh(place) as shell:
        for line, expected in CASES[3::2]:
            assert shell.completed(line)[-len(expected) :] == expected, line


def test_fish(place: Path, servers: tuple[FakeServer, FakeServer]) -> None:
    chat, shop = servers
    with chat, shop:
        for line, expected in CASES[1::6]:
            assert [each.partition("\t")[0] for each in fish(place, line)] == expected, line
        said = fish(place, "socketkeep disconnect --name chat 2f-")
    assert said == ["2f-1\t127.0.0.1:5555"]
