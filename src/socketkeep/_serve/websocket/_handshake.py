"""The opening handshake (RFC 6455, section 4): what is asked for, and the answers to it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionName
from websockets.utils import accept_key

from socketkeep._serve.asgi._response import MessageError, header_lines, status_line
from socketkeep._serve.websocket._deflate import Deflate

Headers: TypeAlias = list[tuple[bytes, bytes]]

_EXTENSION: Final = ExtensionName("permessage-deflate")
_VERSION: Final = b"13"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: Headers of the answer that are this module's.
_OURS: Final = frozenset(
    (
        *(b"connection", b"content-length", b"transfer-encoding", b"upgrade"),
        *(b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol"),
    )
)


class HandshakeRefusal(NamedTuple):
    """A request that is no opening handshake: what it is answered, and why."""

    status: int
    why: str
    headers: Headers


class Upgrade(NamedTuple):
    """The wishes of a request.

    accept: the answer to its key.  deflate: the compression that has been agreed on, and the words
    that tell the client; None and b"" without.
    """

    accept: bytes
    deflate: Deflate | None
    extensions: bytes


def ask(headers: Iterable[tuple[bytes, bytes]], window_bits: int) -> Upgrade | HandshakeRefusal:
    """Return what a request for an upgrade to a WebSocket asks for, or why it is refused.

    headers: with names in lower case.  window_bits: of the compression in each direction, 0 for
    none at all.
    """
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name.startswith(b"sec-websocket-"):
            found.setdefault(name, []).append(value.strip())
    versions = found.get(b"sec-websocket-version", [])
    if versions != [_VERSION]:
        told = b", ".join(versions).decode("latin-1") or "none"
        return HandshakeRefusal(
            426,
            f"Sec-WebSocket-Version is {told}, and 13 is spoken here",
            [(b"upgrade", b"websocket"), (b"sec-websocket-version", _VERSION)],
        )
    keys = found.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        told = "missing" if not keys else "given twice" if len(keys) > 1 else "not 16 bytes"
        return HandshakeRefusal(400, f"Sec-WebSocket-Key is {told}", [])
    deflate, extensions = None, b""
    if window_bits:
        try:
            for offer in found.get(b"sec-websocket-extensions", []):
                for extension, parameters in parse_extension(offer.decode("latin-1")):
                    if extension == _EXTENSION and deflate is None:
                        deflate, extensions = _agree(parameters, window_bits)
        except InvalidHandshake as error:
            return HandshakeRefusal(400, f"Sec-WebSocket-Extensions: {error}", [])
    accept = accept_key(keys[0].decode("ascii")).encode()
    return Upgrade(accept, deflate, extensions)


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _agree(
    parameters: Sequence[tuple[str, str | None]], window_bits: int
) -> tuple[Deflate | None, bytes]:
    factory = ServerPerMessageDeflateFactory(
        server_max_window_bits=window_bits, client_max_window_bits=window_bits
    )
    try:
        answer, agreed = factory.process_request_params(parameters, [])
    except InvalidHandshake:
        return None, b""  # an offer that cannot be taken is passed over
    deflate = Deflate(
        max(9, agreed.remote_max_window_bits),
        agreed.local_max_window_bits,
        not agreed.remote_no_context_takeover,
        not agreed.local_no_context_takeover,
    )
    return deflate, build_extension([(_EXTENSION, answer)]).encode()


def accepted(asked: Upgrade, subprotocol: str | None, headers: Headers, defaults: bytes) -> bytes:
    """Return the answer that opens the WebSocket.

    defaults: headers of every answer, as they are sent.  Raises MessageError for what cannot be.
    """
    lines = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    answer = [(b"sec-websocket-accept", asked.accept)]
    if asked.extensions:
        answer.append((b"sec-websocket-extensions", asked.extensions))
    if subprotocol is not None:
        if not _TOKEN.fullmatch(subprotocol):
            raise MessageError(f"a subprotocol is a token, not {subprotocol!r}")
        answer.append((b"sec-websocket-protocol", subprotocol.encode()))
    return lines + defaults + header_lines(answer + _own(headers, _OURS)) + b"\r\n"


def refused(refusal: HandshakeRefusal, defaults: bytes) -> bytes:
    """Return the answer to a request that is refused."""
    body = f"{refusal.why}\n".encode("utf-8", "replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *refusal.headers]
    return denied(refusal.status, headers, body, defaults)


def denied(status: int, headers: Headers, body: bytes, defaults: bytes) -> bytes:
    """Return a whole answer that opens no WebSocket, after which the connection ends.

    Raises MessageError for what cannot be sent.
    """
    own = _own(headers, frozenset((b"content-length", b"transfer-encoding", b"connection")))
    end = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    return status_line(status) + defaults + header_lines(own + end) + b"\r\n" + body


def _own(headers: Headers, ours: frozenset[bytes]) -> Headers:
    """Return the application's headers without those that are not its to say."""
    return [(name, value) for name, value in headers if name.lower() not in ours]
