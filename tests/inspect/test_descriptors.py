"""Which sockets the descriptors of a process are, and their modes."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from socketkeep._inspect import _descriptors
from socketkeep._inspect._descriptors import Descriptors, look_everywhere, look_into


@pytest.mark.parametrize("has_inodes", [True, False])
def test_among_other_descriptors(
    has_inodes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets of both modes between files and pipes; each is found once, by all its descriptors.

    has_inodes: fdinfo tells them since Linux 5.14.
    """
    if not has_inodes:
        monkeypatch.setattr(_descriptors, "_mount_of_sockets", lambda: b"")
    with ExitStack() as opened:
        expected: dict[int, list[tuple[int, int]]] = {}
        modes: dict[int, bool] = {}
        for number in range(40):
            if number % 7 == 6:
                opened.enter_context((tmp_path / str(number)).open("w"))
            if number % 11 == 10:
                for end in os.pipe():
                    opened.callback(os.close, end)
            sock = opened.enter_context(socket.socket())
            sock.setblocking(number % 3 > 0)
            inode = os.fstat(sock.fileno()).st_ino
            expected[inode] = [(os.getpid(), sock.fileno())]
            modes[inode] = number % 3 == 0
            if number % 13 == 12:
                again = opened.enter_context(sock.dup())
                expected[inode].append((os.getpid(), again.fileno()))
        found = Descriptors()
        look_everywhere(expected, found)
        assert {inode: sorted(several) for inode, several in found.of.items()} == expected
        assert found.nonblocking == modes
        everything = Descriptors()
        look_into(os.getpid(), None, everything)
        assert {inode: everything.nonblocking[inode] for inode in modes} == modes
        besides = Descriptors()
        look_everywhere(expected, besides, besides=(os.getpid(),))
        assert not besides.of


def test_a_file_is_not_taken_for_the_socket_with_its_number(tmp_path: Path) -> None:
    """A file system counts inodes by itself: only together with the mount they tell a socket."""
    with ExitStack() as opened:
        sock = opened.enter_context(socket.socket())
        files = [opened.enter_context((tmp_path / str(each)).open("w")) for each in range(3)]
        number = os.fstat(sock.fileno()).st_ino
        inodes = {number, *(os.fstat(file.fileno()).st_ino for file in files)}
        found = Descriptors()
        look_into(os.getpid(), inodes, found)
        assert found.of == {number: [(os.getpid(), sock.fileno())]}
