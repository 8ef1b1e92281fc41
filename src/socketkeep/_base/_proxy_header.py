"""The PROXY protocol, versions 1 and 2: headers read from bytes and written to bytes, without I/O.

A proxy sends one header before the first byte of the connection that it passes on.  The header says
between which two addresses that connection was made; version 2 can add what the proxy knows of TLS.

The source is the specification, "The PROXY protocol, Versions 1 & 2" (HAProxy,
doc/proxy-protocol.txt), called "the specification" below.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeAlias

from socketkeep._base._address import InetAddress, UnixAddress, format_address
from socketkeep._base._admission import HEADER_LIMIT
from socketkeep._base._errors import Malformed

Endpoint: TypeAlias = InetAddress | UnixAddress
Protocol: TypeAlias = Literal["stream", "datagram"]

#: The longest header that `read_header` takes by default, in bytes.  HAProxy's own are shorter than
#: 600 without a client certificate; one of 4,096-bit RSA with its extensions takes 2 to 3 KiB.
DEFAULT_LIMIT: Final = HEADER_LIMIT

_V1_START: Final = b"PROXY "
_V1_MOST: Final = 107  # with CR LF, section 2.1 of the specification
_V2_START: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED: Final = struct.Struct("!12sBBH")
_V2_MOST: Final = 65535
_UNIX_SIZE: Final = 108

_LOCAL, _PROXY = 0x0, 0x1
_V2_PROXIED: Final = _V2_START + bytes((0x20 | _PROXY,))
_UNSPECIFIED, _INET, _INET6, _UNIX = 0x0, 0x1, 0x2, 0x3
_PROTOCOLS: Final[tuple[Protocol | None, ...]] = (None, "stream", "datagram")

_TLV: Final = struct.Struct("!BH")
_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _SSL, _NETNS = 1, 2, 3, 4, 5, 0x20, 0x30
_AWS, _AZURE, _GCP = 0xEA, 0xEE, 0xE0
_AWS_VPC_ENDPOINT, _AZURE_LINK = b"\1", b"\1"
_UNIQUE_ID_MOST: Final = 128
#: Those with a meaning of their own: a second one would leave open which of the two counts.
_SINGLE: Final = frozenset(
    (_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL, _NETNS, _AWS, _AZURE, _GCP)
)

_TLS: Final = struct.Struct("!BI")
_OVER_TLS, _CERTIFICATE_NOW, _CERTIFICATE_IN_SESSION = 0x01, 0x02, 0x04
#: Fields of `ProxyTls` that are text, by the type of the inner TLV.
_TLS_TEXTS: Final = {
    0x21: "version",
    0x22: "common_name",
    0x23: "cipher",
    0x24: "signature_algorithm",
    0x25: "key_algorithm",
    0x26: "group",
    0x27: "signature_scheme",
}
_TLS_CERTIFICATE: Final = 0x28


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTls:
    """The facts that a proxy tells of the TLS between the client and itself.

    Texts are "" and the certificate b"" when absent.

    Attributes:
        over_tls: The client's connection was TLS; False: the proxy only says that it was not.
        version: "TLSv1.3".
        cipher: The cipher's OpenSSL name.
        common_name: The one of the client's certificate.
        verified: The client presented a certificate, and the proxy found it good; without a
            certificate False, whatever the proxy's word, since OpenSSL calls the absence of one a
            success.
        certificate_now: The certificate was presented on this connection.
        certificate_in_session: It was presented at any time in the TLS session that this connection
            resumes.
        signature_algorithm: The one of the proxy's own certificate ("RSA-SHA256").
        key_algorithm: The one of the proxy's own certificate ("RSA2048").
        group: The group of the key exchange ("X25519MLKEM768").
        signature_scheme: The scheme of the client's signature.
        certificate: The client's certificate, DER.
    """

    over_tls: bool = True
    version: str = ""
    cipher: str = ""
    common_name: str = ""
    verified: bool = False
    certificate_now: bool = False
    certificate_in_session: bool = False
    signature_algorithm: str = ""
    key_algorithm: str = ""
    group: str = ""
    signature_scheme: str = ""
    certificate: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """A PROXY protocol header.

    Where nothing was said bytes and texts are empty, and numbers None.  From `alpn` on it is
    version 2 alone.

    Attributes:
        version: 1 (a line of text, only addresses) or 2 (binary).
        source: The client's address, an `InetAddress` or a `UnixAddress`; None, like `destination`,
            when the proxy does not know them, or `local`.
        destination: The address that the client connected to.
        local: The proxy connected on its own account, a health check as a rule; the addresses are
            those of the socket.
        protocol: "stream" or "datagram", which the client spoke with the proxy.
        alpn: The application protocol that TLS negotiated.
        authority: The host name that the client asked for, SNI with TLS.
        unique_id: The connection's name in the proxy's logs, 128 bytes at most.
        tls: The facts of TLS, None where the proxy does not say.
        netns: The proxy's network namespace.
        aws_vpc_endpoint: "vpce-…".
        azure_private_endpoint: The link id.
        gcp_psc_connection: The Private Service Connect id.
        others: Types and values that have no field here.
        checksum: A CRC32C came with the header (and was right), or is to be written.
    """

    version: Literal[1, 2] = 2
    source: Endpoint | None = None
    destination: Endpoint | None = None
    local: bool = False
    protocol: Protocol = "stream"
    alpn: bytes = b""
    authority: str = ""
    unique_id: bytes = b""
    tls: ProxyTls | None = None
    netns: str = ""
    aws_vpc_endpoint: str = ""
    azure_private_endpoint: int | None = None
    gcp_psc_connection: int | None = None
    others: tuple[tuple[int, bytes], ...] = ()
    checksum: bool = False

    def encode(self) -> bytes:
        """Return the header as bytes, to be sent before all else in one send.

        Raises:
            ValueError: The version cannot say it (Unix addresses, datagrams, or anything but
                addresses in version 1), one address is without the other or of another kind, a host
                is no IP address, or a value is too long.
        """
        return _encode_v1(self) if self.version == 1 else _encode_v2(self)


def begins_header(data: bytes) -> bool | None:
    """Return whether `data` begins with a PROXY header; None while too little came to tell.

    Args:
        data: The bytes that came.  Only the start is looked at: six bytes of version 1, twelve of
            version 2.
    """
    for start in (_V1_START, _V2_START):
        if data.startswith(start):
            return True
        if start.startswith(data):
            return None
    return False


def read_header(data: bytes, *, limit: int = DEFAULT_LIMIT) -> tuple[ProxyHeader, int] | None:
    """Return the header at the begin of `data` and how many bytes it takes; None: more is needed.

    What follows the header is the connection's own.  After Malformed the receiver is to close the
    connection: its first byte cannot be found.

    Args:
        data: The bytes that came.
        limit: The longest header, in bytes, the fixed part of version 2 (16) included.

    Raises:
        Malformed: As soon as it is certain, for bytes that begin no header, and for a header that
            breaks the specification, is longer than `limit`, or has a false checksum.
    """
    match begins_header(data):
        case None:
            return None
        case False:
            raise Malformed(f"failed: no PROXY header: the connection begins with {data[:12]!r}")
        case True if data.startswith(_V1_START):
            return _read_v1(data, min(limit, _V1_MOST))
        case _:
            return _read_v2(data, limit)


# Version 1: a line.


def _read_v1(data: bytes, limit: int) -> tuple[ProxyHeader, int] | None:
    end = data.find(b"\r\n", 0, limit)
    if end < 0:
        if len(data) >= limit:
            raise Malformed(f"failed: a PROXY header of version 1 has no end within {limit} bytes")
        return None
    line = data[:end]
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        # "The receiver must ignore anything presented before the CRLF": section 2.1.
        return ProxyHeader(version=1), end + 2
    if words[1] not in (b"TCP4", b"TCP6") or len(words) != 6:
        raise Malformed(f"failed: not a PROXY header of version 1: {line!r}")
    host = _inet4 if words[1] == b"TCP4" else _inet6
    try:
        source = InetAddress(host(words[2]), _port(words[4]))
        destination = InetAddress(host(words[3]), _port(words[5]))
    except ValueError:
        raise Malformed(f"failed: no addresses in the PROXY header {line!r}") from None
    return ProxyHeader(version=1, source=source, destination=destination), end + 2


def _inet4(text: bytes) -> str:
    return str(IPv4Address(text.decode("ascii")))


def _inet6(text: bytes) -> str:
    if b"%" in text:  # a scope belongs to one machine alone
        raise ValueError(text)
    return str(IPv6Address(text.decode("ascii")))


def _port(text: bytes) -> int:
    port = int(text) if text.isdigit() else -1
    if not 0 <= port <= 65535 or str(port).encode() != text:  # no leading zeros: section 2.1
        raise ValueError(text)
    return port


def _encode_v1(header: ProxyHeader) -> bytes:
    bare = ProxyHeader(version=1, source=header.source, destination=header.destination)
    if header != bare:
        raise ValueError("version 1 of the PROXY protocol says nothing but two TCP addresses")
    family, packed = _pack_addresses(header.source, header.destination)
    if family == _UNSPECIFIED:
        return b"PROXY UNKNOWN\r\n"
    if family == _UNIX:
        raise ValueError("version 1 of the PROXY protocol has no Unix addresses: use version 2")
    ip: type[IPv4Address | IPv6Address] = IPv4Address if family == _INET else IPv6Address
    size = 4 if family == _INET else 16
    source, destination = ip(packed[:size]), ip(packed[size : 2 * size])
    ports = struct.unpack("!HH", packed[2 * size :])
    name = "TCP4" if family == _INET else "TCP6"
    return f"PROXY {name} {source} {destination} {ports[0]} {ports[1]}\r\n".encode()


# Version 2: binary.


def _read_v2(data: bytes, limit: int) -> tuple[ProxyHeader, int] | None:
    if len(data) < _V2_FIXED.size:
        return None
    _, what, kind, length = _V2_FIXED.unpack_from(data)
    size = _V2_FIXED.size + length
    command, family, protocol = what & 0xF, kind >> 4, kind & 0xF
    # All that the fixed part can say is looked at before its body is waited for.
    if what >> 4 != 2:
        raise Malformed(f"failed: a PROXY header of the unknown version {what >> 4}")
    if command not in (_LOCAL, _PROXY):
        raise Malformed(f"failed: a PROXY header with the unknown command {command}")
    if family > _UNIX or protocol >= len(_PROTOCOLS):
        raise Malformed(f"failed: a PROXY header of the unknown family and protocol {kind:#04x}")
    if size > limit:
        raise Malformed(f"failed: a PROXY header of {size} bytes, {limit} are allowed")
    if len(data) < size:
        return None
    speaks = _PROTOCOLS[protocol]
    if command == _LOCAL:
        return ProxyHeader(local=True), size
    if family == _UNSPECIFIED or speaks is None:
        # How long the addresses are is not known, so there is no telling where TLVs begin.
        return ProxyHeader(), size
    body = data[_V2_FIXED.size : size]
    source, destination, used = _unpack_addresses(family, body)
    fields = _Tlvs(data[:size], _V2_FIXED.size + used)
    return (
        ProxyHeader(
            source=source,
            destination=destination,
            protocol=speaks,
            alpn=fields.values.get(_ALPN, b""),
            authority=_text(fields.values.get(_AUTHORITY, b""), "authority"),
            unique_id=_unique_id(fields.values.get(_UNIQUE_ID, b"")),
            tls=_read_tls(fields.values[_SSL]) if _SSL in fields.values else None,
            netns=_text(fields.values.get(_NETNS, b""), "network namespace"),
            aws_vpc_endpoint=_text(fields.aws, "AWS endpoint"),
            azure_private_endpoint=fields.azure,
            gcp_psc_connection=fields.gcp,
            others=tuple(fields.others),
            checksum=_CRC32C in fields.values,
        ),
        size,
    )


class _Tlvs:
    """The type-length-value parts of a header, apart by who gave them their meaning."""

    def __init__(self, header: bytes, start: int) -> None:
        self.values: dict[int, bytes] = {}
        self.others: list[tuple[int, bytes]] = []
        self.aws = b""
        self.azure: int | None = None
        self.gcp: int | None = None
        for kind, value, offset in _each_tlv(header, start):
            if kind == _NOOP:
                continue
            if kind not in _SINGLE:
                self.others.append((kind, value))
                continue
            if kind in self.values:
                raise Malformed(f"failed: a PROXY header with two values of the type {kind:#04x}")
            self.values[kind] = value
            if kind == _CRC32C:
                _check_crc(header, value, offset)
            elif kind >= _GCP:
                self._read_vendor(kind, value)

    def _read_vendor(self, kind: int, value: bytes) -> None:
        """Note the fields of clouds in the range for applications; others may have used it, too."""
        if kind == _AWS and value[:1] == _AWS_VPC_ENDPOINT:
            self.aws = value[1:]
        elif kind == _AZURE and value[:1] == _AZURE_LINK and len(value) == 5:
            self.azure = int.from_bytes(value[1:], "little")  # Azure's documentation says so
        elif kind == _GCP and len(value) == 8:
            self.gcp = int.from_bytes(value, "big")
        else:
            self.others.append((kind, value))


def _each_tlv(data: bytes, start: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield the type, the value, and where in `data` the value begins."""
    while start < len(data):
        if len(data) - start < _TLV.size:
            raise Malformed("failed: a PROXY header that ends in the middle of a type and length")
        kind, length = _TLV.unpack_from(data, start)
        start += _TLV.size
        if len(data) - start < length:
            raise Malformed(
                f"failed: a PROXY header whose value of the type {kind:#04x} is longer than it"
            )
        yield kind, data[start : start + length], start
        start += length


