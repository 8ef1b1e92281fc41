"""Who says nothing, or reads nothing, locks nobody out: at the control socket and at the page."""

from __future__ import annotations

import http.client
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.admin.control import FULL, answered, bound_unread, client, guests
from tests.admin.web import admin_pid, admin_port
from tests.harness import Server, connect, write_handler
from tests.keeper.fakes import Clock, SteppedReactor


def test_the_oldest_idle_one_goes() -> None:
    room = guests(4, 3, 3)
    for guest, peer in ((1, "a"), (2, "a"), (3, "b"), (4, "c")):
        assert room.make_room(peer) is None
        room.enter(guest, peer)
    assert room.make_room("b") == 1  # of the peer that has most
    room.busy(1)
    assert room.make_room("b") == 2
    room.busy(2)
    assert room.make_room("b") == 3
    room.busy(3)
    with pytest.raises(FULL):
        room.busy(4)
    assert room.make_room("b") == 4
    room.leave(4)
    room.enter(5, "a")
    assert room.make_room("a") == 5  # its share is full
    room.leave(5)
    assert room.make_room("b") is None


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["busy", "idle", "leave", ""]))))
def test_bounds_hold(steps: list[tuple[int, str]]) -> None:
    """Whoever comes and does what: no more than there is room for, and a peer not its share."""
    room = guests(6, 3, 5)
    peers: dict[int, int] = {}
    for number, (peer, what) in enumerate(steps):
        try:
            gone = room.make_room(peer)
        except FULL:
            continue
        if gone is not None:
            room.leave(gone)
            del peers[gone]
        room.enter(number, peer)
        peers[number] = peer
        assert set(room) == peers.keys()
        assert len(peers) <= 6
        assert max(list(peers.values()).count(each) for each in range(4)) <= 3
        try:
            if what:
                getattr(room, what)(number)
        except FULL:
            pass
        if what == "leave":
            del peers[number]


def ask_page(port: int, target: str, **headers: str) -> int:
    """Return the status of an answer to GET."""
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    asked.putrequest("GET", target, skip_host=True)
    for name, value in {"Host": "x", **headers}.items():
        asked.putheader(name, value)
    asked.endheaders()
    status = asked.getresponse().status
    asked.close()
    return status


@pytest.mark.system
def test_silent_clients(tmp_path: Path) -> None:
    """More than there is room for, at both; and targets that no parser of URLs takes."""
    target = write_handler(tmp_path, "v0", is_async=True)
    options = ("--admin", "127.0.0.1:0", "--admin-token", "a-token-of-sixteen", "-w", "1")
    with Server(tmp_path, target, *options) as server, ExitStack() as stack:
        port = admin_port(server)
        assert ask_page(port, "/healthz") == 200
        silent = [stack.enter_context(connect(f"127.0.0.1:{port}", timeout=10)) for _ in range(100)]
        silent[-1].sendall(b"GET /he")
        for _ in range(100):
            asked = stack.enter_context(socket.socket(socket.AF_UNIX))
            asked.connect(str(server.control))
        assert server.status()["state"] == "running"
        assert ask_page(port, "/healthz") == 200
        assert silent[0].recv(1) == b""
        silent[-1].sendall(b"althz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent[-1].recv(12) == b"HTTP/1.1 200"
        for hostile in (
            "//[a1]/",
            "//[",
            "http://[x/",
            "///",
            "*",
            "http://x",
            "/?token=%ED%A0%80",
        ):
            assert ask_page(port, hostile) == 401, hostile
        shown = admin_pid(server)
        right = {"Authorization": "Bearer a-token-of-sixteen"}
        assert ask_page(port, "http://x/metrics", **right) == 200
        assert ask_page(port, "//[a1]/", **right) == 404
        assert admin_pid(server) == shown
    assert not server.find("internal error, please report it")


class _Slow:
    """Commands that take long."""

    def run(self, line: bytes, client: Any) -> None:
        client.command = line.decode()


def test_who_does_not_take_the_answer() -> None:
    """It may go when there is no room, and goes after a while; who takes it is not hurried."""
    clock = Clock()
    reactor = SteppedReactor(clock)
    room = guests(4, 4, 4)
    ours, theirs = socket.socketpair()
    with theirs:
        slow = client(ours, reactor, _Slow(), room)
        theirs.sendall(b"anything\n")
        reactor.settle()
        clock.now += 3600
        reactor.settle()
        assert len(room) == 1  # a command that takes long
        slow.finish(answered("x" * 5_000_000))
        room.most = 1
        assert room.make_room(2) is slow
        clock.now += 29
        reactor.settle()
        assert len(room) == 1
        clock.now += 2
        reactor.settle()
        assert len(room) == 0
        theirs.settimeout(5)
        while theirs.recv(1 << 20):
            pass
    reactor.close()


class _Broken:
    """Commands that have a bug."""

    def run(self, line: bytes, client: Any) -> None:
        raise LookupError(line)


def test_a_command_that_raises_is_answered() -> None:
    """Who asked does not wait in vain, and the keeper's loop is told of the bug."""
    reactor = SteppedReactor(Clock())
    room = guests(4, 4, 4)
    ours, theirs = socket.socketpair()
    with theirs:
        client(ours, reactor, _Broken(), room)
        theirs.sendall(b"anything\n")
        with pytest.raises(LookupError):
            reactor.settle()
        assert b"internal error of the server, see its log: LookupError" in theirs.recv(65536)
    reactor.close()


def test_who_does_not_ask() -> None:
    clock = Clock()
    reactor = SteppedReactor(clock)
    room = guests(4, 4, 4)
    ours, theirs = socket.socketpair()
    with theirs:
        client(ours, reactor, None, room)
        theirs.sendall(b'{"command": "sta')
        reactor.settle()
        clock.now += 11
        reactor.settle()
        assert len(room) == 0
        assert theirs.recv(1) == b""
    reactor.close()


def test_answers_that_nobody_takes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory, all together: the oldest go."""
    bound_unread(monkeypatch, 12_000_000)
    reactor = SteppedReactor(Clock())
    room = guests(9, 9, 9)
    with ExitStack() as stack:
        for number in range(4):
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            late = client(ours, reactor, None, room, peer=number)
            late.finish(answered("x" * 5_000_000))
        assert list(room._peers.values()) == [2, 3]
        for late in room:
            late.close()
    reactor.close()
