"""Mutated requests, read by our parser and by h11, which must not disagree on what is a request.

Where two readers disagree on where a request ends, the one in front can be made to let a request
pass that only the other sees: that is how requests are smuggled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import h11

from socketkeep._serve.asgi._body import Body, Chunked, Sized
from socketkeep._serve.asgi._head import BadRequest, Incomplete, read_head, take_head
from tests.harness.seam import buffer as make_buffer

_BOUND: Final = 65536

_BASES: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a?b=c HTTP/1.1\r\nHost: x:80\r\nAccept: */*\r\nX-A: b\r\n\r\n",
    b"HEAD /a%20b HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    b"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"DELETE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
)
_LINES: Final = (
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: +5",
    b"Content-Length: 05",
    b"Content-Length: 5, 5",
    b"Content-Length: 0x5",
    b"Content-Length : 5",
    b"Content-Length:\t5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding:",
    b"Transfer_Encoding: chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"Host: y",
    b"Connection: close",
    b"Connection: Upgrade",
    b"Upgrade: h2c",
    b"GET / HTTP/1.1",
    b"5",
    b"0",
    b"",
)
_BYTES: Final = b"\r\n\t \0:;,=/09aZ_-+\x0b\x0c\x7f\x80\xff"


#: Version, method, target, headers, body.
One: TypeAlias = tuple[str, bytes, bytes, list[tuple[bytes, bytes]], bytes]


@dataclass
class Seen:
    """What a reader has made of a stream.  end: how it ended."""

    requests: list[One] = field(default_factory=list)
    end: str = ""


def mutated(rng: random.Random) -> bytes:
    """Return a stream of a few requests, with a few changes."""
    stream = b"".join(rng.choice(_BASES) for _ in range(rng.randint(1, 3)))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        stream = _mutate(stream, rng)
    return stream


def _mutate(stream: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(7)
    at = rng.randrange(len(stream) + 1)
    if kind == 0:
        return stream[:at] + bytes([rng.choice(_BYTES)]) + stream[at:]
    if kind == 1:
        return stream[:at] + stream[at + rng.randint(1, 3) :]
    if kind == 2:
        return stream[:at] + bytes([rng.choice(_BYTES)]) + stream[at + 1 :]
    lines = stream.split(b"\r\n")
    place = rng.randrange(len(lines))
    if kind == 3:
        lines.insert(place, rng.choice(_LINES))
    elif kind == 4:
        lines.insert(place, lines[rng.randrange(len(lines))])
    elif kind == 5:
        del lines[place]
    else:
        lines[place] = rng.choice(_LINES)
    return b"\r\n".join(lines)


def ours(stream: bytes, cuts: list[int]) -> Seen:
    """Return what our parser sees in the stream, which comes in parts."""
    seen = Seen()
    buffer = make_buffer()
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reader = _reader(buffer, seen)
    for part in parts:
        if part:
            buffer.feed(part)
            try:
                if next(reader):
                    return seen
            except BadRequest as error:
                seen.end = f"bad {error.status}"
                return seen
    seen.end = "wants more"
    return seen


def _reader(buffer: Any, seen: Seen) -> Iterator[bool]:
    """Read what is there each time that it is asked; yields whether the stream is at its end."""
    while True:
        head = None
        while head is None:
            with suppress(Incomplete):
                head = take_head(buffer, _BOUND)
            if head is None:
                yield False
        request = read_head(head, 100)
        if request is None:
            continue
        body: Body = Chunked() if request.chunked else Sized(request.length or 0)
        data = b""
        while not body.over:
            part = body.take(buffer, _BOUND)
            if part is None:
                yield False
            else:
                data += part
        method = request.method.encode()
        # As h11 tells it.
        headers = [
            (name, value.lower() if name == b"transfer-encoding" else value)
            for name, value in request.headers
        ]
        seen.requests.append((request.http_version, method, request.target, headers, data))
        if not request.keep_alive:
            seen.end = "closed"
            yield True


def theirs(stream: bytes) -> Seen:
    """Return what h11 sees in the stream."""
    seen = Seen()
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=_BOUND)
    conn.receive_data(stream)
    try:
        while True:
            request = conn.next_event()
            if not isinstance(request, h11.Request):
                seen.end = "wants more" if request is h11.NEED_DATA else "closed"
                return seen
            data = b""
            while isinstance(event := conn.next_event(), h11.Data):
                data += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                seen.end = "wants more"
                return seen
            headers = [(bytes(name), bytes(value)) for name, value in request.headers]
            version = request.http_version.decode()
            seen.requests.append(
                (version, bytes(request.method), bytes(request.target), headers, data)
            )
            conn.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
            conn.send(h11.EndOfMessage())
            if conn.our_state is not h11.DONE:
                seen.end = "closed"
                return seen
            conn.start_next_cycle()
    except h11.RemoteProtocolError as error:
        seen.end = f"bad: {error}"
        return seen


def disagreement(stream: bytes, rng: random.Random) -> str:
    """Return what is wrong with what the two see, "" where nothing is."""
    whole = ours(stream, [])
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randint(1, 8)))
    in_parts = ours(stream, cuts)
    # What is refused early may be refused for another reason, never served.
    if in_parts.requests != whole.requests or in_parts.end[:3] != whole.end[:3]:
        return f"in parts it is {in_parts}, whole it is {whole}"
    other = theirs(stream)
    for number, request in enumerate(whole.requests):
        if number >= len(other.requests):
            if _is_known(whole.requests[:number], other.end):
                break
            return f"request {number} is {request}, and h11 says {other.end}"
        if request != other.requests[number]:
            return f"request {number} is {request}, and to h11 it is {other.requests[number]}"
    return ""


def _is_known(before: list[One], end: str) -> bool:
    """Whether h11 stops where we go on, for a reason that harms nobody."""
    # It does not keep connections of HTTP/1.0, and passes over no empty line (RFC 9112, 2.2).
    return any(one[0] == "1.0" for one in before) or end == "bad: no request line received"


def search(seed: int, count: int) -> tuple[dict[str, int], list[tuple[bytes, str]]]:
    """Compare so many streams; return how they ended, and those on which there is no agreement."""
    rng = random.Random(seed)
    ends: dict[str, int] = {}
    found = []
    for _ in range(count):
        stream = mutated(rng)
        end = ours(stream, []).end
        ends[end] = ends.get(end, 0) + 1
        if why := disagreement(stream, rng):
            found.append((stream, why))
    return ends, found