def _check_crc(header: bytes, value: bytes, offset: int) -> None:
    if len(value) != 4:
        raise Malformed(f"failed: a PROXY header with a checksum of {len(value)} bytes, not 4")
    blank = header[:offset] + bytes(4) + header[offset + 4 :]
    if crc32c(blank) != int.from_bytes(value, "big"):
        raise Malformed("failed: a PROXY header with a false checksum")


def _read_tls(value: bytes) -> ProxyTls:
    if len(value) < _TLS.size:
        raise Malformed("failed: a PROXY header whose TLS part is cut")
    client, verify = _TLS.unpack_from(value)
    texts: dict[str, str] = {}
    certificate = b""
    for kind, part, _ in _each_tlv(value, _TLS.size):
        if kind == _TLS_CERTIFICATE:
            certificate = part
        elif (name := _TLS_TEXTS.get(kind)) is not None:
            texts[name] = _text(part, f"TLS {name.replace('_', ' ')}")
    return ProxyTls(
        over_tls=bool(client & _OVER_TLS),
        verified=verify == 0 and bool(client & (_CERTIFICATE_NOW | _CERTIFICATE_IN_SESSION)),
        certificate_now=bool(client & _CERTIFICATE_NOW),
        certificate_in_session=bool(client & _CERTIFICATE_IN_SESSION),
        certificate=certificate,
        **texts,
    )


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Malformed(f"failed: a PROXY header whose {what} is no UTF-8: {value!r}") from None


