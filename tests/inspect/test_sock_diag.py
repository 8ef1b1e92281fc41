"""The kernel's table of sockets."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from socketkeep._inspect import _sock_diag
from tests.inspect.support import HOST


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_tcp_sockets_of_a_port() -> None:
    """Listener and accepted connections of a port are found, IPv4 and IPv6, and no others."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)) as client,
            listener.accept()[0] as accepted,
            socket.socket(socket.AF_INET6) as other,
        ):
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(("::1", port))
            other.listen()
            found = {entry.inode: entry for entry in _sock_diag.tcp_sockets(port)}
            # At other addresses there may be other sockets of that port.
            assert set(found) >= {inode(listener), inode(accepted), inode(other)}
            assert inode(client) not in found
            assert found[inode(listener)].host == "127.0.0.1"
            assert found[inode(other)].host == "::1"
            assert found[inode(listener)].state == _sock_diag.LISTEN
            assert found[inode(accepted)].state != _sock_diag.LISTEN
            assert {entry.uid for entry in found.values()} == {os.getuid()}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_at_either_end(family: socket.AddressFamily) -> None:
    """The listener, what it accepted and the clients; none that has another port at both ends."""
    host = HOST if family == socket.AF_INET else "::1"
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_server((host, 0), family=family) as other,
        socket.create_connection(listener.getsockname()[:2]) as client,
        socket.create_connection(other.getsockname()[:2]) as stranger,
        listener.accept()[0] as accepted,
        other.accept()[0] as elsewhere,
    ):
        found = {
            entry.inode for entry in _sock_diag.inet_sockets(either_port=listener.getsockname()[1])
        }
        assert found >= {inode(listener), inode(client), inode(accepted)}
        assert found.isdisjoint({inode(other), inode(stranger), inode(elsewhere)})


def test_attributes_stand_where_the_kernel_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is read for itself, whatever the one before it had, and where."""

    def answer(*attributes: tuple[int, bytes]) -> bytes:
        fixed = bytes([socket.AF_INET, _sock_diag.ESTABLISHED]) + bytes(70)
        return fixed + b"".join(
            struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)
            for kind, content in attributes
        )

    shutdown, info, other = (8, b"\2"), (2, bytes(range(200))), (15, bytes(4))
    expected = {
        answer(shutdown, other, info): (2, info[1]),
        answer(shutdown, info, other): (2, info[1]),
        answer(other, shutdown, info): (2, info[1]),
        answer(other): (0, b""),  # as in TIME_WAIT
        answer(other, (8, b"\1"), info): (1, info[1]),
        answer(other, (9, b"\1"), info): (0, info[1]),
        answer(other, shutdown, (2, bytes(204))): (2, bytes(204)),
        answer(info, shutdown): (2, info[1]),
        answer(shutdown): (2, b""),
    }
    monkeypatch.setattr(_sock_diag, "query", lambda *_, **__: iter(expected))
    found = [(entry.shutdown, entry.info) for entry in _sock_diag.inet_sockets(info=True)]
    assert found == 2 * list(expected.values())  # of both families


def test_a_unix_socket_by_its_inode(tmp_path: Path) -> None:
    """A Unix socket is found with its name; one that has gone is None."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "s")
        listener.bind(path)
        listener.listen(3)
        number = inode(listener)
        found = _sock_diag.unix_socket(number)
        assert found is not None
        assert (found.name, found.inode, found.queued, found.backlog) == (path, number, 0, 3)
        assert number in {entry.inode for entry in _sock_diag.unix_sockets()}
    assert _sock_diag.unix_socket(number) is None


def test_names_of_unix_sockets(tmp_path: Path) -> None:
    """An abstract name has its @, no name is empty, and many sockets are all listed."""
    pairs = [socket.socketpair() for _ in range(200)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0socketkeep-test-name")
        listener.listen()
        names = {entry.inode: entry.name for entry in _sock_diag.unix_sockets()}
        assert names[inode(listener)] == "@socketkeep-test-name"
        for pair in pairs:
            for sock in pair:
                assert names[inode(sock)] == ""
                sock.close()
