"""Statements about bytes and messages on their way, and about waiting for them."""

from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any, Final

from socketkeep._base._errors import (
    Busy,
    LimitExceeded,
    Malformed,
    PeerClosed,
    SocketkeepError,
    TimedOut,
    WouldBlock,
)
from socketkeep._stream._framing import Prefix
from socketkeep._stream._modes import Blocking, NonBlocking, Timeout
from socketkeep._testing._ends import PATIENCE, End
from socketkeep._testing._statements import holds

#: More than the buffers of two sockets take.
MUCH: Final = bytes(range(256)) * 32768
_PREFIXES: Final[tuple[Prefix, ...]] = ("u8", "u16", "u32", "u64")


async def raised(
    kinds: type[BaseException] | tuple[type[BaseException], ...], act: Any
) -> BaseException:
    """Return the error that the act raises, which is one of the `kinds`."""
    try:
        result = await act
    except kinds as error:
        return error
    raise AssertionError(f"it returned {result!r:.100}, and raised none of {kinds}")


def filled(error: BaseException, operation: str, end: End) -> None:
    """Assert that an error says which operation on which connection it was, and can be pickled."""
    assert isinstance(error, SocketkeepError)
    assert error.operation == operation, error.operation
    assert (error.peer, error.address) == (end.stream.peer, end.stream.local)
    assert operation in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@holds()
async def recv_returns_what_has_come(ours: End, theirs: End) -> None:
    await theirs.do("send", b"hello")
    first = await ours.do("recv", 2)
    assert 1 <= len(first) <= 2
    assert first + await ours.all_of(5 - len(first)) == b"hello"


@holds("send_eof")
async def recv_returns_nothing_at_eof_again_and_again(ours: End, theirs: End) -> None:
    await theirs.do("send", b"last")
    await theirs.do("send_eof")
    assert await ours.to_eof() == b"last"
    assert [await ours.do("recv"), await ours.do("recv")] == [b"", b""]


@holds()
async def much_passes_in_both_directions_at_once(ours: End, theirs: End) -> None:
    results = await ours.together(
        ours.do("send", MUCH),
        theirs.do("send", MUCH[::-1]),
        ours.all_of(len(MUCH)),
        theirs.all_of(len(MUCH)),
    )
    assert results[2:] == [MUCH[::-1], MUCH]


@holds("send_eof")
async def sends_arrive_in_order_whatever_they_are_sent_from(ours: End, theirs: End) -> None:
    for data in (b"one", b"", bytearray(b"two"), memoryview(b"three")):
        await ours.do("send", data)
    await ours.do("send_eof")
    assert await theirs.to_eof() == b"onetwothree"


@holds("recv_into", "send_eof")
async def recv_into_fills_a_buffer(ours: End, theirs: End) -> None:
    await theirs.do("send", b"ab")
    await theirs.do("send_eof")
    buffer = bytearray(b"....")
    count = await ours.do("recv_into", memoryview(buffer)[1:2])
    assert (count, bytes(buffer)) == (1, b".a..")
    assert await ours.do("recv_into", buffer) == 1
    assert buffer[:1] == b"b"
    assert await ours.do("recv_into", buffer) == 0


@holds("recv_exactly")
async def recv_exactly_gathers_what_comes_in_pieces(ours: End, theirs: End) -> None:
    async def in_pieces() -> None:
        for part in (b"ab", b"cd", MUCH):
            await theirs.do("send", part)

    count = 4 + len(MUCH)
    results = await ours.together(in_pieces(), ours.do("recv_exactly", count))
    assert results[1] == b"abcd" + MUCH
    assert await ours.do("recv_exactly", 0) == b""


@holds("recv_exactly", "recv_until", "send_eof", "errors", "attributes")
async def eof_in_the_middle_is_an_error_and_loses_nothing(ours: End, theirs: End) -> None:
    await theirs.do("send", b"12")
    await theirs.do("send_eof")
    error = await raised(PeerClosed, ours.do("recv_exactly", 64))
    filled(error, "recv_exactly", ours)
    assert isinstance(error, PeerClosed)
    assert (error.bytes_done, error.bytes_wanted) == (2, 64)
    filled(await raised(PeerClosed, ours.do("recv_until", b";")), "recv_until", ours)
    assert ours.stream.unread == b"12"
    assert await ours.to_eof() == b"12"


@holds("recv_until", "errors", "attributes")
async def recv_until_has_a_bound(ours: End, theirs: End) -> None:
    await theirs.do("send", b"GET /\r\n\r\n123456\r\n")
    assert await ours.do("recv_until", b"\r\n") == b"GET /"
    assert await ours.do("recv_until", b"\r\n") == b""
    filled(await raised(LimitExceeded, ours.do("recv_until", b"\r\n", 5)), "recv_until", ours)
    assert await ours.do("recv_until", b"\r\n", 6) == b"123456"


@holds("lines", "send_eof", "commit")
async def lines_end_with_the_stream(ours: End, theirs: End) -> None:
    await theirs.do("send", b"unix\ndos\r\n\nlast")
    await theirs.do("send_eof")
    found = await ours.messages("lines", commit=True)
    assert found == [b"unix", b"dos", b"", b"last"]
    ours.stream.commit(found)
    assert ours.stream.state == found


