"""What the tests of forking share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.forking.support import Gate, tcp_pair, unix_pair

Pair: TypeAlias = tuple[socket.socket, socket.socket]

_PAIRS: dict[str, Callable[[], Pair]] = {"tcp": tcp_pair, "unix": unix_pair}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests fork though xdist's worker has threads: the children run none of its code."""
    for item in items:
        if "/forking/" in str(item.path):
            mark = "ignore:.*multi-threaded.*:DeprecationWarning"
            item.add_marker(pytest.mark.filterwarnings(mark))


@pytest.fixture(params=list(_PAIRS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two ends of one connection: ours, and a plain socket for the peer."""
    ours, peer = _PAIRS[request.param]()
    with ours, peer:
        yield ours, peer


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.close()


@pytest.fixture
def ready() -> Iterator[Gate]:
    """For the child's word to the test, where `gate` is for the test's to the child."""
    made = Gate()
    yield made
    made.close()
