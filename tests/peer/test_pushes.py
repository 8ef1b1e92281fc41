"""Pushes, as peers get them: through reloads, deaths and an upgrade, parked and not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from socketkeep import Client, Published, Pushed
from tests.admin.web import admin_port, post_push
from tests.guard.support import GuardedServer
from tests.harness import Server
from tests.harness.peers import connect

_HEAD: Final = """
from socketkeep import *

@resumable(on_crash="resume")
"""

#: A line is a verb and what it is for.
_ASYNC: Final = """
async def handle(conn):
    async for line in conn.lines():
        verb, _, rest = line.decode().partition(" ")
        to, _, text = rest.partition(" ")
        answer = "ok"
        if verb == "name":
            conn.name = rest
        elif verb == "join":
            conn.join(rest)
        elif verb == "who":
            answer = f"{conn.name} {' '.join(sorted(conn.groups))} {conn.attached}"
        elif verb == "push":
            answer = (await push(to, text.encode() + b"\\n")).outcome
        elif verb == "many":
            asked = [push(to, b"%d\\n" % number) for number in range(int(text))]
            told = [(await each).outcome for each in asked]
            answer = " ".join(f"{each}:{told.count(each)}" for each in sorted(set(told)))
        elif verb == "publish":
            done = await publish(to, text.encode() + b"\\n")
            answer = f"{done.delivered} {done.failed}"
        await conn.send(answer.encode() + b"\\n")
        conn.commit()
"""


_SYNC: Final = re.sub(
    r"\(await (each)\)|\(?await ((?:push|publish)\(.*?\(\) \+ b.*?\))\)?",
    lambda found: f"{found[1] or found[2]}.result()",
    _ASYNC.replace("async ", "").replace("await conn.send", "conn.send"),
)


class Peer:
    """A client that talks in lines."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        self.sock = sock
        self._lines = sock.makefile("rb")

    def ask(self, text: str) -> str:
        self.sock.sendall(text.encode() + b"\n")
        return self.hear()

    def hear(self) -> str:
        return self._lines.readline().decode().removesuffix("\n")

    def close(self) -> None:
        self._lines.close()
        self.sock.close()


def write(directory: Path, source: str = _ASYNC) -> str:
    (directory / "app.py").write_text(_HEAD + source)
    return "app:handle"


@contextmanager
def peers(server: Server, number: int) -> Iterator[list[Peer]]:
    made = [Peer(connect(server.address)) for _ in range(number)]
    try:
        yield made
    finally:
        for peer in made:
            peer.close()


def call(peers: list[Peer]) -> None:
    """Give each its number for a name, and have all join one group."""
    for number, peer in enumerate(peers):
        assert peer.ask(f"name {number}") == "ok"
        assert peer.ask("join all") == "ok"


@pytest.mark.parametrize(
    ("model", "parks"),
    [("async", True), ("thread", True), ("thread", False), ("fork", False), ("prefork", False)],
)
def test_pushes_through_reload_and_upgrade(tmp_path: Path, model: str, parks: bool) -> None:
    options = ("--model", model, "--workers", "4" if model == "prefork" else "2")
    number = 4
    with (
        Server(
            tmp_path,
            write(tmp_path, _ASYNC if model == "async" else _SYNC),
            *(*options, "--park-after", "0.05s" if parks else "off"),
        ) as server,
        peers(server, number) as everybody,
    ):
        call(everybody)
        sender, *others = everybody

        def rest() -> None:
            if parks:
                server.wait_until(
                    lambda: server.status()["connections"]["parked"] == number, "all are parked"
                )

        def push_to_all(text: str) -> None:
            rest()
            for name, peer in enumerate(others, 1):
                assert sender.ask(f"push {name} {text}") == "delivered"
                assert peer.hear() == text
            rest()
            sender.sock.sendall(f"publish all {text}\n".encode())
            # Its own copy, and what has become of it, in whichever order.
            assert {sender.hear(), sender.hear()} == {text, f"{number} 0"}
            for peer in others:
                assert peer.hear() == text

        push_to_all("begin")
        if parks:
            woken = server.status()["totals"]["attached"]["parked"]
            assert woken <= 3 * number, "those that were pushed to stay parked"
        server.reload()
        push_to_all("reloaded")
        if model in ("async", "fork"):
            assert server.cli("upgrade").exit_code == 0
            push_to_all("upgraded")
        assert [peer.ask("who").split()[:2] for peer in others] == [
            [str(name), "all"] for name in range(1, number)
        ]
        assert sender.ask("push nobody x") == "not connected"
        named = {each["name"]: each["groups"] for each in server.connections()}
        assert named == {str(name): ["all"] for name in range(number)}


