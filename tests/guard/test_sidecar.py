"""A guard of its own holds what servers have that come one after another, as containers do."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.guard.support import HELLO, GuardedServer, Sidecar, given, kill_together, store_at
from tests.guard.test_guarded import KEEP, ask, held
from tests.harness import Capture, connect, read_reply, write_handler
from tests.harness.command import main
from tests.server.support import seats

CLIENTS: Final = 3
NAME: Final = ("--name", "app")
AGAIN: Final = "holds it again"


def server(directory: Path, target: str, sidecar: Sidecar) -> GuardedServer:
    options = (*seats("prefork", CLIENTS + 2), *KEEP, *NAME, "--park-after", "0.1")
    return GuardedServer(directory, target, *options, guard=sidecar.address)


@pytest.mark.timeout(120)
def test_one_server_after_another(tmp_path: Path) -> None:
    """Other code after TERM, the same after SIGKILL; who connects in between waits; a stop ends."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with ExitStack() as stack:
        sidecar = stack.enter_context(Sidecar(tmp_path))
        first = stack.enter_context(server(tmp_path, target, sidecar))
        address, port = first.address, first.port
        clients = [stack.enter_context(connect(address)) for _ in range(CLIENTS)]
        capture = None if Capture.missing() else stack.enter_context(Capture(port))
        for client in clients:
            assert ask(client, b"a") == b"1 a v0"
        first.wait_until(lambda: held(first) == CLIENTS, "all to be stored")
        first.signal(signal.SIGTERM)
        assert first.wait_exit() == 0
        write_handler(tmp_path, "v1", is_async=False)
        clients[0].sendall(b"b\n")
        clients.append(stack.enter_context(connect(address)))
        clients[-1].sendall(b"b\n")
        second = stack.enter_context(server(tmp_path, target, sidecar))
        assert read_reply(clients[0]) == b"2 b v1"
        assert read_reply(clients[-1]) == b"1 b v1"
        assert ask(clients[1], b"b") == b"2 b v1"
        second.wait_clean()
        second.wait_until(lambda: held(second) == CLIENTS + 1, "all to be stored")
        second.kill_all()
        third = stack.enter_context(server(tmp_path, target, sidecar))
        assert ask(clients[0], b"c") == b"3 c v1"
        assert ask(clients[2], b"c") == b"2 c v1"
        assert third.status()["totals"]["lost"] == 0
        if capture is not None:
            assert capture.stop().to({each.getsockname()[1] for each in clients}) == (0, 0)
        assert third.cli("stop").exit_code == 0
        assert third.wait_exit() == 0
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", port)) != 0, "it holds nothing any more"


