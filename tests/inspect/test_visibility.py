"""Where processes are hidden, nobody is said to hold nothing, and nothing to be in order."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

from socketkeep import Connection
from tests.inspect.support import HOST, acting
from tests.server.support import as_other_user


def apart(*options: str, mount: str, prefix: list[str]) -> list[str]:
    """Return a command that runs `socketkeep` in namespaces of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    command = ["unshare", "--mount", *options, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces cannot be made here: {tried.stderr.decode()}")
    return [*command, *prefix, sys.executable, "-m", "socketkeep"]


def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def told(command: list[str], hidden: str) -> None:
    """Ask for a listener, a connection and a process that cannot be seen."""
    with acting() as actor:
        port = actor.listen()
        with socket.create_connection((HOST, port), source_address=(HOST, 0)) as client:
            actor.do("conn, _ = listener.accept()")
            for what in (f"{HOST}:{port}", "{}:{}".format(*client.getsockname())):
                seen = run(command, "holders", what)
                assert (seen.returncode, seen.stderr) == (0, "")
                assert "held by no process" not in seen.stdout
                assert "cannot be seen from here: held by a process" in seen.stdout
                assert hidden in seen.stdout
                seen = run(command, "why", what)
                assert (seen.returncode, seen.stderr) == (0, "")
                assert "othing is wrong" not in seen.stdout
                assert "Who holds it cannot be seen from here" in seen.stdout
                assert hidden in seen.stdout
            # No process is counted that was not seen, and no command named that lacks its
            # descriptor.
            here, there = (
                "{}:{}".format(*client.getpeername()),
                "{}:{}".format(*client.getsockname()),
            )
            client.close()
            seen = run(command, "why", here)
            assert "still open (by whom cannot be seen)" in seen.stdout
            assert f"from outside: ss -K src {here} dst {there}   (as root)" in seen.stdout


def test_hidepid() -> None:
    """/proc leaves the processes of others out."""
    mount = "mount -t proc -o hidepid=2 proc /proc"
    command = apart(mount=mount, prefix=as_other_user())
    told(command, "/proc is mounted with hidepid=")
    refused = run(command, "holders", str(os.getpid()))
    assert refused.returncode == 1
    assert f"process {os.getpid()} cannot be seen from here: /proc is mounted" in refused.stderr
    # The superuser's capability lifts it, and then nothing is hidden.
    seen = run(apart(mount=mount, prefix=[]), "holders", str(os.getpid()))
    assert "hidepid" not in seen.stdout


def test_a_pid_namespace() -> None:
    """As in a container: the sockets are those of the network, the processes are not."""
    command = apart("--pid", "--fork", mount="mount -t proc proc /proc", prefix=[])
    told(command, "this is in a pid namespace (a container): processes outside of it cannot be")


def test_a_proc_of_another_namespace() -> None:
    """Processes that are listed are not those that there are."""
    command = apart("--pid", "--fork", mount="true", prefix=[])
    seen = run(command, "why", f"{os.getpid()}")
    assert "/proc is of another pid namespace" in seen.stdout + seen.stderr


def test_the_librarys_holders_say_so() -> None:
    """What hides processes stands beside what was found."""
    ours, theirs = socket.socketpair()
    with theirs:
        conn = Connection(ours)
        found = conn.holders()
        assert found.hidden in str(found)
        conn.abort()
