"""Who holds a port, told of real processes."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from socketkeep._inspect import _holders
from socketkeep.proxy import InetAddress, UnixAddress
from tests.inspect.support import HOST, without_netlink

HOLD = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", ""])
def test_this_process(host: str) -> None:
    """The listener of 127.0.0.1 is in the way of that address and of every interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = InetAddress(host, listener.getsockname()[1])
        (holder,) = _holders.holders_of_port(address)
        assert (holder.pid, holder.user, holder.fd) == (os.getpid(), me(), listener.fileno())
        assert "python" in holder.command or "pytest" in holder.command
    assert _holders.holders_of_port(address) == []


def test_another_address_of_the_port_is_not_in_the_way() -> None:
    """A listener of 127.0.0.1 does not hold 127.0.0.2; one of every interface does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert _holders.holders_of_port(InetAddress("127.0.0.2", listener.getsockname()[1])) == []
    with socket.create_server(("", 0)) as listener:
        (holder,) = _holders.holders_of_port(InetAddress("127.0.0.2", listener.getsockname()[1]))
        assert holder.pid == os.getpid()


def test_every_process_once() -> None:
    """A listener that another process has too: both are named, each once."""
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup():
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            holders = _holders.holders_of_port(InetAddress("127.0.0.1", listener.getsockname()[1]))
            assert {holder.pid for holder in holders} == {os.getpid(), child.pid}
            assert len(holders) == 2
            said = _holders.describe_holders(holders)
            assert f"process {child.pid} ({sys.executable} -c " in said
            assert "\n" not in said
            assert child.stdin is not None
            child.stdin.close()


def test_connections_are_named_only_without_a_listener() -> None:
    """A client whose local port it is holds the port; while there is a listener, it is that."""
    with socket.create_server((HOST, 0)) as listener:
        client = socket.create_connection(listener.getsockname(), source_address=(HOST, 0))
        accepted, _ = listener.accept()
        with client, accepted:
            address = InetAddress(HOST, listener.getsockname()[1])
            (holder,) = _holders.holders_of_port(address)
            assert holder.fd == listener.fileno()
            listener.close()
            (holder,) = _holders.holders_of_port(address)
            assert holder.fd == accepted.fileno()
            (holder,) = _holders.holders_of_port(InetAddress(HOST, client.getsockname()[1]))
            assert holder.fd == client.fileno()


@pytest.mark.parametrize("abstract", [False, True])
def test_unix_sockets(tmp_path: Path, abstract: bool) -> None:
    """The process that listens on a path or an abstract name is found; a dead file has none."""
    name = "@socketkeep-test-holder" if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        listener.listen()
        (holder,) = _holders.holders_of_port(UnixAddress(name))
        assert (holder.pid, holder.fd) == (os.getpid(), listener.fileno())
    assert _holders.holders_of_port(UnixAddress(name)) == []


def test_a_process_that_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user's listener only the user is known, and that is said."""
    monkeypatch.setattr(_holders, "descriptors", lambda inodes: iter(()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        holders = _holders.holders_of_port(InetAddress("127.0.0.1", listener.getsockname()[1]))
    assert holders == [_holders.PortHolder(None, "", me(), None)]
    assert _holders.describe_holders(holders) == f"held by a process of user {me()}"


def test_where_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without netlink nobody is named, and nothing fails."""
    without_netlink(monkeypatch)
    assert _holders.holders_of_port(InetAddress("127.0.0.1", 1)) == []
    assert _holders.describe_holders([]) == ""


def test_many_holders_are_cut() -> None:
    """A server with many workers does not fill the screen."""
    many = [_holders.PortHolder(pid, "app", "web", 3) for pid in range(1, 9)]
    said = _holders.describe_holders(many)
    assert said.endswith("process 3 (app, user web) and 5 others")
