"""PROXY headers: written and read back, cut and changed, and beside another implementation."""

from __future__ import annotations

import random
import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import crc32c as other_crc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxyprotocol import ProxyProtocolIncompleteError
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV, Type
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from socketkeep import Malformed
from socketkeep._base._proxy_header import crc32c, destination_text, source_text
from socketkeep.proxy import (
    DEFAULT_LIMIT,
    InetAddress,
    ProxyHeader,
    ProxyTls,
    UnixAddress,
    begins_header,
    read_header,
)

V2 = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT, SERVER = InetAddress("192.0.2.7", 40000), InetAddress("192.0.2.1", 443)

ports = st.integers(0, 65535)
words = st.text(st.characters(codec="utf-8"), max_size=40)
inet4 = st.builds(InetAddress, st.ip_addresses(v=4).map(str), ports)
inet6 = st.builds(InetAddress, st.ip_addresses(v=6).map(str), ports)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="@"))
unix = st.builds(
    UnixAddress,
    st.one_of(
        names.filter(lambda name: len(name) < 108), names.map(lambda name: f"@x{name}"[:108])
    ),
)
tls_parts = st.builds(
    ProxyTls,
    over_tls=st.booleans(),
    version=words,
    cipher=words,
    common_name=words,
    certificate_now=st.booleans(),
    certificate_in_session=st.booleans(),
    signature_algorithm=words,
    key_algorithm=words,
    group=words,
    signature_scheme=words,
    certificate=st.binary(max_size=300),
).flatmap(
    lambda made: st.booleans().map(
        lambda good: replace(
            made, verified=good and (made.certificate_now or made.certificate_in_session)
        )
    )
)


@st.composite
def headers(draw: st.DrawFn, version: int = 2) -> ProxyHeader:
    """Headers with addresses and all that a version can say besides."""
    kind: st.SearchStrategy[InetAddress | UnixAddress] = draw(
        st.sampled_from([inet4, inet6] if version == 1 else [inet4, inet6, unix])
    )
    source, destination = draw(kind), draw(kind)
    if version == 1:
        return ProxyHeader(version=1, source=source, destination=destination)
    return ProxyHeader(
        source=source,
        destination=destination,
        protocol=draw(st.sampled_from(["stream", "datagram"])),
        alpn=draw(st.binary(max_size=20)),
        authority=draw(words),
        unique_id=draw(st.binary(max_size=128)),
        tls=draw(st.none() | tls_parts),
        netns=draw(words),
        aws_vpc_endpoint=draw(words),
        azure_private_endpoint=draw(st.none() | st.integers(0, 2**32 - 1)),
        gcp_psc_connection=draw(st.none() | st.integers(0, 2**64 - 1)),
        others=tuple(
            draw(st.lists(st.tuples(st.integers(0xF0, 0xF7), st.binary(max_size=9)), max_size=3))
        ),
        checksum=draw(st.booleans()),
    )


@given(st.one_of(headers(), headers(version=1)), st.binary(max_size=30))
def test_what_is_written_is_read_again(header: ProxyHeader, rest: bytes) -> None:
    """And what follows it is left alone."""
    data = header.encode()
    assert read_header(data + rest, limit=70000) == (header, len(data))


@given(st.one_of(headers(), headers(version=1)), st.data())
def test_a_part_of_a_header_is_neither_refused_nor_taken(
    header: ProxyHeader, data: st.DataObject
) -> None:
    whole = header.encode()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert read_header(part, limit=70000) is None
    assert begins_header(part) is not False


