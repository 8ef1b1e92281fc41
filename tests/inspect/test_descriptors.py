"""Which sockets the descriptors of a process are, and their modes; with both cores."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from socketkeep._inspect import _descriptors
from tests.native.cores import on_both

pytestmark = [
    pytest.mark.usefixtures("chosen_look"),
    on_both("chosen", _descriptors.look_in_python, "look"),
]


@pytest.fixture
def chosen_look(chosen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_descriptors, "look", chosen)


@pytest.mark.parametrize("has_inodes", [True, False])
def test_among_other_descriptors(
    has_inodes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets of both modes between files and pipes; each is found once, by all its descriptors.

    has_inodes: fdinfo tells them since Linux 5.14.
    """
    if not has_inodes:
        monkeypatch.setattr(_descriptors, "mount_of_sockets", lambda: 0)
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
        found = _descriptors.Descriptors()
        _descriptors.look_everywhere(expected, found)
        assert {inode: sorted(several) for inode, several in found.of.items()} == expected
        assert found.nonblocking == modes
        everything = _descriptors.Descriptors()
        _descriptors.look_into(os.getpid(), None, everything)
        assert {inode: everything.nonblocking[inode] for inode in modes} == modes
        besides = _descriptors.Descriptors()
        _descriptors.look_everywhere(expected, besides, besides=(os.getpid(),))
        assert not besides.of


def test_a_file_is_not_taken_for_the_socket_with_its_number(tmp_path: Path) -> None:
    """A file system counts inodes by itself: only together with the mount they tell a socket."""
    with ExitStack() as opened:
        sock = opened.enter_context(socket.socket())
        files = [opened.enter_context((tmp_path / str(each)).open("w")) for each in range(3)]
        number = os.fstat(sock.fileno()).st_ino
        inodes = {number, *(os.fstat(file.fileno()).st_ino for file in files)}
        found = _descriptors.Descriptors()
        _descriptors.look_into(os.getpid(), inodes, found)
        assert found.of == {number: [(os.getpid(), sock.fileno())]}


@pytest.mark.process
def test_a_process_that_shares_them_and_one_that_has_ended() -> None:
    """A forked child's descriptors stand beside its parent's; of one that has ended there are none.

    Such a process is no error of the whole look, and one when it alone is looked at.
    """
    with ExitStack() as opened:
        socks = [opened.enter_context(socket.socket()) for _ in range(5)]
        socks[2].setblocking(False)
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
        try:
            inodes = {os.fstat(sock.fileno()).st_ino: sock.fileno() for sock in socks}
            found = _descriptors.Descriptors()
            _descriptors.look_everywhere(set(inodes), found)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert {inode: sorted(several) for inode, several in found.of.items()} == {
            inode: sorted([(os.getpid(), fd), (child, fd)]) for inode, fd in inodes.items()
        }
        assert list(found.nonblocking.values()).count(True) == 1
        assert len(found.nonblocking) == len(socks)
    with pytest.raises(FileNotFoundError):
        _descriptors.look_into(child, None, _descriptors.Descriptors())


@pytest.mark.process
def test_what_is_not_to_be_seen(tmp_path: Path) -> None:
    """Without the right to look into a process it is counted, and its descriptors are not told."""
    with socket.socket() as sock:
        inode = os.fstat(sock.fileno()).st_ino
        parent = os.getpid()
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            os.setgid(61234)
            os.setuid(61234)
            found = _descriptors.Descriptors()
            _descriptors.look_everywhere({inode}, found, besides=(os.getpid(),))
            os.write(tell, b"%d %d" % (parent in found.unreadable, len(found.of)))
            os._exit(0)
        os.waitpid(child, 0)
        os.close(tell)
        with os.fdopen(told, "rb") as answer:
            assert answer.read() == b"1 0"
