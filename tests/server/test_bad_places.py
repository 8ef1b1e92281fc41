"""Addresses and files that a server cannot have: who or what is in the way, in one line."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.harness import Server, write_handler
from tests.server.support import as_plain_user, complaint, plain_users_directory, run


def _refused(directory: Path, *binds: str, prefix: list[str] | None = None) -> str:
    arguments = [part for bind in binds for part in ("--bind", bind)]
    finished = run(directory, "serve", "app:handle", *arguments, prefix=prefix or [])
    error = complaint(finished, 1)
    assert "\n" not in error
    return error


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_port_in_use(tmp_path: Path, family: socket.AddressFamily, host: str) -> None:
    """The process that holds the port is named."""
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        error = _refused(tmp_path, address)
    assert address in error
    assert "in use" in error
    assert f"held by process {os.getpid()} (" in error


def test_port_of_another_server(tmp_path: Path) -> None:
    """So is a server of ours; it goes on, and of what was bound before nothing is left."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Server(tmp_path, target) as server:
        before = tmp_path / "before"
        error = _refused(tmp_path, f"unix:{before}", server.address)
        assert f"held by process {server.pid} (" in error
        assert not before.exists()
        assert server.status()["state"] == "running"


def test_unix_path_of_a_live_server(tmp_path: Path) -> None:
    """A path on which somebody listens is refused, and left as it is."""
    path = tmp_path / "listener"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        error = _refused(tmp_path, f"unix:{path}")
        assert f"unix:{path}: a server is listening there" in error
        assert f"held by process {os.getpid()} (" in error
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))


def test_abstract_name_in_use(tmp_path: Path) -> None:
    """The same for a name in the abstract namespace."""
    name = f"socketkeep-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"\0{name}")
        taken.listen()
        error = _refused(tmp_path, f"unix:@{name}")
    assert f"unix:@{name}" in error
    assert f"held by process {os.getpid()} (" in error


def test_file_in_the_way(tmp_path: Path) -> None:
    """What is no socket is never removed."""
    path = tmp_path / "precious"
    path.write_text("keep me")
    assert f"unix:{path}" in _refused(tmp_path, f"unix:{path}")
    assert path.read_text() == "keep me"


def test_unix_path_without_directory(tmp_path: Path) -> None:
    """The path is named."""
    error = _refused(tmp_path, f"unix:{tmp_path}/missing/listener")
    assert f"unix:{tmp_path}/missing/listener" in error
    assert "irectory" in error


def test_port_not_permitted() -> None:
    """A privileged port without the privilege: refused with the reason, not with a traceback."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first == 0:
        pytest.skip("every port is permitted here")
    with plain_users_directory() as directory:
        error = _refused(directory, "127.0.0.1:1", prefix=as_plain_user())
    assert "127.0.0.1:1" in error
    assert "not permitted" in error


def test_address_of_another_machine(tmp_path: Path) -> None:
    """An address that no interface here has."""
    error = _refused(tmp_path, "192.0.2.1:7000")
    assert "192.0.2.1:7000" in error


def test_name_that_does_not_resolve(tmp_path: Path) -> None:
    """A host name that nobody knows (RFC 6761 keeps .invalid free)."""
    assert "nowhere.invalid" in _refused(tmp_path, "nowhere.invalid:7000")


def test_descriptor_that_is_no_listener(tmp_path: Path) -> None:
    """fd://0 is not even a socket."""
    assert "fd://0" in _refused(tmp_path, "fd://0")


def test_log_file_not_permitted() -> None:
    """A log file of another user's."""
    with plain_users_directory() as directory:
        file = directory / "server.log"
        file.touch(0o444)
        if os.geteuid() == 0:
            os.chown(file, 0, 0)
        finished = run(
            directory, *("serve", "app:handle", "--log-file", str(file)), prefix=as_plain_user()
        )
        error = complaint(finished, 2)
    assert error == f"--log-file: cannot append to {file}: Permission denied"


def test_runtime_directory_not_permitted() -> None:
    """The control socket has no place: the directory is named."""
    with plain_users_directory() as directory:
        place = directory / "closed"
        place.mkdir(0o500)
        finished = run(
            directory,
            *("serve", "app:handle", "-b", "127.0.0.1:0"),
            prefix=as_plain_user(),
            environment={"SOCKETKEEP_RUNTIME_DIR": str(place / "run")},
        )
        error = complaint(finished, 1)
    assert str(place) in error
    assert "Permission denied" in error
