"""Statements about the four ways to let go of a connection, and what the peer sees of each."""

from __future__ import annotations

import socket
from typing import Any, Final

from socketkeep._base._errors import Closed, PeerClosed, PeerReset, Released, Truncated
from socketkeep._stream._record import Ended
from socketkeep._testing._ends import End, waits
from socketkeep._testing._moving import MUCH, filled, raised
from socketkeep._testing._statements import holds

_REPLY: Final = b"the whole reply"
_TRANSFERS: Final[tuple[tuple[str, tuple[object, ...]], ...]] = (
    ("recv", ()),
    ("recv_into", (bytearray(4),)),
    ("recv_exactly", (4,)),
    ("recv_until", (b";",)),
    ("recv_frame", ("u8",)),
    ("recv_netstring", ()),
    ("send", (b"x",)),
)


@holds("send_eof")
async def send_eof_leaves_the_other_direction_open(ours: End, theirs: End) -> None:
    await ours.do("send", b"question")
    await ours.do("send_eof")
    assert await theirs.to_eof() == b"question"
    await theirs.do("send", b"answer")
    assert await ours.all_of(6) == b"answer"


@holds("send_eof", "errors", "attributes")
async def nothing_is_sent_after_send_eof(ours: End, theirs: End) -> None:
    await ours.do("send_eof")
    filled(await raised(Closed, ours.do("send", b"x")), "send", ours)
    assert await theirs.to_eof() == b""


@holds("shutdown", "attributes")
async def shutdown_of_writing_is_send_eof(ours: End, theirs: End) -> None:
    await ours.do("shutdown", socket.SHUT_WR)
    assert await theirs.to_eof() == b""
    assert ours.stream.ended is Ended.NOT_YET
    await theirs.do("send", b"still open")
    assert await ours.all_of(10) == b"still open"


@holds()
async def close_gives_the_peer_all_that_was_sent_and_eof(ours: End, theirs: End) -> None:
    async def reply() -> None:
        await ours.do("send", MUCH)
        await ours.do("close")

    async def read() -> bytes:
        data = await theirs.all_of(len(MUCH))
        cut = await _ends_without_its_own_end(theirs)
        assert not (cut and waits(ours.mode)), "close had the time to end TLS"
        await theirs.do("close")
        return data

    results = await ours.together(reply(), read())
    assert results[1] == MUCH


async def _ends_without_its_own_end(end: End) -> bool:
    """Assert that nothing more comes; return whether it ended as TLS that is cut short does."""
    try:
        assert await end.do("recv") == b""
    except Truncated:
        return True
    return False


@holds("drain", waiting=True)
async def close_lets_the_peer_finish_sending(ours: End, theirs: End) -> None:
    """The peer, which goes on sending, reads the whole reply and EOF, and is not reset."""

    async def reply() -> None:
        assert await ours.do("recv", 1)
        await ours.do("send", _REPLY)
        await ours.do("close")

    async def flood() -> Any:
        await theirs.do("send", MUCH)
        data = await theirs.to_eof()
        await theirs.do("close")
        return data

    results = await ours.together(reply(), flood())
    assert results[1] == _REPLY


async def _over(end: End, kind: type[Exception], ended: Ended) -> None:
    for verb, arguments in _TRANSFERS:
        filled(await raised(kind, end.do(verb, *arguments)), verb, end)
    await raised(kind, end.do("send_eof"))
    assert end.stream.ended is ended
    assert end.stream.fileno() == -1
    for again in ("close", "abort", "release", "close"):
        await end.do(again)
    assert end.stream.ended is ended


_EVERY_TRANSFER: Final = tuple(verb for verb, _ in _TRANSFERS)
_ENDS: Final = ("send_eof", "close", "abort", "release", "errors", "attributes", *_EVERY_TRANSFER)


@holds(*_ENDS)
async def after_close_each_verb_says_closed(ours: End, theirs: End) -> None:
    await theirs.do("send", b"unread")
    await theirs.do("send_eof")
    assert await ours.do("recv", 1) == b"u"
    await ours.do("close")
    await _over(ours, Closed, Ended.CLOSED)


@holds(*_ENDS)
async def release_of_the_last_handle_is_the_end_for_the_peer(ours: End, theirs: End) -> None:
    await ours.do("send", b"last")
    await ours.do("release")
    await _over(ours, Released, Ended.RELEASED)
    assert await theirs.all_of(4) == b"last"
    # Whoever has another handle may yet use TLS: `release` does not end it.
    assert await _ends_without_its_own_end(theirs) == bool(getattr(ours.stream, "tls", None))


@holds(*_ENDS)
async def abort_ends_it_at_once(ours: End, theirs: End) -> None:
    """The peer sees a reset where its kind of socket has one, and an end in any case."""
    await ours.do("abort")
    await _over(ours, Closed, Ended.CLOSED)
    try:
        assert await theirs.to_eof() == b""
    except PeerReset as error:
        filled(error, "recv", theirs)
        assert theirs.stream.ended is Ended.RESET


@holds("abort", "errors", "attributes")
async def sending_to_a_peer_that_has_gone_is_an_error(ours: End, theirs: End) -> None:
    await theirs.do("abort")
    filled(await raised((PeerClosed, PeerReset), ours.do("send", MUCH)), "send", ours)


@holds("attributes")
async def the_ends_have_addresses_and_a_descriptor(ours: End, theirs: End) -> None:
    for end in (ours, theirs):
        assert end.stream.peer
        assert end.stream.local
        assert end.stream.fileno() >= 0
        assert end.stream.unread == b""
        assert end.stream.ended is Ended.NOT_YET
