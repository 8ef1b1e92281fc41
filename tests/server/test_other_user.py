"""A server that is started as root, and serves as another user, seen by peers and by /proc."""

from __future__ import annotations

import datetime as dt
import os
import pwd
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.admin.web import admin_port, fetch
from tests.edge.support import AUTHORITY, HOST, begin, issue
from tests.harness import Server, connect, read_reply, write_source
from tests.server.other_user import GROUPS, USER, World, another_users_world, rights
from tests.server.support import (
    OTHER_UID,
    as_plain_user,
    complaint,
    plain_users_directory,
    run,
)
from tests.systemd.managed import ManagedServer
from tests.systemd.manager import Manager

#: CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, SYS_PTRACE.
_KEPT: Final = "00000000000800eb"
_NONE: Final = "0" * 16
_HANDLER: Final = """
import os
from socketkeep import resumable

def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"

@resumable
def handle(conn):
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        made = os.open(f"made-{count}", os.O_CREAT, 0o666)
        mode = os.fstat(made).st_mode & 0o777
        os.close(made)
        who = f"{os.getuid()} {os.getgid()} {sorted(os.getgroups())} {mode:o}"
        tried = f"{attempt(os.setuid, 0)} {attempt(open, 'secret')}"
        conn.send(f"{count} {conn.attached} {who} {tried}\\n".encode())
        conn.commit(count)
"""
_REPLY: Final = f"{OTHER_UID} {OTHER_UID} {list(GROUPS)} 640 PermissionError PermissionError"


@pytest.fixture
def world() -> Iterator[World]:
    """A place for a server of another user, with code, and a file that only root may read."""
    with another_users_world() as made:
        os.chown(made.directory, OTHER_UID, OTHER_UID)
        secret = made.directory / "secret"
        secret.touch(mode=0o600)
        yield made


def low_address() -> str:
    """Return an address that only root may bind, and no other test has."""
    pid = os.getpid()
    return f"127.77.{pid >> 8 & 255}.{(pid & 255) or 1}:81"


def said(peer: socket.socket, count: int, attached: str) -> None:
    peer.sendall(b"x\n")
    assert read_reply(peer) == f"{count} {attached} {_REPLY}".encode()


def wait_kept(server: Server) -> None:
    """Wait until the connection's last message is committed, and the keeper has a handle of it."""
    server.wait_until(lambda: not server.connections()[0]["busy"], "clean")
    server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "kept")


def all_are_the_users(server: Server, *, keeper: bool) -> None:
    """Check who each process of a server is; keeper: it has become that user, too."""
    processes = server.processes()
    assert len(processes) >= 4, processes  # keeper, admin, template, worker
    for pid in processes:
        found = rights(pid)
        if pid == server.pid and not keeper:
            assert (found["Uid"], found["CapEff"], found["CapBnd"]) == (["0"] * 4, [_KEPT], [_KEPT])
            continue
        assert found["Uid"] == [str(OTHER_UID)] * 4, processes[pid]
        assert found["Gid"] == [str(OTHER_UID)] * 4, processes[pid]
        assert sorted(found["Groups"]) == [str(group) for group in GROUPS], processes[pid]
        assert found["CapEff"] == found["CapPrm"] == [_NONE], processes[pid]
        assert found["Umask"] == ["0027"]


@pytest.mark.parametrize("rebind", [True, False], ids=["keeper stays", "--no-rebind"])
def test_a_life(world: World, *, rebind: bool) -> None:
    """A low port, kept through a reload, a worker's death and an upgrade, and closed in order."""
    target = write_source(world.directory, _HANDLER)
    address = low_address()
    options = () if rebind else ("--no-rebind",)
    with world.server(
        target,
        *("-k", "thread", "--umask", "027", "--admin", "127.0.0.1:0"),
        *("--keep", "crash", "--keep-after", "0", "--park-after", "off"),
        *options,
        bind=[address],
    ) as server:
        with connect(address) as peer:
            said(peer, 1, "accepted")
            server.wait_until(lambda: fetch(admin_port(server), "/readyz").status == 200, "ready")
            all_are_the_users(server, keeper=not rebind)
            server.reload()
            said(peer, 2, "reload")
            assert server.cli("upgrade").exit_code == 0
            said(peer, 3, "upgrade")
            (worker,) = server.workers()
            wait_kept(server)
            os.kill(worker["pid"], signal.SIGKILL)
            said(peer, 4, "crash")
            server.wait_until(lambda: fetch(admin_port(server), "/readyz").status == 200, "ready")
            all_are_the_users(server, keeper=not rebind)
            assert server.cli("stop").exit_code == 0
            assert peer.recv(1) == b""
        assert server.wait_exit() == 0
        assert not [event for event in server.events if event["level"] == "error"]
    # Who has given up all rights cannot remove what root has made in a directory of root's.
    assert server.control.exists() is not rebind


def test_the_next_keeper_takes_over(world: World) -> None:
    """The workers of a dead keeper, and root, find each other where neither has a way alone."""
    target = write_source(world.directory, _HANDLER)
    address = low_address()
    options = ("--umask", "027")
    with world.server(target, *options, bind=[address]) as first, connect(address) as peer:
        said(peer, 1, "accepted")
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait(10.0)
        with world.server(target, *options, bind=[address]) as second:
            second.wait_event("worker adopted", connections=1)
            second.wait_event("worker exited", pid=first.find("worker ready")[0]["pid"])
            said(peer, 2, "reload")
            second.signal(signal.SIGTERM)
            assert second.wait_exit() == 0
            assert list(second.control.parent.iterdir()) == []


