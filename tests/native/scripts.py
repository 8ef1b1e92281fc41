"""Random scripts that run on both cores, and are to give equal traces.

A trace is what each call returned, raised and left.  Whoever draws decides what is random: the
tests by a seed, the fuzzer by the bytes that it makes up.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from socketkeep._stream._ledger import Ledger
from tests.harness.seam import (
    Row,
    buffer,
    core_in_python,
    core_on,
    leased,
    shared_words,
    without_times,
)
from tests.native.cores import both

_STEPS: Final = 60
_SEPARATORS: Final = (b"\n", b"\r\n", b"ab", b"aab", b"\n\n", b"aba\n" * 5)


def piece(drawn: random.Random) -> bytes:
    """Return a few bytes, seldom many; few letters, so that separators turn up."""
    size = drawn.choice((0, 1, 3, 17, 63, 64, 65, 300, 5000))
    return bytes(drawn.choices(b"ab\n\r", k=min(size, 300))) * (-(-size // 300))


def buffer_call(drawn: random.Random, size: int, retain: bool) -> tuple[str, tuple[Any, ...]]:
    """Return a method of a buffer with `size` unread bytes, and arguments that make sense."""
    some = drawn.choice((0, 1, 2, size // 2, size, size + 1, 10**9))
    separator = drawn.choice(_SEPARATORS)
    return drawn.choice(
        (
            *(("feed", (piece(drawn),)),) * 3,
            ("pass_by" if retain and not size else "feed", (piece(drawn) or b"x",)),
            *(("take", (max(1, some),)),) * 2,
            ("take_exactly", (some,)),
            ("find", (separator,)),
            ("take_line", (drawn.random() < 0.5, some)),
            ("take_until", (separator, some, drawn.choice((0, len(separator))))),
            ("take_found", (min(some, size), 0)),
            ("peek", (some,)),
            ("byte_at", (drawn.randrange(size),)) if size else ("replay", ()),
            ("commit", ()),
            ("replay", ()),
        )
    )


def told(made: Any, name: str, arguments: tuple[Any, ...]) -> object:
    """Return what the call does, as text: a value with its type, or an error."""
    try:
        result = getattr(made, name)(*arguments)
    except Exception as error:  # whichever it is, the other core is to raise it, too
        return f"{type(error).__name__}: {error}"
    return f"{type(result).__name__} {result!r}"


def left(buffer: Any) -> object:
    return buffer.size, buffer.unread, buffer.overflowed, buffer.untouched


def buffers(drawn: random.Random) -> None:
    """Take one script through a buffer of each core."""
    retain, limit = drawn.random() < 0.6, drawn.choice((0, 4, 64, 100, 65536))
    kinds: list[Any] = both(buffer, "ReceiveBuffer")
    cores = [kind(retain=retain, replay_limit=limit) for kind in kinds]
    for step in range(_STEPS):
        name, arguments = buffer_call(drawn, cores[0].size, retain)
        traces = [(told(core, name, arguments), left(core)) for core in cores]
        place = f"step {step}: {name}{arguments!r} (retain {retain}, {limit})"
        assert all(trace == traces[0] for trace in traces), f"{place}: {traces}"


def ledger_step(drawn: random.Random, ledger: Any, step: int) -> None:
    match step:
        case 0:
            ledger.commit(unread=drawn.random() < 0.5, left_kernel=drawn.randrange(3))
        case 1:
            ledger.dispute(drawn.randrange(5))
        case 2:
            ledger.again = drawn.random() < 0.5
        case 3:
            ledger.bound = drawn.random() < 0.2
        case _:
            name = ("reading", "read_nothing", "sending", "push_begins", "push_ends", "show")
            getattr(ledger, name[step % len(name)])()


def account(ledger: Any) -> tuple[object, ...]:
    return (
        *(list(ledger.record), ledger.status, ledger.read, ledger.sent, ledger.bound),
        *(ledger.disputed, ledger.again, ledger.pushes, ledger.doubtful),
    )


def ledgers(drawn: random.Random) -> None:
    """Take one script through each core's ledger, in the memory of a scoreboard and in a list."""
    kinds: list[Any] = both(Ledger, "Ledger")
    cores = [kind(words) for kind in kinds for words in (Row().words, shared_words())]
    for number in range(_STEPS):
        step, own = drawn.randrange(12), drawn.getrandbits(16)
        for core in cores:
            ledger_step(random.Random(own), core, step)
        assert all(account(core) == account(cores[0]) for core in cores), f"step {number}: {step}"


class Shelf:
    """A place for states, which keeps them all."""

    def __init__(self) -> None:
        self.states: list[bytes | None] = []

    def put(self, state: bytes | None, reply: bytes = b"") -> None:
        self.states.append(state)


class Side:
    """One core on one end of a pair of sockets, and the peer's end."""

    def __init__(self, make: Callable[..., Any], lease: dict[str, Any]) -> None:
        self.mine, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.shelf = Shelf()
        given = leased(record=shared_words(), shelf=self.shelf, **lease)
        self.core = make(self.mine, given)
        self.here = (self.mine, self.peer)

    def act(self, step: int, drawn: random.Random) -> object:
        core = self.core
        match step:
            case 0 | 1 | 2:
                return told(self.peer, "send", (piece(drawn) or b"x",))
            case 3 | 4 | 5:
                return told(core, "receive", (drawn.choice((1, 10, 65536)),))
            case 6 | 7:
                return told(core, "fill", (drawn.choice((1, 100, 65536, 262144)),))
            case 8 | 9:
                data = piece(drawn)
                given = drawn.choice((data, memoryview(data), bytearray(data)))
                return told(core, "send", (given, drawn.random() < 0.2))
            case 10 | 11:
                return told(core, "commit", (drawn.choice((None, b"1", b"2" * 600)),))
            case 12:
                return told(self.peer, "recv", (drawn.choice((1, 70000)),))
            case 13:
                return told(core, "export", ())
            case 14:
                return told(core.buffer, "take_line", (False, 100))
            case 15:
                return told(core.buffer, "take_exactly", (drawn.randrange(200),))
            case 16 if drawn.random() < 0.1:
                return told(self.peer, "shutdown", (socket.SHUT_WR,))
            case 17 if drawn.random() < 0.1:
                return told(self.peer, "close", ())
            case 18 if drawn.random() < 0.05:
                return told(self.mine, "close", ())
        return None

    def left(self) -> object:
        core = self.core
        return (
            *(left(core.buffer), account(core.ledger)[1:], core.committed, repr(core.failure)),
            *(core.life.state, self.shelf.states, without_times(core.record)),
        )


def cores(drawn: random.Random) -> None:
    """Take one script through each core, on real sockets.

    Compared are what the handler and the peer get, and what stands in the record.
    """
    lease = {
        "resumable": drawn.random() < 0.6,
        "replay_limit": drawn.choice((0, 4, 1000, 65536)),
        "unread": drawn.choice((b"", b"", b"ab\nb")),
        "state": drawn.choice((None, b"1")),
    }
    with ExitStack() as stack:
        sides = [Side(make, lease) for make in (core_in_python, core_on)]
        for side in sides:
            for sock in side.here:
                stack.enter_context(sock)
        for number in range(_STEPS):
            step, own = drawn.randrange(19), drawn.getrandbits(16)
            traces = [(side.act(step, random.Random(own)), side.left()) for side in sides]
            place = f"step {number}: {step} ({lease})"
            assert all(trace == traces[0] for trace in traces), f"{place}: {traces}"


#: Each raises AssertionError where the cores differ.
SCRIPTS: Final[tuple[Callable[[random.Random], None], ...]] = (buffers, ledgers, cores)
