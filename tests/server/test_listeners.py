"""Where a server listens: each kind of address, inherited sockets, and what is left at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_source
from tests.server.support import OTHER_UID, PrefixedServer

_HANDLER = """
def handle(conn):
    conn.send(f"{conn.listener} {conn.peer}\\n".encode())
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    """A handler that tells through which listener its peer came, and who that is."""
    return write_source(tmp_path, _HANDLER)


def _ask(address: str) -> tuple[str, str, str]:
    """Return the listener, the peer as the server names it, and the peer's own address."""
    with connect(address) as peer:
        own = peer.getsockname()
        listener, name = read_reply(peer).decode().split()
    return listener, name, own if isinstance(own, str) else f"{own[0]}:{own[1]}"


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def test_free_port(tmp_path: Path, target: str) -> None:
    """Port 0 is a port that was free: it is logged, shown by the commands, and listened on."""
    with Server(tmp_path, target, bind=["127.0.0.1:0"]) as server:
        assert server.port > 0
        assert [each["address"] for each in server.status()["listeners"]] == [server.address]
        assert server.cli("listeners").stdout.splitlines()[1].split()[0] == server.address
        listener, name, own = _ask(server.address)
        assert listener == server.address
        assert name == own


def test_host_name(tmp_path: Path, target: str) -> None:
    """A name stands for the address that it resolves to."""
    with Server(tmp_path, target, bind=["localhost:0"]) as server:
        assert server.address.rpartition(":")[0] in {"127.0.0.1", "[::1]"}
        assert _ask(server.address)[0] == server.address


@needs_ipv6
def test_ipv6_alone(tmp_path: Path, target: str) -> None:
    """An IPv6 address serves IPv6 only."""
    with Server(tmp_path, target, bind=["[::1]:0"]) as server:
        (event,) = server.find("listening")
        assert event["address"] == f"[::1]:{server.port}"
        assert "serves" not in event
        listener, name, _ = _ask(server.address)
        assert listener == server.address
        assert name.startswith("[::1]:")
        with pytest.raises(ConnectionRefusedError):
            connect(f"127.0.0.1:{server.port}")


@needs_ipv6
@pytest.mark.parametrize("bind", ["[::]:0", ":0"])
def test_every_interface(tmp_path: Path, target: str, bind: str) -> None:
    """[::] and the empty host serve IPv6 and IPv4, and say so; IPv4 peers are named as IPv4."""
    with Server(tmp_path, target, bind=[bind]) as server:
        (event,) = server.find("listening")
        assert event["address"] == f"[::]:{server.port}"
        assert event["serves"] == "IPv6 and IPv4"
        listener, name, own = _ask(f"127.0.0.1:{server.port}")
        assert (listener, name) == (server.address, own)
        assert _ask(f"[::1]:{server.port}")[1].startswith("[::1]:")


def test_unix(tmp_path: Path, target: str) -> None:
    """The file has the default mode, or the one that was asked for, and is gone at the end."""
    path = tmp_path / "listener"
    for options, said, mode in (
        ((), "", 0o666),
        (("--unix-mode", "600"), "", 0o600),
        (("--unix-mode", "600"), ",mode=0660", 0o660),
    ):
        with Server(tmp_path, target, *options, bind=[f"unix:{path}{said}"]) as server:
            assert path.stat().st_mode & 0o777 == mode
            listener, name, _ = _ask(f"unix:{path}")
            assert listener == server.address == f"unix:{path}"
            assert name == f"unix:pid={os.getpid()}"
            server.signal(signal.SIGTERM)
            assert server.wait_exit() == 0
        assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_unix_socket_that_is_given_away(tmp_path: Path, target: str) -> None:
    """It has its owner, also when it is made anew, and nobody else can connect."""
    path = tmp_path / "listener"
    bind = f"unix:{path},mode=600,user={OTHER_UID},group={OTHER_UID + 1}"

    def rights() -> tuple[int, int, int]:
        found = path.stat()
        return found.st_mode & 0o777, found.st_uid, found.st_gid

    with Server(tmp_path, target, bind=[bind]) as server:
        assert rights() == (0o600, OTHER_UID, OTHER_UID + 1)
        path.unlink()
        server.reload()
        assert rights() == (0o600, OTHER_UID, OTHER_UID + 1)
        assert _ask(f"unix:{path}")[0] == f"unix:{path}"
    assert not path.exists()


