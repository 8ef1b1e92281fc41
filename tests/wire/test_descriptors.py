"""Descriptors of others are looked at first, and none of them is waited for."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Final

import pytest

from socketkeep._wire._descriptors import (
    ANYWHERE,
    connection_place,
    listener_place,
    require_answer_pipe,
    require_event,
    ring,
)
from tests.harness.seam import BOARD_SEALS, board_in, make_board

WRITE_SEALS: Final = BOARD_SEALS | fcntl.F_SEAL_WRITE


class Makers:
    """Makes descriptors of each kind, and closes them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def keep(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

    def null(self) -> int:
        return self.keep(os.open("/dev/null", os.O_RDWR))

    def directory(self) -> int:
        return self.keep(os.open("/", os.O_RDONLY))

    def pipe_to_read(self) -> int:
        read, write = os.pipe()
        self.keep(write)
        return self.keep(read)

    def pipe(self) -> int:
        read, write = os.pipe()
        self.keep(read)
        return self.keep(write)

    def full_pipe(self) -> int:
        fd = self.pipe()
        os.set_blocking(fd, False)
        with suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * 4096)
        os.set_blocking(fd, True)
        return fd

    def event(self) -> int:
        return self.keep(os.eventfd(0, os.EFD_CLOEXEC))

    def listener(self) -> int:
        return self._stack.enter_context(socket.create_server(("127.0.0.1", 0))).fileno()

    def connection(self) -> int:
        server = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._stack.enter_context(socket.create_connection(server.getsockname()))
        return self._stack.enter_context(server.accept()[0]).fileno()

    def datagram(self) -> int:
        return self._stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).fileno()

    def netlink(self) -> int:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        return self._stack.enter_context(sock).fileno()

    def memfd(self) -> int:
        return self.keep(os.memfd_create("it", os.MFD_ALLOW_SEALING))


@pytest.fixture
def make() -> Iterator[Makers]:
    with ExitStack() as stack:
        yield Makers(stack)


KINDS: Final = (
    *("null", "directory", "pipe_to_read", "pipe", "full_pipe", "event", "listener"),
    *("connection", "datagram", "netlink", "memfd"),
)
FIT: Final[dict[Callable[[int], object], str]] = {
    connection_place: "connection",
    listener_place: "listener",
    require_answer_pipe: "pipe",
    require_event: "event",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", FIT, ids=lambda check: check.__name__)
def test_one_kind_is_fit_and_the_others_are_not(
    make: Makers, check: Callable[[int], object], kind: str
) -> None:
    fd = getattr(make, kind)()
    if FIT[check] == kind:
        check(fd)
    else:
        with pytest.raises(ValueError, match=r"to come|came for|came that"):
            check(fd)
    os.fstat(fd)  # it is still its caller's


def test_sockets_and_pipes_are_made_non_blocking(make: Makers) -> None:
    for check in (connection_place, listener_place, require_answer_pipe):
        fd = getattr(make, FIT[check])()
        os.set_blocking(fd, True)
        check(fd)
        assert not os.get_blocking(fd)


def test_a_connection_is_told_by_the_place_where_it_was_accepted() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as peer,
        server.accept()[0] as accepted,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        place = listener_place(server.fileno())
        assert place == connection_place(accepted.fileno())
        assert place != connection_place(peer.fileno())
        assert place != listener_place(other.fileno())
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()  # by RST
        assert place == connection_place(accepted.fileno())


def test_a_listener_for_any_address_has_no_place_of_its_own() -> None:
    with socket.socket() as server:
        try:
            server.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
        except PermissionError:
            pytest.skip("not permitted here")
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert listener_place(server.fileno()) == ANYWHERE


def test_an_event_whose_counter_is_full_is_rung_without_waiting(make: Makers) -> None:
    """Whoever has it, too, has made it blocking and written the highest number."""
    event = make.event()
    os.eventfd_write(event, 2**64 - 2)
    os.set_blocking(event, True)
    ring(event)
    assert os.eventfd_read(event) == 2**64 - 2
    ring(event)
    assert os.eventfd_read(event) == 1


# Scoreboards.


def test_nobody_can_shorten_a_scoreboard(make: Makers) -> None:
    fd = make.keep(make_board(4)[0])
    board = board_in(fd, wary=True)
    for size in (0, 100, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert board[0] == 0


def test_the_scoreboard_of_an_earlier_version_is_not_mapped(make: Makers) -> None:
    """It is not sealed: who shortens it would end this process by SIGBUS."""
    sealed = make.keep(make_board(4, states=True)[0])
    fd = make.keep(os.memfd_create("socketkeep-scoreboard"))
    os.write(fd, os.pread(sealed, os.fstat(sealed).st_size, 0))
    theirs, ours = board_in(fd), board_in(fd, wary=True)
    row = theirs.claim()
    assert row is not None
    words = theirs.enter(row, 7, 2, 3, os.getpid(), 0, "a peer")
    theirs.shelf(row).put(b"state")
    assert (ours[0], ours.rows, ours.peer(row), ours.state(row)) == (1, 4, "a peer", b"state")
    assert list(ours.columns(1)) == [(row, 3, 2)]
    assert list(ours.rows_of_part(2, 1)) == [(row, 3)]
    ours.record(row)[5] = 9
    ours.crowded = True
    assert (words[5], theirs.crowded) == (9, True)
    del theirs, words
    os.ftruncate(fd, 0)
    assert (ours[0], ours.peer(row), list(ours.taken()), list(ours.columns())) == (0, "", [], [])
    ours.release(row)


@pytest.mark.parametrize("size", [0, 8, 255, 256, 1000, 4096])
@pytest.mark.parametrize("rows", [0, 1, 4, 2**24, 2**60, 2**64 - 1])
def test_what_is_no_scoreboard_is_refused(make: Makers, size: int, rows: int) -> None:
    fd = make.memfd()
    os.ftruncate(fd, size)
    if size > 200:
        os.pwrite(fd, rows.to_bytes(8, "little"), 14 * 8)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, BOARD_SEALS)
    if (size, rows) in ((256, 0), (4096, 0)):
        return  # it could be one
    with pytest.raises(ValueError, match="a scoreboard came that has"):
        board_in(fd, wary=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_memfd_is_no_scoreboard(make: Makers, kind: str) -> None:
    with pytest.raises(ValueError, match=r"a memfd was to come|a scoreboard came"):
        board_in(getattr(make, kind)(), wary=True)


@pytest.mark.parametrize("word", [1, 2**40, 2**63, 2**64 - 1, (70000 << 40) | 5000])
def test_a_state_that_stands_nowhere_is_none(make: Makers, word: int) -> None:
    board = board_in(make.keep(make_board(4, states=True)[0]), wary=True)
    board.record(0)[14] = word
    with pytest.raises(ValueError, match="the place of a state"):
        board.state(0)


def test_counters_that_were_not_counted_up_are_none(make: Makers) -> None:
    board = board_in(make.keep(make_board(4)[0]), wary=True)
    row = board.claim()
    assert row is not None
    for word in range(14):
        board._words[word] = 2**64 - 1
    board.record(row)[12] = 2**64 - 1
    assert board.balance == board.attached == board.count(1) == 0
    board.release(row)  # and within the words
