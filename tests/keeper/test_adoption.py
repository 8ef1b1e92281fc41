"""Who comes to be taken over is looked at first, and keeps nobody else out."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from socketkeep._keeper.workers._adoption import Adoption
from tests.harness.seam import make_board
from tests.keeper.bench import is_alive, open_descriptors
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import Clock
from tests.wire.sending import changed, channel_on, encoded, message, send_raw

BOOT: Final = 0xB001


class Visit:
    """A worker that waits for a keeper, and all that it has to offer."""

    def __init__(self, stack: ExitStack, directory: str) -> None:
        self.stack = stack
        self.board, self.map = make_board(4)  # as a worker has, which this process is here
        self._keep(self.board)
        self.wake = self._keep(os.eventfd(0, os.EFD_NONBLOCK))
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.text = "{}:{}".format(*self.listener.getsockname())
        self.socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.socket.bind(f"{directory}/1.sock")
        self.socket.listen()
        self.descriptors = [self.board, self.wake, self.listener.fileno()]

    def _keep(self, fd: int) -> int:
        self.stack.callback(os.close, fd)
        return fd

    @property
    def offer(self) -> Any:
        return message(
            "Stranded",
            *(BOOT, 3, 0, 1, 1, "app:handle", "async", True, "close", False),
            [self.text],
            ["127.0.0.1:0"],
            *(self.board, self.wake, [self.listener.fileno()]),
        )

    def come(self, payload: bytes, descriptors: Sequence[int]) -> socket.socket:
        """Be met by the keeper, and say that."""
        met = self.stack.enter_context(self.socket.accept()[0])
        send_raw(channel_on(met), payload, descriptors)
        return met


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "it.d")


@pytest.fixture
def visit(directory: str) -> Iterator[Visit]:
    with ExitStack() as stack:
        yield Visit(stack, directory)


def gather(directory: str, visit: Visit, payload: bytes, descriptors: Sequence[int]) -> Adoption:
    """Have a keeper look around, and hear that."""
    adoption = Adoption(directory)
    adoption.open()
    adoption._look_around()
    visit.come(payload, descriptors)
    adoption.gather(1.0)
    return adoption


def offer(visit: Visit, **changes: Any) -> bytes:
    return encoded(changed(visit.offer, **changes))


def test_what_is_offered_as_it_is_to_be_is_taken(directory: str, visit: Visit) -> None:
    adoption = gather(directory, visit, offer(visit, pid=1), visit.descriptors)
    assert adoption.boots == {BOOT}
    (visitor,) = adoption._visitors.values()
    assert visitor.offer is not None
    assert visitor.offer.pid == os.getpid(), "by the kernel, not by what it says"
    sock = adoption.take_listener("127.0.0.1:0")
    assert sock is not None
    assert sock.getsockname() == visit.listener.getsockname()
    sock.close()
    adoption.close()


def pipe(visit: Visit) -> int:
    read, write = os.pipe()
    visit.stack.callback(os.close, write)
    visit.stack.callback(os.close, read)
    return read


#: What is said, and with which descriptors.
NONSENSE: Final[dict[str, Callable[[Visit], tuple[bytes, list[int]]]]] = {
    "nothing": lambda v: (b"\0", []),
    "garbage": lambda v: (b"\0\xc1\xc1", v.descriptors),
    "another message": lambda v: (b"\0" + msgspec.msgpack.encode(["Ready", 1]), []),
    "no descriptors": lambda v: (offer(v), []),
    "one descriptor": lambda v: (offer(v), v.descriptors[:1]),
    "253 descriptors": lambda v: (offer(v), [v.wake] * 253),
    "too few listeners": lambda v: (offer(v, listeners=[v.text] * 2), v.descriptors),
    "no names": lambda v: (offer(v, bound_as=[]), v.descriptors),
    "a pipe as scoreboard": lambda v: (offer(v), [pipe(v), *v.descriptors[1:]]),
    "a pipe as event": lambda v: (offer(v), [v.board, pipe(v), v.descriptors[2]]),
    "a pipe as listener": lambda v: (offer(v), [v.board, v.wake, pipe(v)]),
    "another's address": lambda v: (offer(v, listeners=["0.0.0.0:80"]), v.descriptors),
    "another's name": lambda v: (offer(v, bound_as=["0.0.0.0:80"]), v.descriptors),
    "a name that is none": lambda v: (offer(v, bound_as=["what"]), v.descriptors),
    "boot": lambda v: (offer(v, boot=2**64 - 1), v.descriptors),
    "negative boot": lambda v: (offer(v, boot=-1), v.descriptors),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_not_as_it_is_to_be_is_sent_away(directory: str, visit: Visit, name: str) -> None:
    payload, descriptors = NONSENSE[name](visit)
    before = open_descriptors()
    adoption = gather(directory, visit, payload, descriptors)
    assert not adoption._visitors
    assert adoption.boots == set()
    assert adoption.take_listener("127.0.0.1:0") is None
    adoption.close()
    left = set(open_descriptors().values()) - set(before.values())
    assert len([each for each in left if not each.startswith("socket:")]) == 0


def test_nobody_is_taken_over_who_does_not_have_the_scoreboard(
    make_bench: MakeBench, directory: str, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor ended: a pid alone may be anybody's."""
    bench = make_bench(workers=1)
    monkeypatch.setattr(bench.system, "has_mapped", lambda *_, **__: False)
    worker = bench.start()[0]
    peer, served = bench.serve(worker)
    adoption = gather(directory, visit, offer(visit), visit.descriptors)
    adoption.drop_listeners()
    adoption.begin(bench.reactor, bench.keeper)
    assert not adoption._visitors
    assert len(bench.keeper.pool) == 1
    bench.keeper.stop_now()
    bench.settle()
    adoption.close()
    assert peer.fileno() >= 0
    assert served.id


def test_silent_ones_are_let_go(directory: str, make_bench: MakeBench) -> None:
    """However many come: those beyond a bound wait at the door."""
    bench = make_bench(workers=1)
    worker = bench.start()[0]
    peer, served = bench.serve(worker)
    adoption = Adoption(directory)
    adoption.open()
    adoption.begin(bench.reactor, bench.keeper)
    assert isinstance(bench.clock, Clock)
    made = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(40)]
    for sock in made:
        sock.connect(f"{directory}/keeper.sock")
    bench.settle()
    assert len(adoption._visitors) == 40
    bench.advance(10.1)
    assert not adoption._visitors
    assert is_alive(peer, served.sock)
    for sock in made:
        sock.close()
    adoption.close()