def _unique_id(value: bytes) -> bytes:
    if len(value) > _UNIQUE_ID_MOST:
        raise Malformed(f"failed: a PROXY header with a unique id of {len(value)} bytes, 128 most")
    return value


def _unpack_addresses(family: int, body: bytes) -> tuple[Endpoint, Endpoint, int]:
    if family == _UNIX:
        size = 2 * _UNIX_SIZE
        _require(body, size, "Unix")
        return _unix(body[:_UNIX_SIZE]), _unix(body[_UNIX_SIZE:size]), size
    ip: type[IPv4Address | IPv6Address] = IPv4Address if family == _INET else IPv6Address
    width = 4 if family == _INET else 16
    size = 2 * width + 4
    _require(body, size, "IPv4" if family == _INET else "IPv6")
    ports = struct.unpack_from("!HH", body, 2 * width)
    hosts = str(ip(body[:width])), str(ip(body[width : 2 * width]))
    return InetAddress(hosts[0], ports[0]), InetAddress(hosts[1], ports[1]), size


def _require(body: bytes, size: int, what: str) -> None:
    if len(body) < size:
        raise Malformed(
            f"failed: a PROXY header with {len(body)} bytes for {what} addresses, which take {size}"
        )


def _unix(raw: bytes) -> UnixAddress:
    name = raw.rstrip(b"\0") if raw[:1] != b"\0" else b"@" + raw[1:].rstrip(b"\0")
    return UnixAddress("" if name == b"@" else name.decode("utf-8", "surrogateescape"))