def test_the_sidecar_is_started_again(tmp_path: Path) -> None:
    """Serving goes on, and another one is given all that the dead one had."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with ExitStack() as stack:
        sidecar = stack.enter_context(Sidecar(tmp_path))
        first = stack.enter_context(server(tmp_path, target, sidecar))
        client = stack.enter_context(connect(first.address))
        assert ask(client, b"a") == b"1 a v0"
        first.wait_until(lambda: held(first) == 1, "it to be stored")
        sidecar.process.kill()
        sidecar.process.wait()
        assert ask(client, b"b") == b"2 b v0"
        again = stack.enter_context(Sidecar(tmp_path))
        first.wait_until(lambda: any(AGAIN in line for line in first.stderr), AGAIN)
        first.wait_clean()
        first.kill_all()
        stack.enter_context(server(tmp_path, target, again))
        assert ask(client, b"c") == b"3 c v0"


@pytest.mark.timeout(120)
def test_guard_and_keeper_die_one_after_the_other(tmp_path: Path) -> None:
    """The guard's successor has not reached the sidecar when all but these two is killed.

    Nothing tells it anything any more, and yet it has all.  Then it is killed, too: so has the
    sidecar.
    """
    target = write_handler(tmp_path, "v0", is_async=False)
    with ExitStack() as stack:
        sidecar = stack.enter_context(Sidecar(tmp_path))
        first = stack.enter_context(server(tmp_path, target, sidecar))
        clients = [stack.enter_context(connect(first.address)) for _ in range(CLIENTS)]
        capture = None if Capture.missing() else stack.enter_context(Capture(first.port))
        for number in (1, 2):
            for client in clients:
                assert ask(client, b"a") == b"%d a v0" % number
            first.wait_until(lambda: handoffs(sidecar) == CLIENTS, "all of them to be parked")
            sidecar.process.send_signal(signal.SIGSTOP)
            first.kill_guard()
            others = [pid for pid in first.processes() if pid != first.guard]
            since = first.mark()
            kill_together(others if number == 1 else [*others, first.guard])
            sidecar.process.send_signal(signal.SIGCONT)
            if number == 1:
                first.wait_event("ready", since=since)
                first.wait_until(lambda: any(AGAIN in line for line in first.stderr), AGAIN)
        second = stack.enter_context(server(tmp_path, target, sidecar))
        for client in clients:
            assert ask(client, b"b") == b"3 b v0"
        assert second.status()["totals"]["lost"] == 0
        if capture is not None:
            assert capture.stop().to({each.getsockname()[1] for each in clients}) == (0, 0)


def handoffs(sidecar: Sidecar) -> int:
    """Return how many connections the sidecar has as such that no worker serves."""
    place = f"/proc/{sidecar.process.pid}/fd"
    found = 0
    for fd in os.listdir(place):
        with suppress(FileNotFoundError):
            found += os.readlink(f"{place}/{fd}").startswith("/memfd:socketkeep-parcel")
    return found


def test_refused(tmp_path: Path) -> None:
    """Two servers of a name, and another version: one line each; another user finds no way in."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Sidecar(tmp_path) as sidecar, server(tmp_path, target, sidecar):
        other = server(tmp_path / "other", target, sidecar)
        other._wait_ready = False
        with other:
            assert other.wait_exit() == 1
        assert other.stderr[-1].endswith(
            "a server named 'app' is connected: stop that one, or give another --name"
        )
        path = sidecar.address.removeprefix("unix:")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as newer:
            newer.connect(path)
            newer.send(b"HELLO=9\nSERVER=b")
            assert newer.recv(1000) == b"REFUSED=it speaks version '9', and the guard 1"
            assert newer.recv(1000) == b""
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, "no other user can connect"