def test_the_process_of_a_sync_handler_is_killed(tmp_path: Path) -> None:
    """With --keep crash the connection has its name in the next one; without it nobody has."""
    for keep, after in (("crash", ("--keep-after", "0s")), ("reload", ())):
        directory = tmp_path / keep
        directory.mkdir()
        options = ("--model", "fork", "--workers", "2", "--keep", keep, *after)
        with (
            Server(directory, write(directory, _SYNC), *options, "--park-after", "off") as server,
            peers(server, 8) as everybody,
        ):
            call(everybody)
            if keep == "crash":
                server.wait_until(lambda: server.status()["connections"]["kept"] == 8, "kept")
            serving = owners(server)
            sender = next(n for n in range(1, 8) if serving[str(n)] != serving["0"])
            os.kill(serving["0"], signal.SIGKILL)
            if keep == "crash":
                assert everybody[0].ask("who").split() == ["0", "all", "crash"]
                assert everybody[sender].ask("push 0 again") == "delivered"
                assert everybody[0].hear() == "again"
            else:
                server.wait_until(lambda: "0" not in owners(server), "nobody has the name")
                assert everybody[sender].ask("push 0 again") == "not connected"


def owners(server: Server) -> dict[str, int]:
    """Return who serves each of those that have a name."""
    return {each["name"]: each["owner"] for each in server.connections() if each["name"]}


def spread(server: Server, count: int) -> dict[str, int]:
    """Return who serves each of so many, once they are not all with one worker.

    The deaths of the others bring that about now and then.
    """
    for _ in range(10):
        server.wait_until(
            lambda: sum(map(bool, owners(server).values())) == count, "each has an owner"
        )
        serving = owners(server)
        if len(set(serving.values())) > 1:
            return serving
        server.reload()
    raise AssertionError("a reload does not spread them")


def test_pushes_while_workers_are_killed_and_the_code_replaced(tmp_path: Path) -> None:
    """Each comes once and in order, or its sender is told that it may not have come."""
    # With few seats they are not all in one worker.
    options = ("--workers", "3", "--max-connections", "9", "--keep", "crash", "--keep-after", "0s")
    with (
        Server(tmp_path, write(tmp_path), *options) as server,
        peers(server, 6) as everybody,
    ):
        call(everybody)
        server.wait_until(lambda: server.status()["connections"]["kept"] == 6, "all are kept")
        target = everybody[0]
        counts: dict[str, int] = {}
        lines = 0
        for turn in range(4):
            serving = spread(server, 6)
            sender = next(n for n in range(1, 6) if serving[str(n)] != serving["0"])
            everybody[sender].sock.sendall(b"many 0 300\n")
            if turn % 2:
                os.kill(serving["0"], signal.SIGKILL)
            else:
                server.reload()
            for each in everybody[sender].hear().split(" "):
                outcome, _, count = each.partition(":")
                counts[outcome] = counts.get(outcome, 0) + int(count)
            assert sum(counts.values()) == 300 * (turn + 1)
            # What comes last says that nothing more of these will.
            sent = counts["delivered"] + counts.get("uncertain", 0)
            last = 0
            while (told := everybody[sender].ask(f"push 0 last{last}")) != "delivered":
                assert told == "uncertain", "to the one that is just being killed"
                last += 1
            numbers = []
            while (line := target.hear()) != f"last{last}":
                if not line.startswith("last"):
                    numbers.append(int(line))
            assert numbers == sorted(set(numbers))
            lines += len(numbers)
            assert counts["delivered"] <= lines <= sent
        assert counts["delivered"] >= 600


@pytest.mark.parametrize(("target", "ends"), [("app:handle", True), ("app:service", False)])
def test_a_name_is_taken_over(tmp_path: Path, target: str, ends: bool) -> None:
    write(tmp_path, _ASYNC + "\nservice = Service(handle, on_taken='keep')\n")
    with (
        Server(tmp_path, target, "--workers", "2") as server,
        peers(server, 3) as (first, second, sender),
    ):
        assert first.ask("name x") == "ok"
        assert second.ask("name x") == "ok"
        if ends:
            assert first.hear() == ""
        else:
            server.wait_event("name taken over")
            server.wait_until(lambda: first.ask("who").split() == ["accepted"], "it is told")
        assert sender.ask("push x y") == "delivered"
        assert second.hear() == "y"