def _encode_v2(header: ProxyHeader) -> bytes:
    if header.local:
        if header != ProxyHeader(local=True):
            raise ValueError("a header that is `local` says nothing else")
        return _V2_FIXED.pack(_V2_START, 0x20 | _LOCAL, 0, 0)
    family, addresses = _pack_addresses(header.source, header.destination)
    if family == _UNSPECIFIED:
        if header != ProxyHeader():
            raise ValueError("a header without addresses says nothing else")
        return _V2_FIXED.pack(_V2_START, 0x20 | _PROXY, 0, 0)
    tlvs = encoded_fields(header)
    if header.checksum:
        tlvs += encoded_field(_CRC32C, bytes(4))
    data = _joined(family, _PROTOCOLS.index(header.protocol), addresses, tlvs)
    return data[:-4] + crc32c(data).to_bytes(4, "big") if header.checksum else data


def _joined(family: int, protocol: int, addresses: bytes, tlvs: bytes) -> bytes:
    body = addresses + tlvs
    if len(body) > _V2_MOST:
        raise ValueError(f"a PROXY header of {len(body)} bytes: it can have {_V2_MOST}")
    return _V2_FIXED.pack(_V2_START, 0x20 | _PROXY, family << 4 | protocol, len(body)) + body


def between(source: Endpoint | None, destination: Endpoint | None, tlvs: bytes) -> bytes:
    """Return a header of version 2 for a stream between two addresses, with fields as they are.

    Raises ValueError for addresses that do not go together.
    """
    family, addresses = _pack_addresses(source, destination)
    return _joined(family, _PROTOCOLS.index("stream"), addresses, tlvs)