def test_unix_by_a_relative_path(tmp_path: Path, target: str) -> None:
    """It is relative to where the server was started."""
    with Server(tmp_path, target, bind=["unix:listener"]):
        assert _ask(f"unix:{tmp_path}/listener")[0] == "unix:listener"
    assert not (tmp_path / "listener").exists()


def test_unix_socket_of_a_dead_server(tmp_path: Path, target: str) -> None:
    """The file that a killed server left is replaced."""
    path = tmp_path / "listener"
    # Its workers do not wait for a successor, who would take the listener over.
    options = ("--orphan-timeout", "0")
    with Server(tmp_path, target, *options, bind=[f"unix:{path}"]) as server:
        server.signal(signal.SIGKILL)
        server.wait_exit()
    assert path.is_socket()
    with pytest.raises(ConnectionRefusedError):
        connect(f"unix:{path}")
    with Server(tmp_path, target, bind=[f"unix:{path}"]):
        assert _ask(f"unix:{path}")[0] == f"unix:{path}"
    assert not path.exists()


def test_unix_file_of_a_successor_is_left(tmp_path: Path, target: str) -> None:
    """A server removes at its end only the file that is its own."""
    path = tmp_path / "listener"
    with Server(tmp_path, target, bind=[f"unix:{path}"]) as server:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            server.signal(signal.SIGTERM)
            assert server.wait_exit() == 0
            assert path.is_socket()


def test_abstract_name(tmp_path: Path, target: str) -> None:
    """A name without a file."""
    address = f"unix:@socketkeep-test-{os.getpid()}"
    with Server(tmp_path, target, bind=[address]) as server:
        assert server.address == address
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(10.0)
            peer.connect("\0" + address.removeprefix("unix:@"))
            assert read_reply(peer).split()[0].decode() == address


def test_several(tmp_path: Path, target: str) -> None:
    """Each is served, and the handler is told through which its peer came."""
    binds = ["127.0.0.1:0", f"unix:{tmp_path}/one", "127.0.0.2:0", f"unix:{tmp_path}/two"]
    with Server(tmp_path, target, bind=binds) as server:
        assert len(server.addresses) == len(set(server.addresses)) == 4
        for address in server.addresses:
            assert _ask(address)[0] == address
        shown = [each["address"] for each in server.ask("listeners")]
        assert shown == server.addresses


# Listens on descriptor 9 and becomes what its arguments say.
_LISTENING = (
    "import os, socket, sys; sock = socket.create_server(('127.0.0.1', 0));"
    "os.dup2(sock.fileno(), 9); os.execv(sys.argv[1], sys.argv[1:])"
)


def test_inherited_descriptor(tmp_path: Path, target: str) -> None:
    """fd://N is a socket that listens already."""
    server = PrefixedServer([sys.executable, "-c", _LISTENING], tmp_path, target, bind=["fd://9"])
    with server:
        assert server.address.startswith("127.0.0.1:")
        assert _ask(server.address)[0] == server.address
        server.reload()
        assert _ask(server.address)[0] == server.address


class ActivatedServer(PrefixedServer):
    """A server that systemd-socket-activate listens for, and starts at the first connection."""

    def __init__(self, directory: Path, target: str, places: list[str], names: str) -> None:
        command = shutil.which("systemd-socket-activate")
        if command is None:
            pytest.skip("systemd-socket-activate is not installed")
        listen = [f"--listen={place}" for place in places]
        # It hands down little of its environment.
        prefix = [command, *listen, f"--fdname={names}", "--setenv=PYTHONPATH"]
        super().__init__(prefix, directory, target, wait_ready=False)
        at = self._command.index("--bind")
        del self._command[at : at + 2]


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_socket_activation(tmp_path: Path, target: str) -> None:
    """The real systemd-socket-activate: its sockets, by their names, and no other."""
    port = _free_port()
    path = tmp_path / "listener"
    places = [f"127.0.0.1:{port}", str(path)]
    with ActivatedServer(tmp_path, target, places, "web:local") as server:
        server.wait_until(path.exists, "systemd-socket-activate to listen")
        # The connection that starts the server waits for it.
        assert _ask(f"127.0.0.1:{port}")[0] == f"127.0.0.1:{port}"
        assert _ask(f"unix:{path}")[0] == f"unix:{path}"
        server.wait_event("ready")
        assert [(event["address"], event["name"]) for event in server.find("listening")] == [
            (f"127.0.0.1:{port}", "web"),
            (f"unix:{path}", "local"),
        ]
        server.reload()
        assert _ask(f"127.0.0.1:{port}")[0] == f"127.0.0.1:{port}"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
    assert path.exists()  # it is the service manager's
