"""The accept queue, as the kernel counts it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from socketkeep._inspect import _queue


@contextmanager
def listening(family: int, address: Any, backlog: int) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(backlog)
        yield listener


ADDRESSES = [
    pytest.param(socket.AF_INET, ("127.0.0.1", 0), id="IPv4"),
    pytest.param(socket.AF_INET6, ("::1", 0), id="IPv6"),
    pytest.param(socket.AF_UNIX, "listener", id="Unix"),
    pytest.param(socket.AF_UNIX, "\0socketkeep-test-queue", id="abstract"),
]


@pytest.mark.parametrize(("family", "address"), ADDRESSES)
def test_the_queue_is_counted(
    family: int, address: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection that is not yet accepted counts, and no longer once it is."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        listener = stack.enter_context(listening(family, address, 17))
        assert _queue.listen_queue(listener) == _queue.ListenQueue(queued=0, backlog=17)
        for count in range(1, 4):
            client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            client.connect(listener.getsockname())
            assert _queue.listen_queue(listener) == _queue.ListenQueue(queued=count, backlog=17)
        stack.enter_context(listener.accept()[0])
        assert _queue.listen_queue(listener) == _queue.ListenQueue(queued=2, backlog=17)


def test_drops_are_counted() -> None:
    """Of this listener alone; a Unix listener has its clients wait."""
    with ExitStack() as stack:
        listener = stack.enter_context(listening(socket.AF_INET, ("127.0.0.1", 0), 1))
        other = stack.enter_context(listening(socket.AF_INET, ("127.0.0.1", 0), 1))
        assert _queue.listen_drops(listener) == 0
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert _queue.listen_drops(listener)
        assert _queue.listen_drops(other) == 0
        unix = stack.enter_context(listening(socket.AF_UNIX, "\0socketkeep-test-drops", 1))
        assert _queue.listen_drops(unix) is None
    assert _queue.listen_drops(listener) is None


def test_what_has_no_queue() -> None:
    """A connected, an unbound and a datagram socket have none."""
    left, right = socket.socketpair()
    with left, right, socket.socket() as fresh:
        assert _queue.listen_queue(left) is None
        assert _queue.listen_queue(fresh) is None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            assert _queue.listen_queue(datagram) is None
    assert _queue.listen_queue(fresh) is None


def test_where_netlink_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without netlink the queue of a Unix listener is not known, and that is no failure."""

    def forbidden(inode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(_queue, "unix_socket", forbidden)
    with listening(socket.AF_UNIX, str(tmp_path / "s"), 5) as listener:
        assert _queue.listen_queue(listener) is None