@given(
    st.binary(max_size=400), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2, V2 + b"\x21\x11"])
)
def test_nothing_but_malformed_is_raised(tail: bytes, start: bytes) -> None:
    try:
        found = read_header(start + tail)
    except Malformed:
        return
    assert found is None or found[1] <= DEFAULT_LIMIT


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (b"PROXY UNKNOWN\r\n", ProxyHeader(version=1)),
        (b"PROXY UNKNOWN ffff:f:f:f:f:f:f:f ffff::f 65535 65535\r\n", ProxyHeader(version=1)),
        (
            b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n",
            ProxyHeader(version=1, source=CLIENT, destination=SERVER),
        ),
        (
            b"PROXY TCP6 2001:DB8::7 ::1 1 0\r\n",
            ProxyHeader(
                version=1, source=InetAddress("2001:db8::7", 1), destination=InetAddress("::1", 0)
            ),
        ),
        (V2 + b"\x20\x00\0\0", ProxyHeader(local=True)),
        # A health check's block is skipped whatever it says, section 2.2.
        (V2 + b"\x20\x11\0\x03abc", ProxyHeader(local=True)),
        (V2 + b"\x21\x00\0\x05abcde", ProxyHeader()),
        (V2 + b"\x21\x10\0\x0c" + bytes(12), ProxyHeader()),
    ],
)
def test_headers_that_say_little(line: bytes, header: ProxyHeader) -> None:
    assert read_header(line + b"GET /") == (header, len(line))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "no PROXY header"),
        (b"PROXY\r\n", "no PROXY header"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 40000\r\n", "not a PROXY header"),
        (b"PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n", "not a PROXY header"),
        (b"PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n", "not a PROXY header"),
        (b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n", "no addresses"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n", "no addresses"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n", "no addresses"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 -1 2\r\n", "no addresses"),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", "no addresses"),
        (b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", "no addresses"),
        (b"PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n", "no addresses"),
        (b"PROXY TCP4 \xff 192.0.2.1 1 2\r\n", "no addresses"),
        (b"PROXY UNKNOWN " + b"x" * 94, "no end within 107 bytes"),
        (V2 + b"\x11\x11\0\0", "unknown version 1"),
        (V2 + b"\x31\x11\0\0", "unknown version 3"),
        (V2 + b"\x22\x11\0\0", "unknown command 2"),
        (V2 + b"\x21\x41\0\0", "unknown family and protocol 0x41"),
        (V2 + b"\x21\x13\0\0", "unknown family and protocol 0x13"),
        (V2 + b"\x21\x11\x20\0", "8208 bytes, 8192 are allowed"),
        (V2 + b"\x21\x11\0\x0b" + bytes(11), "11 bytes for IPv4 addresses, which take 12"),
        (V2 + b"\x21\x21\0\x23" + bytes(35), "35 bytes for IPv6"),
        (V2 + b"\x21\x31\0\xd7" + bytes(215), "215 bytes for Unix"),
        (V2 + b"\x21\x11\0\x0e" + bytes(12) + b"\x01\0", "in the middle of a type"),
        (V2 + b"\x21\x11\0\x0f" + bytes(12) + b"\x01\0\x01", "longer than it"),
        (V2 + b"\x21\x11\0\x12" + bytes(12) + b"\x01\0\0" * 2, "two values of the type 0x01"),
        (V2 + b"\x21\x11\0\x10" + bytes(12) + b"\x02\0\x01\xff", "authority is no UTF-8"),
        (V2 + b"\x21\x11\0\x10" + bytes(12) + b"\x20\0\x01\0", "TLS part is cut"),
        (V2 + b"\x21\x11\0\x10" + bytes(12) + b"\x03\0\x01\0", "checksum of 1 bytes"),
        (V2 + b"\x21\x11\0\x13" + bytes(12) + b"\x03\0\x04abcd", "false checksum"),
        (V2 + b"\x21\x11\0\x90" + bytes(12) + b"\x05\0\x81" + bytes(129), "unique id of 129 bytes"),
    ],
)
def test_what_breaks_the_specification_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        read_header(data)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (ProxyHeader(version=1, source=CLIENT, destination=SERVER, alpn=b"h2"), "nothing but"),
        (ProxyHeader(version=1, local=True), "nothing but"),
        (
            ProxyHeader(version=1, source=UnixAddress("/a"), destination=UnixAddress("/b")),
            "no Unix addresses",
        ),
        (ProxyHeader(source=CLIENT), "not addresses of one kind"),
        (ProxyHeader(source=CLIENT, destination=UnixAddress("/a")), "not addresses of one kind"),
        (ProxyHeader(source=CLIENT, destination=InetAddress("::1", 1)), "Expected 4 octets|octet"),
        (ProxyHeader(source=InetAddress("localhost", 1), destination=SERVER), "localhost"),
        (ProxyHeader(source=InetAddress("192.0.2.7", 65536), destination=SERVER), "no port"),
        (ProxyHeader(source=UnixAddress("/" * 109), destination=UnixAddress("")), "109 bytes"),
        (ProxyHeader(local=True, alpn=b"h2"), "says nothing else"),
        (ProxyHeader(alpn=b"h2"), "says nothing else"),
        (ProxyHeader(source=CLIENT, destination=SERVER, unique_id=bytes(129)), "129 bytes"),
        (
            ProxyHeader(source=CLIENT, destination=SERVER, others=((0xF0, bytes(65536)),)),
            "has no place",
        ),
        (
            ProxyHeader(source=CLIENT, destination=SERVER, others=((0xF0, bytes(65530)),)),
            "it can have 65535",
        ),
    ],
)
def test_what_a_header_cannot_say_is_not_written(header: ProxyHeader, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        header.encode()


def test_a_certificate_that_was_not_presented_is_not_verified() -> None:
    """OpenSSL's verification succeeds without a certificate, and proxies pass that on."""
    value = b"\x01\0\0\0\0" + b"\x21\0\x07TLSv1.3"
    body = bytes(12) + b"\x20" + len(value).to_bytes(2, "big") + value
    found = read_header(V2 + b"\x21\x11" + len(body).to_bytes(2, "big") + body)
    assert found is not None
    assert found[0].tls == ProxyTls(version="TLSv1.3", verified=False)


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_others(data: bytes) -> None:
    assert crc32c(data) == other_crc.crc32c(data)


# Beside another implementation.


def theirs(data: bytes) -> tuple[Any, ...] | None:
    """Return what the other implementation reads: addresses and values; None: it refuses."""
    reader = ProxyProtocolV1() if data.startswith(b"PROXY") else ProxyProtocolV2()
    try:
        if data.startswith(V2):  # it takes all that follows for the header's
            data = data[: 16 + int.from_bytes(data[14:16], "big")]
        else:
            data = data[: data.find(b"\r\n") + 2]
        result = reader.unpack(data)
    except (ProxyProtocolIncompleteError, ValueError, TypeError, struct.error):
        return None
    if not result.proxied or result.family == socket.AF_UNSPEC:
        return ()
    return (*_endpoints(result.source, result.dest), _values(result.tlv))


def _endpoints(*each: Any) -> list[InetAddress | UnixAddress]:
    return [
        UnixAddress(one) if isinstance(one, str) else InetAddress(str(one[0]), one[1])
        for one in each
    ]


def _values(tlv: ProxyProtocolTLV) -> tuple[Any, ...]:
    return tlv.alpn or b"", tlv.authority or "", tlv.unique_id, _tls_values(tlv.ssl)


def _tls_values(given: ProxyProtocolSSLTLV) -> tuple[str, ...]:
    # By their bytes: its properties take nothing but ASCII, ours is told in UTF-8.
    kinds = Type.PP2_SUBTYPE_SSL_VERSION, Type.PP2_SUBTYPE_SSL_CN, Type.PP2_SUBTYPE_SSL_CIPHER
    return tuple((given.get(kind) or b"").decode() for kind in kinds)


def ours(data: bytes) -> tuple[Any, ...] | None:
    """Return the same of ours."""
    try:
        found = read_header(data)
    except Malformed:
        return None
    if found is None:
        return None
    header = found[0]
    if header.source is None or header.destination is None:
        return ()
    given = header.tls or ProxyTls()
    texts = (given.version, given.common_name, given.cipher)
    values = (header.alpn, header.authority, header.unique_id, texts)
    return header.source, header.destination, values


@given(st.one_of(headers(), headers(version=1)))
def test_another_implementation_reads_the_same(header: ProxyHeader) -> None:
    # It sorts the values before it adds them up, so that its checksum is of another header.
    plain = replace(header, netns="", checksum=False)
    if plain.tls is not None:  # it takes these for ASCII
        tls = replace(plain.tls, version="", cipher="", signature_algorithm="", key_algorithm="")
        plain = replace(plain, tls=tls)
    if not isinstance(plain.source, UnixAddress) or "@" not in f"{plain.source}{plain.destination}":
        assert theirs(plain.encode()) == ours(plain.encode())


def test_what_another_implementation_writes_is_read() -> None:
    from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6

    tlv = ProxyProtocolTLV(
        alpn=b"h2",
        authority="example.org",
        unique_id=b"id",
        ssl=ProxyProtocolSSLTLV(
            has_ssl=True, has_cert_conn=True, verified=True, version="TLSv1.3", cn="a", cipher="c"
        ),
    )
    data = ProxyProtocolV2().pack(
        ProxyResultIPv6(
            (IPv6Address("2001:db8::7"), 1),
            (IPv6Address("::1"), 2),
            protocol=socket.SOCK_STREAM,
            tlv=tlv,
        )
    )
    assert read_header(data + b"x") == (
        ProxyHeader(
            source=InetAddress("2001:db8::7", 1),
            destination=InetAddress("::1", 2),
            alpn=b"h2",
            authority="example.org",
            unique_id=b"id",
            tls=ProxyTls(
                verified=True, certificate_now=True, version="TLSv1.3", common_name="a", cipher="c"
            ),
            checksum=True,
        ),
        len(data),
    )
    line = ProxyProtocolV1().pack(
        ProxyResultIPv4((IPv4Address("192.0.2.7"), 40000), (IPv4Address("192.0.2.1"), 443))
    )
    assert read_header(line) == (
        ProxyHeader(version=1, source=CLIENT, destination=SERVER),
        len(line),
    )


def test_changed_headers_are_read_the_same_or_refused() -> None:
    """What both take of 20,000 changed headers is the same; ours alone may refuse more.

    It is the stricter one: two values of one type, a leading zero, what is cut.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    sound = [
        ProxyHeader(version=1, source=CLIENT, destination=SERVER).encode(),
        ProxyHeader(
            source=CLIENT,
            destination=SERVER,
            alpn=b"h2",
            authority="example.org",
            unique_id=b"id",
            tls=ProxyTls(version="TLSv1.3", common_name="a", cipher="c"),
        ).encode(),
        ProxyHeader(
            source=InetAddress("::1", 1), destination=InetAddress("::2", 2), authority="a"
        ).encode(),
    ]
    both = 0
    for _ in range(20_000):
        data = bytearray(dice.choice(sound))
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(len(data))
            match dice.randrange(6):
                case 0:
                    del data[place : place + dice.randint(1, 4)]
                case 1:
                    data[place:place] = dice.randbytes(dice.randint(1, 4))
                case _:
                    data[place] = dice.randrange(256)
            if not data:
                break
        changed = bytes(data)
        mine = ours(changed)
        if mine:
            other = theirs(changed)
            assert other == mine, (seed, changed)
            both += 1
    assert both > 1000


def test_addresses_as_text() -> None:
    """They are written as those of any connection are."""
    unix = ProxyHeader(source=UnixAddress("/run/c\x1b"), destination=UnixAddress("@front"))
    assert (source_text(unix), destination_text(unix)) == ("unix:/run/c\\x1b", "unix:@front")
    mapped = ProxyHeader(
        source=InetAddress("::ffff:192.0.2.7", 1), destination=InetAddress("2001:db8::1", 2)
    )
    assert (source_text(mapped), destination_text(mapped)) == ("192.0.2.7:1", "[2001:db8::1]:2")
    for nobody in (None, ProxyHeader(local=True)):
        assert (source_text(nobody), destination_text(nobody)) == ("", "")