def packed_ends(source: Endpoint, destination: Endpoint) -> bytes:
    """Return the addresses as they stand in a header of version 2, with their kind before them.

    Raises ValueError for addresses that do not go together.
    """
    family, addresses = _pack_addresses(source, destination)
    return bytes((family << 4 | _PROTOCOLS.index("stream"),)) + addresses


def between_ends(ends: bytes, tlvs: bytes) -> bytes:
    """As `between`, of what `packed_ends` returns, and of fields that surely have room."""
    size = len(ends) - 1 + len(tlvs)
    return _V2_PROXIED + ends[:1] + size.to_bytes(2, "big") + ends[1:] + tlvs


def encoded_fields(header: ProxyHeader) -> bytes:
    """Return the fields of version 2 that stand behind the addresses, but for the checksum."""
    return b"".join(encoded_field(kind, value) for kind, value in _fields(header))


def source_of(data: bytes) -> tuple[str, int] | None:
    """Return the source's IP address as text, and the header's size; nothing else is looked at.

    None: `data` does not begin with a header of version 2 that is whole and has such addresses.
    """
    if len(data) < _V2_FIXED.size:
        return None
    start, what, kind, length = _V2_FIXED.unpack_from(data)
    size = _V2_FIXED.size + length
    if start != _V2_START or what != 0x20 | _PROXY or len(data) < size:
        return None
    if kind == _INET << 4 | 1 and length >= 12:
        host = socket.inet_ntop(socket.AF_INET, data[16:20])
        return f"{host}:{int.from_bytes(data[24:26], 'big')}", size
    if kind == _INET6 << 4 | 1 and length >= 36:
        host = socket.inet_ntop(socket.AF_INET6, data[16:32])
        return f"[{host}]:{int.from_bytes(data[48:50], 'big')}", size
    return None