def test_a_peer_that_does_not_read(tmp_path: Path) -> None:
    """What waits for it is bounded, its sender is told, and nobody else waits."""
    with (
        Server(tmp_path, write(tmp_path), "--workers", "2") as server,
        peers(server, 3) as (sender, deaf, other),
    ):
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert deaf.ask("name deaf") == "ok"
        assert deaf.ask("join crowd") == "ok"
        assert other.ask("name other") == "ok"
        text = "x" * 40000
        told = ""
        for _ in range(400):
            if (told := sender.ask(f"publish crowd {text}")) != "1 0":
                break
        assert told == "0 1"
        assert sender.ask(f"push deaf {text}") == "full"
        assert sender.ask("push other hello") == "delivered"
        assert other.hear() == "hello"


def test_pushes_from_outside(tmp_path: Path) -> None:
    """From the command line, and from another program."""
    with (
        Server(
            *(tmp_path, write(tmp_path), "--workers", "2"),
            *("--admin", "127.0.0.1:0", "--push-token", "0123456789abcdef"),
        ) as server,
        peers(server, 3) as everybody,
    ):
        call(everybody)
        done = server.cli("push", "1", "turn", "on", "-n")
        assert (done.exit_code, done.stdout.partition(":")[0]) == (0, "delivered")
        assert everybody[1].hear() == "turn on"
        (tmp_path / "message").write_bytes(b"from a file\n")
        done = server.cli("publish", "all", "--file", str(tmp_path / "message"))
        assert (done.exit_code, done.stdout) == (0, "delivered: 3\nfailed: 0\n")
        assert [peer.hear() for peer in everybody] == ["from a file"] * 3
        done = server.cli("push", "nobody", "x", "--json")
        assert (done.exit_code, json.loads(done.stdout)["outcome"]) == (1, "not connected")
        done = server.cli("push", "a\nb", "x")
        assert (done.exit_code, done.stderr) == (
            2,
            "socketkeep: error: push: a name has printable characters alone, and this is 'a\\nb'\n",
        )
        done = server.cli("push", "1", "x", "--file", "y")
        assert done.exit_code == 2
        assert "given twice" in done.stderr

        client = Client(server.control)
        pushed = client.push("2", b"y" * 65535 + b"\n")
        assert pushed.delivered
        named = {each["name"]: each["id"] for each in server.connections()}
        assert pushed.id == named["2"]
        assert everybody[2].hear() == "y" * 65535
        assert client.publish("nowhere", b"x") == Published(0, 0)
        assert client.push("nobody", b"x") == Pushed("not connected")

        port = admin_port(server)
        answer = post_push(port, "/push/2", b"z" * 65535 + b"\n")
        assert (answer.status, json.loads(answer.text)["id"]) == (200, named["2"])
        assert everybody[2].hear() == "z" * 65535
        answer = post_push(port, "/publish/all", b"by http\n")
        assert (answer.status, json.loads(answer.text)) == (200, {"delivered": 3, "failed": 0})
        assert [peer.hear() for peer in everybody] == ["by http"] * 3
        assert post_push(port, "/push/nobody", b"x").status == 404
    with pytest.raises(OSError, match=r"control\.sock failed: No such file"):
        client.push("2", b"x")


@pytest.mark.parametrize("model", ["async", "prefork"])
def test_called_so_after_all_but_the_guard_are_killed(tmp_path: Path, model: str) -> None:
    """The handlers do not set it again, and pushes find it, twice."""
    source = _ASYNC if model == "async" else _SYNC
    options = ("--model", model, "-w", "4", "--keep", "crash", "--keep-after", "0")
    with (
        GuardedServer(tmp_path, write(tmp_path, source), *options) as server,
        peers(server, 3) as everybody,
    ):
        one, other, plain = everybody
        assert plain.ask("x") == one.ask("name device-17") == "ok"
        assert one.ask("join all") == other.ask("join all") == "ok"
        for _ in range(2):
            server.wait_clean()
            server.wait_until(lambda: server.status()["guard"]["connections"] == 3, "stored")
            server.wait_until(lambda: called(server) == 2, "what they are called is stored")
            server.kill_all_but_guard()
            assert one.ask("who").startswith("device-17 all ")
            assert other.ask("who").startswith(" all ")
            assert server.cli("push", "device-17", "on", "-n").exit_code == 0
            assert one.hear() == "on"
            assert server.cli("publish", "all", "noon", "-n").stdout == "delivered: 2\nfailed: 0\n"
            assert (one.hear(), other.hear()) == ("noon", "noon")