@holds("recv_frame", "frames", "send_frame", "send_eof", "errors", "attributes")
async def frames_pass_whole(ours: End, theirs: End) -> None:
    contents = [b"", b"one", bytes(range(256))[1:]]
    for prefix in _PREFIXES:
        for content in contents:
            await theirs.do("send_frame", content, prefix)
            assert await ours.do("recv_frame", prefix) == content
            await theirs.do("send_frame", content, prefix, byteorder="little")
            assert await ours.do("recv_frame", prefix, byteorder="little") == content
    await theirs.do("send_frame", b"123456", "u16")
    filled(await raised(LimitExceeded, ours.do("recv_frame", "u16", 5)), "recv_frame", ours)
    await raised(LimitExceeded, theirs.do("send_frame", bytes(256), "u8"))
    await theirs.do("send_frame", b"last", "u16")
    await theirs.do("send_eof")
    assert await ours.messages("frames", "u16") == [b"123456", b"last"]


@holds("recv_netstring", "netstrings", "send_netstring", "send_eof", "errors", "attributes")
async def netstrings_pass_whole(ours: End, theirs: End) -> None:
    for content in (b"", b"one", b"3:abc,", bytes(1000)):
        await theirs.do("send_netstring", content)
        assert await ours.do("recv_netstring") == content
    await theirs.do("send_netstring", b"123456")
    error = await raised(LimitExceeded, ours.do("recv_netstring", 5))
    filled(error, "recv_netstring", ours)
    await theirs.do("send", b"01:x,")
    await theirs.do("send_eof")
    messages = ours.each("netstrings")
    assert await anext(messages) == b"123456"
    filled(await raised(Malformed, anext(messages)), "netstrings", ours)
    assert await ours.to_eof() == b"01:x,"


@holds("timeout", "errors", "recv_exactly", "attributes")
async def a_receive_that_may_not_wait_says_so_and_goes_on(ours: End, theirs: End) -> None:
    filled(await raised(WouldBlock, ours.once("recv", timeout=0)), "recv", ours)
    await theirs.do("send", b"12")
    end = time.monotonic() + PATIENCE
    while True:
        error = await raised(WouldBlock, ours.once("recv_exactly", 4, timeout=0))
        assert isinstance(error, WouldBlock)
        assert error.bytes_wanted == 4
        if error.bytes_done == 2:
            break
        assert time.monotonic() < end, "what was sent does not arrive"
    await theirs.do("send", b"34")
    assert await ours.do("recv_exactly", 4) == b"1234"


@holds("timeout", "errors", "recv_exactly", "attributes")
async def a_receive_times_out_and_loses_nothing(ours: End, theirs: End) -> None:
    await theirs.do("send", b"12")
    error = await raised(TimedOut, ours.once("recv_exactly", 4, timeout=0.05))
    filled(error, "recv_exactly", ours)
    assert isinstance(error, TimedOut)
    assert error.limit == 0.05
    assert error.elapsed is not None
    assert error.elapsed >= 0.05
    await theirs.do("send", b"34")
    assert await ours.do("recv_exactly", 4) == b"1234"


@holds("timeout", "errors", "attributes")
async def a_send_that_did_not_finish_goes_on(ours: End, theirs: End) -> None:
    """Its bytes arrive once each, whether it could not wait or waited for too long."""
    first = await raised(WouldBlock, ours.once("send", MUCH, timeout=0))
    second = await raised(TimedOut, ours.once("send", MUCH, timeout=0.05))
    assert isinstance(first, WouldBlock)
    assert isinstance(second, TimedOut)
    filled(second, "send", ours)
    assert 0 < first.bytes_done <= second.bytes_done < len(MUCH)
    assert second.bytes_wanted == len(MUCH)
    results = await ours.together(ours.do("send", MUCH), theirs.all_of(len(MUCH)))
    assert results[1] == MUCH


@holds("errors", "attributes", waiting=True)
async def one_of_two_receivers_is_refused(ours: End, theirs: End) -> None:
    async def receive() -> bytes | None:
        try:
            data: bytes = await ours.do("recv")
        except Busy as error:
            filled(error, "recv", ours)
            await theirs.do("send", b"for the other")
            return None
        return data

    results = await ours.together(receive(), receive())
    assert sorted(results, key=bool) == [None, b"for the other"]


@holds("mode", "errors", world="sync")
async def the_mode_is_a_value_that_the_verbs_keep_to(ours: End, theirs: End) -> None:
    conn = ours.stream
    conn.mode = NonBlocking()
    await raised(WouldBlock, ours.once("recv"))
    with conn.using(Timeout(0.02)) as same:
        assert (same, conn.mode) == (conn, Timeout(0.02))
        await raised(TimedOut, ours.once("recv"))
        await raised(WouldBlock, ours.once("recv", timeout=0))
    assert conn.mode == NonBlocking()
    conn.mode = Blocking()
    await theirs.do("send", b"x")
    assert await ours.once("recv") == b"x"


@holds(world="async")
async def a_cancelled_receive_loses_no_byte(ours: End, theirs: End) -> None:
    for turns in range(4):
        receiving = asyncio.ensure_future(ours.once("recv"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await theirs.do("send", b"x")
        receiving.cancel()
        try:
            assert await receiving == b"x"
        except asyncio.CancelledError:
            assert await ours.do("recv") == b"x"
