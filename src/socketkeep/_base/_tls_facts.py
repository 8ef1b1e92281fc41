"""TLS that ended in the edge: its facts, as they go with a connection's plain end.

They travel as a PROXY header does, and in one: the edge is a proxy of ours.  The header has the
client's address and the one it connected to, ALPN, the name that was asked for and the client's
certificate in their own places, and what has none in a TLV of the range for everybody's own use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, overload

import msgspec

from socketkeep._base._admission import HEADER_LIMIT
from socketkeep._base._proxy_header import (
    Endpoint,
    ProxyHeader,
    ProxyTls,
    between,
    between_ends,
    encoded_field,
    encoded_fields,
    read_header,
)

#: In the range 0xE0 to 0xEF of the specification, beside what clouds use of it.
_KIND: Final = 0xE5
_NUMBER: Final = 0xE6
_MAGIC: Final = b"socketkeep-edge\0"


class TlsInfo(Protocol):
    """The questions about a connection's TLS, in the words of `ssl.SSLObject`.

    Each answer is None where there is none: no such thing was negotiated, asked for or sent.
    """

    @property
    def server_hostname(self) -> str | None:
        """The name that the client asked for (SNI), on the server's side in the edge alone."""

    @property
    def session_reused(self) -> bool | None:
        """Return whether an earlier session was resumed."""

    def version(self) -> str | None:
        """Return the version, such as "TLSv1.3"."""

    def cipher(self) -> tuple[str, str, int] | None:
        """Return the cipher's name, the version that defines it, and its secret bits."""

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that both sides chose (ALPN)."""

    @overload
    def getpeercert(self, binary_form: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...
    @overload
    def getpeercert(self, binary_form: bool) -> Any: ...


class _More(msgspec.Struct, frozen=True, omit_defaults=True):
    """The facts that have no place of their own in a PROXY header; appended to only."""

    resumed: bool = False
    cipher_version: str = ""
    cipher_bits: int = 0
    certificate: dict[str, Any] | None = None  # as `ssl` takes it apart
    proxied: bytes = b""
    edge: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTls:
    """The edge's facts of a connection's TLS.  Asked as an `ssl.SSLObject` is (`TlsInfo`).

    proxied: the PROXY header that the connection began with, before TLS.  edge, number: which of
    the edges has it, and as which of its connections; 0: that is not told.
    """

    server_hostname: str | None = None
    session_reused: bool = False
    protocol: str = ""
    ciphers: tuple[str, str, int] | None = None
    alpn: str | None = None
    certificate: dict[str, Any] | None = None
    certificate_der: bytes | None = None
    proxied: bytes = b""
    edge: int = 0
    number: int = 0

    def version(self) -> str | None:
        return self.protocol or None

    def cipher(self) -> tuple[str, str, int] | None:
        return self.ciphers

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn

    @overload
    def getpeercert(self, binary_form: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...
    @overload
    def getpeercert(self, binary_form: bool) -> Any: ...
    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the client's certificate, taken apart as `ssl` does it, or as it came (DER)."""
        if binary_form or self.certificate is None:
            return self.certificate_der if binary_form else None
        return dict(self.certificate)  # the caller's own, as `ssl` has it

    def header(self, source: Endpoint | None, destination: Endpoint | None) -> bytes:
        """Return the PROXY header that says all this of a connection between the two addresses.

        Raises ValueError when the client's certificate is too large for it.
        """
        if self.certificate_der is None and not self.proxied:
            fields = fields_alike(
                *(self.server_hostname, self.session_reused, self.protocol, self.ciphers),
                *(self.alpn, self.edge),
            )
        else:
            fields = self._fields()
        raw = between(source, destination, fields + _numbered(self.number))
        if len(raw) > HEADER_LIMIT:
            raise ValueError(
                f"the client's certificate is too large: what is told of the connection has"
                f" {len(raw)} bytes, and {HEADER_LIMIT} have room"
            )
        return raw

    def _fields(self) -> bytes:
        """Return all but the number, which is another in each header."""
        name, defined_in, bits = self.ciphers or ("", "", 0)
        more = _More(
            self.session_reused, defined_in, bits, self.certificate, self.proxied, self.edge
        )
        certified = self.certificate_der is not None
        tls = ProxyTls(
            version=self.protocol,
            cipher=name,
            common_name=_common_name(self.certificate),
            verified=certified,
            certificate_now=certified and not self.session_reused,
            certificate_in_session=certified,
            certificate=self.certificate_der or b"",
        )
        return encoded_fields(
            ProxyHeader(
                alpn=(self.alpn or "").encode(),
                authority=self.server_hostname or "",
                tls=tls,
                others=((_KIND, _MAGIC + msgspec.json.encode(more)),),
            )
        )


def header_alike(ends: bytes, fields: bytes, number: int) -> bytes:
    """Return the header of a connection whose client has shown no certificate, and came directly.

    ends: as `packed_ends` has them.  fields: of `fields_alike`.
    """
    return between_ends(ends, fields + _numbered(number))


def _numbered(number: int) -> bytes:
    return encoded_field(_NUMBER, number.to_bytes(8, "big"))


@lru_cache(maxsize=64)
def fields_alike(
    server_hostname: str | None,
    session_reused: bool,
    protocol: str,
    ciphers: tuple[str, str, int] | None,
    alpn: str | None,
    edge: int,
) -> bytes:
    """Return the fields that all headers have of clients without a certificate that speak so."""
    return EdgeTls(
        server_hostname=server_hostname,
        session_reused=session_reused,
        protocol=protocol,
        ciphers=ciphers,
        alpn=alpn,
        edge=edge,
    )._fields()


def edge_tls(header: ProxyHeader) -> EdgeTls | None:
    """Return what the edge has told by this header; None: it is a proxy's."""
    number = next((int.from_bytes(value, "big") for k, value in header.others if k == _NUMBER), 0)
    for kind, value in header.others:
        if kind == _KIND and value.startswith(_MAGIC) and header.tls is not None:
            more = msgspec.json.decode(value[len(_MAGIC) :], type=_More)
            tls = header.tls
            return EdgeTls(
                server_hostname=header.authority or None,
                session_reused=more.resumed,
                protocol=tls.version,
                ciphers=(tls.cipher, more.cipher_version, more.cipher_bits),
                alpn=header.alpn.decode() or None,
                certificate=_tupled(more.certificate),
                certificate_der=tls.certificate or None,
                proxied=more.proxied,
                edge=more.edge,
                number=number,
            )
    return None


@lru_cache(maxsize=64)
def facts_in(raw: bytes) -> EdgeTls | None:
    """As `edge_tls`, of a header as its bytes; a handler may ask again and again."""
    return edge_tls(whole_header(raw))


def whole_header(raw: bytes) -> ProxyHeader:
    """Return the header that the server has found whole before."""
    found = read_header(raw)
    assert found is not None, "what the server has taken for a header is whole"
    return found[0]


def _common_name(certificate: dict[str, Any] | None) -> str:
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


def _tupled(value: Any) -> Any:
    """Return what `ssl` makes of a certificate: tuples where JSON has lists."""
    if isinstance(value, dict):
        return {key: _tupled(each) for key, each in value.items()}
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
