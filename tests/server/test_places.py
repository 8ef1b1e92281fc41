"""Where a server is: its directory, its sockets' files, and what others do to them meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_handler


def _release(directory: Path, name: str, version: str) -> Path:
    """Make a release of the application, and return its directory."""
    made = directory / name
    made.mkdir()
    write_handler(made, version, is_async=False)
    return made


def _switch(link: Path, release: Path) -> None:
    """Have a link lead to another release, at one instant."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(release.name)
    fresh.rename(link)


@pytest.mark.parametrize("by_option", [False, True], ids=["where it was started", "--chdir"])
def test_a_link_to_the_release(tmp_path: Path, by_option: bool) -> None:
    """Each reload goes where the link leads by then, and does without the earlier release."""
    first, second = _release(tmp_path, "r1", "v1"), _release(tmp_path, "r2", "v2")
    link = tmp_path / "current"
    link.symlink_to(first.name)
    where, options = (tmp_path, ("--chdir", "current")) if by_option else (link, ())

    def reply_to_a_newcomer() -> bytes:
        with connect(server.address) as peer:
            peer.sendall(b"a\n")
            return read_reply(peer)

    with Server(where, "handlers:handle", *options) as server:
        assert reply_to_a_newcomer() == b"1 a v1"
        _switch(link, second)
        server.signal(signal.SIGHUP)
        server.wait_event("reload done")
        assert reply_to_a_newcomer() == b"1 a v2"
        shutil.rmtree(first)
        server.signal(signal.SIGHUP)
        server.wait_event("reload done", count=2)
        assert reply_to_a_newcomer() == b"1 a v2"


def test_another_directory_of_the_same_name(tmp_path: Path) -> None:
    """A line says that the name and the directory have parted; without any, the error has both."""
    release = _release(tmp_path, "release", "v1")
    with (
        Server(tmp_path, "handlers:handle", "--chdir", "release") as server,
        connect(server.address) as peer,
    ):
        peer.sendall(b"a\n")
        assert read_reply(peer) == b"1 a v1"
        release.rename(tmp_path / "moved")
        _release(tmp_path, "release", "v2")
        assert server.reload().exit_code == 0
        peer.sendall(b"b\n")
        assert read_reply(peer) == b"2 b v2"
        changed = server.wait_event("working directory changed", path=str(release))
        assert changed["was"] == str(tmp_path / "moved")
        shutil.rmtree(release)
        failed = server.cli("reload")
        assert failed.exit_code == 4
        assert f"cannot enter the working directory {release}: No such file" in failed.stderr
        peer.sendall(b"c\n")
        assert read_reply(peer) == b"3 c v2"


def test_a_socket_file_that_was_removed(tmp_path: Path) -> None:
    """It is made anew by a reload; where something else has the place, that is said."""
    target = write_handler(tmp_path, "v0", is_async=False)
    path = tmp_path / "listener"
    with Server(tmp_path, target, bind=[f"unix:{path}"]) as server:
        with connect(server.address) as peer:
            path.unlink()
            assert server.reload().exit_code == 0
            server.wait_event("the socket's file was gone and is made anew")
            with connect(server.address) as new:
                for each in (peer, new):
                    each.sendall(b"a\n")
                    assert read_reply(each) == b"1 a v0"
            path.unlink()
            path.mkdir()
            assert server.reload().exit_code == 0
            said = server.wait_event("the socket's file is gone and cannot be made anew")
            assert "not a socket is in the way" in said["error"]
            peer.sendall(b"b\n")
            assert read_reply(peer) == b"2 b v0"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
    assert path.is_dir()


def test_a_control_socket_that_was_removed(tmp_path: Path) -> None:
    """As programs do that tidy up /tmp; HUP is heard all the same, and makes it anew."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Server(tmp_path, target) as server:
        server.control.unlink()
        server.signal(signal.SIGHUP)
        server.wait_event("reload done")
        server.wait_event("the control socket's file was gone and is made anew")
        assert server.status()["generation"] == 2


def test_a_directory_that_somebody_has_locked(tmp_path: Path) -> None:
    """Anybody who may read it may lock it: it is not waited for, and who has it is said."""
    target = write_handler(tmp_path, "v0", is_async=False)
    place = tmp_path / "sockets"
    place.mkdir()
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with Server(tmp_path, target, bind=[f"unix:{place}/listener"]) as server:
            (said,) = (each["event"] for each in server.events if "flock" in each["event"])
            assert f"{place} is locked (flock) by process {os.getpid()} for more than" in said
            with connect(server.address) as peer:
                peer.sendall(b"a\n")
                assert read_reply(peer) == b"1 a v0"
    finally:
        os.close(fd)


def test_a_link_where_a_socket_is_to_be(tmp_path: Path) -> None:
    """It is refused, and what it leads to keeps its permissions."""
    target = write_handler(tmp_path, "v0", is_async=False)
    secret = tmp_path / "secret"
    secret.write_text("")
    secret.chmod(0o600)
    (tmp_path / "listener").symlink_to(secret)
    with Server(tmp_path, target, bind=[f"unix:{tmp_path}/listener"], wait_ready=False) as server:
        assert server.wait_exit() == 1
    assert any("a file that is not a socket is in the way" in line for line in server.stderr)
    assert secret.stat().st_mode & 0o777 == 0o600


def test_both_families_of_one_port(tmp_path: Path) -> None:
    """0.0.0.0 beside [::], as everybody writes it: the second leaves IPv4 to the first."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Server(tmp_path, target, bind=["0.0.0.0:0"]) as server:
        port = server.port
    with Server(tmp_path, target, bind=[f"0.0.0.0:{port}", f"[::]:{port}"]):
        for host in ("127.0.0.1", "[::1]"):
            with connect(f"{host}:{port}") as peer:
                peer.sendall(b"a\n")
                assert read_reply(peer) == b"1 a v0"