def called(server: GuardedServer) -> int:
    """Return of how many connections the guard has what they are called."""
    places = [Path(f"/proc/{server.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{server.pid}/fd")]
    return sum("socketkeep-called" in os.readlink(place) for place in places)


_ON_PUSH: Final = """
def on_push(conn, message):
    assert message != b"fail\\n"
    conn.send(b"<" + message.strip() + b">\\n")

service = Service(handle, on_push=on_push)
"""


@pytest.mark.parametrize("model", ["async", "thread", "fork"])
def test_on_push_is_called_between_messages(tmp_path: Path, model: str) -> None:
    """Also where the connection is parked: then it is woken for it."""
    source = _ASYNC if model == "async" else _SYNC
    own = _ON_PUSH
    if model == "async":
        own = own.replace("def on", "async def on").replace("conn.send", "await conn.send")
    write(tmp_path, source + own)
    park_after = "off" if model == "fork" else "0.05s"
    options = ("--model", model, "--workers", "2", "--park-after", park_after)
    with Server(tmp_path, "app:service", *options) as server, peers(server, 3) as everybody:
        call(everybody)
        sender, other, third = everybody
        for text in ("begin", "again"):
            if model != "fork":
                server.wait_until(lambda: server.status()["connections"]["parked"] == 3, "parked")
            assert sender.ask(f"push 1 {text}") == "delivered"
            assert other.hear() == f"<{text}>"
            assert sender.ask("push 1 fail") == "delivered"
            server.wait_event("on_push failed")
            assert other.ask("who").split()[:2] == ["1", "all"]
            assert sender.ask(f"publish all {text}") == "3 0"
            assert {sender.hear(), other.hear(), third.hear()} == {f"<{text}>"}
            server.reload()
        if model != "fork":
            server.wait_until(lambda: server.status()["connections"]["parked"] == 3, "parked")
            assert server.cli("push", "2", "wake").exit_code == 0
            assert third.hear() == "<wake>"


_PLAIN: Final = """
def handle(conn):
    for line in conn.lines():
        verb, _, rest = line.decode().partition(" ")
        if verb == "name":
            conn.name = rest
        elif verb == "join":
            conn.join(rest)
        conn.send(b"ok\\n")
"""


@pytest.mark.parametrize(
    ("model", "target", "keep"),
    [
        ("thread", "app:handle", "crash"),
        ("prefork", "app:service", "reload"),
        ("fork", "app:handle", "reload"),
        ("fork", "app:service", "crash"),
    ],
)
def test_pushed_to_in_its_receive_after_the_keeper_was_killed(
    tmp_path: Path, model: str, target: str, keep: str
) -> None:
    """At no safe point it stays with its worker, and its handler does nothing for it."""
    write(tmp_path, _PLAIN + _ON_PUSH)
    after = ("--keep-after", "0s") if keep == "crash" else ()
    options = ("--model", model, "-w", "2", "--park-after", "off", "--keep", keep, *after)
    with (
        GuardedServer(tmp_path, target, *options) as server,
        peers(server, 1) as (peer,),
    ):
        assert peer.ask("name device-17") == peer.ask("join all") == "ok"
        owner = owners(server)["device-17"]
        for _ in range(2):
            server.kill_keeper()
            server.wait_until(
                lambda: server.cli("push", "device-17", "on", "-n").exit_code == 0, "delivered"
            )
            assert peer.hear().strip("<>") == "on"
            assert server.cli("publish", "all", "noon", "-n").stdout == "delivered: 1\nfailed: 0\n"
            assert peer.hear().strip("<>") == "noon"
        assert owners(server) == {"device-17": owner}


@pytest.mark.parametrize(("model", "how"), [("thread", "reload"), ("fork", "upgrade")])
def test_pushed_to_in_its_receive_while_it_cannot_move(
    tmp_path: Path, model: str, how: str
) -> None:
    options = ("--model", model, "-w", "2", "--park-after", "off")
    with (
        Server(tmp_path, write(tmp_path, _PLAIN), *options) as server,
        peers(server, 1) as (peer,),
    ):
        assert peer.ask("name device-17") == "ok"
        owner = owners(server)["device-17"]
        assert server.cli(how).exit_code == 0
        assert server.cli("push", "device-17", "on", "-n").exit_code == 0
        assert peer.hear() == "on"
        assert owners(server) == {"device-17": owner}