def test_the_managers_store(world: World) -> None:
    """All of the server is killed: the next one has its connections from the store."""
    target = write_source(world.directory, _HANDLER)
    options = ("-k", "thread", "--keep", "crash", "--keep-after", "0", "--park-after", "off")

    def server() -> ManagedServer:
        made = ManagedServer(
            manager, world.directory, target, *options, "--user", USER, "--umask", "027"
        )
        made._command = [*world.prefix, *made._command]
        return made

    with Manager(world.directory.parent) as manager:
        with server() as first:
            peer = connect(first.address)
            said(peer, 1, "accepted")
            manager.wait_stored(lambda names: any("connection" in each for each in names), "stored")
            wait_kept(first)
            first.kill_all()
        with peer, server() as second:
            said(peer, 2, "crash")
            second.signal(signal.SIGTERM)
            assert second.wait_exit() == 0


def looks_into(pid: int) -> bool:
    """Whether the user may look into a process."""
    become = ["setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups"]
    done = subprocess.run([*become, "cat", f"/proc/{pid}/maps"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("rebind", [True, False], ids=["keeper stays", "--no-rebind"])
def test_keys_that_root_alone_may_read(world: World, *, rebind: bool) -> None:
    """An edge speaks TLS by them, also one that is started later; who is root reads new ones."""
    files = issue(world.directory.parent / "run" / "keys")
    files.key.chmod(0o600)
    target = write_source(world.directory, _HANDLER)
    address = low_address()
    options = ("--umask", "027", *(() if rebind else ("--no-rebind",)))
    with world.server(target, *options, bind=[f"{address},{files.text}"]) as server:
        with begin(address) as client:
            said(client, 1, "accepted")
            (edge,) = (pid for pid, line in server.processes().items() if "edge" in line)
            assert rights(edge)["Uid"] == [str(OTHER_UID)] * 4
            # What has the keys is closed to the code that runs as the same user.
            (worker,) = server.workers()
            closed = {pid for pid in (edge, server.pid, worker["pid"]) if not looks_into(pid)}
            assert closed == {edge, server.pid}
            os.kill(edge, signal.SIGKILL)
            server.wait_event("edge ready", count=2)
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1000)
        files.put(AUTHORITY.issue_cert(HOST, not_after=later))
        server.signal(signal.SIGHUP)
        renewed = "renewed" if rebind else "not renewed: those before stay"
        server.wait_event(f"certificates {renewed}")
        with begin(address) as client:
            told: Any = client.getpeercert()
            expires = ssl.cert_time_to_seconds(told["notAfter"])
            assert (expires == int(later.timestamp())) is rebind


def test_who_is_not_root_becomes_nobody_else() -> None:
    """It is told who it is."""
    with plain_users_directory() as directory:
        prefix = as_plain_user()
        finished = run(directory, "serve", "app:handle", "--user", "nobody", prefix=prefix)
        uid, nobody = OTHER_UID if prefix else os.geteuid(), pwd.getpwnam("nobody").pw_uid
        assert complaint(finished, 2) == (
            f"--user: only root can become nobody (uid {nobody}), and this is uid {uid}:"
            " start the server as root, or as that user without --user"
        )


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("closed/app.py:handle", "user {user} cannot read {directory}/closed/app.py"),
        (
            "secret.py:handle",
            "secret.py cannot be imported: user {user} cannot read {directory}/sec",
        ),
        (
            "closed.app:handle",
            "closed.app cannot be imported: user {user} cannot read {directory}/c",
        ),
        (
            "secret:handle",
            "secret cannot be imported: user {user} cannot read {directory}/secret.py",
        ),
    ],
)
def test_code_that_the_user_cannot_read(world: World, place: str, line: str) -> None:
    """The line names the path and the user, and the exit code is that of code."""
    closed = world.directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / "app.py").write_text(_HANDLER)
    (world.directory / "secret.py").write_text(_HANDLER)
    (world.directory / "secret.py").chmod(0o600)
    for options in (("--check-config",), ())[: 1 + place.startswith("closed.")]:
        finished = run(
            world.directory,
            *("serve", place, "--user", USER, "-b", "127.0.0.1:0", *options),
            prefix=world.prefix,
        )
        error = complaint(finished, 4)
        user = f"{USER} (uid {OTHER_UID})"
        assert error.startswith(line.format(user=user, directory=world.directory))
        assert "\n" not in error


def test_a_log_that_the_user_cannot_write(world: World) -> None:
    """It is refused at the start: the workers could not say a word."""
    (world.directory / "logs").mkdir()
    finished = run(
        world.directory,
        *("serve", "app:handle", "--user", USER, "--log-file", "logs/server.log"),
        prefix=world.prefix,
    )
    assert complaint(finished, 2) == (
        f"--log-file: cannot append to logs/server.log, as {USER} (uid {OTHER_UID}):"
        " Permission denied"
    )