def _fields(header: ProxyHeader) -> Iterator[tuple[int, bytes]]:
    if header.alpn:
        yield _ALPN, header.alpn
    if header.authority:
        yield _AUTHORITY, header.authority.encode()
    if header.unique_id:
        if len(header.unique_id) > _UNIQUE_ID_MOST:
            raise ValueError(f"a unique id of {len(header.unique_id)} bytes: 128 are allowed")
        yield _UNIQUE_ID, header.unique_id
    if header.tls is not None:
        yield _SSL, _encode_tls(header.tls)
    if header.netns:
        yield _NETNS, header.netns.encode()
    if header.aws_vpc_endpoint:
        yield _AWS, _AWS_VPC_ENDPOINT + header.aws_vpc_endpoint.encode()
    if header.azure_private_endpoint is not None:
        yield _AZURE, _AZURE_LINK + header.azure_private_endpoint.to_bytes(4, "little")
    if header.gcp_psc_connection is not None:
        yield _GCP, header.gcp_psc_connection.to_bytes(8, "big")
    yield from header.others


def _encode_tls(tls: ProxyTls) -> bytes:
    client = (
        (_OVER_TLS if tls.over_tls else 0)
        | (_CERTIFICATE_NOW if tls.certificate_now else 0)
        | (_CERTIFICATE_IN_SESSION if tls.certificate_in_session else 0)
    )
    value = _TLS.pack(client, 0 if tls.verified else 1)
    for kind, name in _TLS_TEXTS.items():
        if text := getattr(tls, name):
            value += encoded_field(kind, text.encode())
    return value + (encoded_field(_TLS_CERTIFICATE, tls.certificate) if tls.certificate else b"")


def encoded_field(kind: int, value: bytes) -> bytes:
    """Return one field of version 2."""
    if not 0 <= kind <= 255 or len(value) > _V2_MOST:
        raise ValueError(f"a value of {len(value)} bytes of the type {kind} has no place")
    return _TLV.pack(kind, len(value)) + value


def _pack_addresses(first: Endpoint | None, second: Endpoint | None) -> tuple[int, bytes]:
    """Return the family of the addresses, and how version 2 has them."""
    match first, second:
        case None, None:
            return _UNSPECIFIED, b""
        case UnixAddress(source), UnixAddress(destination):
            return _UNIX, _pack_unix(source) + _pack_unix(destination)
        case InetAddress(source, port), InetAddress(destination, to_port):
            family = _INET6 if ":" in source else _INET
            hosts = _pack_host(family, source) + _pack_host(family, destination)
            try:
                return family, hosts + struct.pack("!HH", port, to_port)
            except struct.error:
                raise ValueError(f"{port} or {to_port} is no port (0 to 65535)") from None
        case source, destination:
            raise ValueError(f"{source} and {destination} are not addresses of one kind")


def _pack_host(family: int, host: str) -> bytes:
    """Raises ValueError when it is no IP address of this family."""
    six = family == _INET6
    try:
        # A tenth of what `ipaddress` takes, which has words for what is wrong, and knows of scopes.
        return socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, host)
    except (OSError, ValueError):
        return (IPv6Address if six else IPv4Address)(host).packed


def _pack_unix(path: str) -> bytes:
    raw = path.encode("utf-8", "surrogateescape")
    raw = b"\0" + raw[1:] if raw.startswith(b"@") else raw
    if len(raw) > _UNIX_SIZE:
        raise ValueError(f"a Unix path of {len(raw)} bytes: {_UNIX_SIZE} have room")
    return raw.ljust(_UNIX_SIZE, b"\0")


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC32C (RFC 4960, appendix B) of `data`.

    Here and not from a package: a header comes once a connection and has some hundred bytes, and
    the packages that have it in C are one more wheel for each platform.
    """
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def source_text(header: ProxyHeader | None) -> str:
    """Return the address of a proxy's client as text, "" where it is not told."""
    return "" if header is None else _endpoint_text(header.source)


def destination_text(header: ProxyHeader | None) -> str:
    """Return the address that a proxy's client connected to as text, "" where it is not told."""
    return "" if header is None else _endpoint_text(header.destination)


def _endpoint_text(endpoint: Endpoint | None) -> str:
    if endpoint is None:
        return ""
    if isinstance(endpoint, InetAddress):
        return format_address((endpoint.host, endpoint.port))
    return format_address(endpoint.path)
