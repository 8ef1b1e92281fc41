"""The kernel's table of sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from socketkeep._inspect._sock_diag import LISTEN, tcp_sockets, unix_socket, unix_sockets


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
            found = {entry.inode: entry for entry in tcp_sockets(port)}
            assert set(found) == {inode(listener), inode(accepted), inode(other)}
            assert inode(client) not in found
            assert found[inode(listener)].host == "127.0.0.1"
            assert found[inode(other)].host == "::1"
            assert found[inode(listener)].state == LISTEN
            assert found[inode(accepted)].state != LISTEN
            assert {entry.uid for entry in found.values()} == {os.getuid()}


def test_a_unix_socket_by_its_inode(tmp_path: Path) -> None:
    """A Unix socket is found with its name; one that has gone is None."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "s")
        listener.bind(path)
        listener.listen(3)
        number = inode(listener)
        found = unix_socket(number)
        assert found is not None
        assert (found.name, found.inode, found.queued, found.backlog) == (path, number, 0, 3)
        assert number in {entry.inode for entry in unix_sockets()}
    assert unix_socket(number) is None


def test_names_of_unix_sockets(tmp_path: Path) -> None:
    """An abstract name has its @, no name is empty, and many sockets are all listed."""
    pairs = [socket.socketpair() for _ in range(200)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0socketkeep-test-name")
        listener.listen()
        names = {entry.inode: entry.name for entry in unix_sockets()}
        assert names[inode(listener)] == "@socketkeep-test-name"
        for pair in pairs:
            for sock in pair:
                assert names[inode(sock)] == ""
                sock.close()