@pytest.mark.parametrize("pure", [False, True])
def test_what_is_said_to_it(tmp_path: Path, pure: bool) -> None:
    """Compiled or in Python: what is stored, what has no room, who is refused, how it ends."""
    with Sidecar(tmp_path, "--store", "3", pure=pure) as sidecar:
        with sidecar.connect(HELLO) as app, sidecar.connect(b"HELLO=1\nSERVER=other") as other:
            assert given(app) == given(other) == {}
            for name in (b"a", b"b"):
                store_at(app, b"FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, name)
            store_at(app, b"FDSTORE=1\nFDNAME=a", b"another")
            store_at(app, b"FDSTORE=1\nFDNAME=c")
            store_at(app, b"FDSTORE=1\nFDNAME=", b"no name")
            store_at(app, b"FDSTORE=1\nFDNAME=" + b"x" * 256, b"too long")
            store_at(app, b"\xff\0=\n==\n", b"", b"", b"")
            app.send(b"FDSTOREREMOVE=1\nFDNAME=b")
            app.send(b"FDSTOREREMOVE=1\nFDNAME=none")
            store_at(app, b"FDSTORE=1\nFDNAME=d", b"d", b"not stored")
            with sidecar.connect(HELLO) as second:
                assert second.recv(1000).startswith(b"REFUSED=a server named 'app' is connected")
                assert second.recv(1000) == b""
            for name in (b"e", b"f"):
                store_at(app, b"FDSTORE=1\nFDNAME=" + name, name)
            sidecar.wait_said("the guard is full")
        for hello, why in (
            (b"HELLO=2\nSERVER=app", b"it speaks version '2', and the guard 1"),
            (b"\xff\xfe", b"it speaks version None, and the guard 1"),
            (b"HELLO=1\nSERVER=", b"a server has a name of 1 to 255 characters"),
            (b"HELLO=1\nSERVER=" + b"x" * 256, b"a server has a name of 1 to 255 characters"),
        ):
            with sidecar.connect(hello) as refused:
                assert refused.recv(1000) == b"REFUSED=" + why
                assert refused.recv(1000) == b""
        with sidecar.connect(HELLO) as again:
            assert given(again) == {b"a": b"a", b"d": b"d", b"e": b"e"}
            sidecar.process.send_signal(signal.SIGTERM)
            assert sidecar.process.wait(10.0) == 0
            assert again.recv(1000) == b""


def test_more_guests_than_it_has_room_for(tmp_path: Path) -> None:
    """A guest too many is told so, and those that were there go on; so is a server too many."""
    with Sidecar(tmp_path) as sidecar, ExitStack() as stack:
        guests = [
            stack.enter_context(sidecar.connect(b"HELLO=1\nSERVER=%d" % number))
            for number in range(256)
        ]
        for guest in guests[:64]:
            assert given(guest) == {}
        for guest in guests[64:]:
            assert guest.recv(1000) == b"REFUSED=64 servers are known"
        silent = [stack.enter_context(sidecar.connect(None)) for _ in range(256 - 64)]
        with sidecar.connect(HELLO) as late:
            assert late.recv(1000) == b"REFUSED=256 are connected"
        for guest in silent:
            guest.send(b"")
            assert guest.recv(1000) == b""
        store_at(guests[0], b"FDSTORE=1\nFDNAME=a", b"a")
        guests[0].close()
        sidecar.wait_said("server gone")
        with sidecar.connect(b"HELLO=1\nSERVER=0") as again:
            assert given(again) == {b"a": b"a"}


def test_a_path_that_will_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says why, and what to do about it."""
    taken = f"unix:{tmp_path}/taken"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(f"{tmp_path}/taken")
        other.listen()
        for listen, code, said in (
            ("relative", 2, "relative: expected unix:/PATH"),
            ("unix:/none/guard", 1, "No such file or directory: make its directory first"),
            (taken, 1, "Address already in use: a guard listens there already"),
        ):
            assert main(["guard", "--listen", listen]) == code
            (line,) = capsys.readouterr().err.splitlines()
            assert line.endswith(f"--listen {said}" if code == 2 else f"--listen {listen}: {said}")


@pytest.mark.parametrize("text", ["unix:", "unix:relative", "yes"])
def test_an_address_that_is_none(tmp_path: Path, text: str) -> None:
    one = GuardedServer(tmp_path, "app:handle", guard=text)
    one._wait_ready = False
    with one:
        assert one.wait_exit() == 2
    assert f"expected auto, on, off or unix:/PATH, got '{text}'" in one.stderr[-1]


@pytest.mark.timeout(120)
def test_what_cannot_be_read(tmp_path: Path) -> None:
    """Its connection is closed in an orderly way, which the log says; the others go on."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with ExitStack() as stack:
        sidecar = stack.enter_context(Sidecar(tmp_path))
        first = stack.enter_context(server(tmp_path, target, sidecar))
        clients = [stack.enter_context(connect(first.address)) for _ in range(2)]
        for client in clients:
            assert ask(client, b"a") == b"1 a v0"
        first.wait_until(lambda: held(first) == 2, "all to be stored")
        first.signal(signal.SIGTERM)
        assert first.wait_exit() == 0
        spoil(sidecar.address, "socketkeep.parcel.")
        second = stack.enter_context(server(tmp_path, target, sidecar))
        closed = [client for client in clients if read_or_ask(client) == b""]
        assert len(closed) == 1
        assert "cannot restore a connection" in {event["event"] for event in second.events}
        assert second.status()["guard"]["connections"] == 1


def read_or_ask(client: socket.socket) -> bytes:
    """Return the next reply, b"" where the connection has been closed, and was not reset."""
    client.sendall(b"b\n")
    return client.recv(100)


def spoil(address: str, prefix: str) -> None:
    """Put something else in the place of one thing that a sidecar holds for a server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(address.removeprefix("unix:"))
        sock.send(b"HELLO=1\nSERVER=app")
        names = []
        while (words := socket.recv_fds(sock, 1000, 1))[0] != b"END=1":
            names.append(words[0].decode().removeprefix("FDNAME="))
            os.close(words[1][0])
        name = next(name for name in names if name.startswith(prefix))
        memfd = os.memfd_create("spoilt", os.MFD_ALLOW_SEALING)
        os.write(memfd, b"\xc1" * 100)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
        sock.send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())
        socket.send_fds(sock, [f"FDSTORE=1\nFDNAME={name}".encode()], [memfd])
        os.close(memfd)
