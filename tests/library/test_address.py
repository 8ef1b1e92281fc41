"""Addresses: written, parsed, and shown."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep import AddressError
from socketkeep._base._address import FdAddress, format_address, local_text, parse_bind, peer_text
from socketkeep.proxy import InetAddress, UnixAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7000", InetAddress("127.0.0.1", 7000)),
        ("localhost:0", InetAddress("localhost", 0)),
        ("[::1]:7000", InetAddress("::1", 7000)),
        ("[fe80::1%eth0]:7000", InetAddress("fe80::1%eth0", 7000)),
        (":65535", InetAddress("", 65535)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:app.sock", UnixAddress("app.sock")),
        ("unix:@name", UnixAddress("@name")),
        ("fd://3", FdAddress(3)),
    ],
)
def test_each_form_is_parsed_and_written_back(
    text: str, address: InetAddress | UnixAddress | FdAddress
) -> None:
    assert parse_bind(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("7000", "the port is missing, as in :7000"),
        ("localhost", "the port is missing, as in localhost:7000"),
        ("[::1]", r"the port is missing, as in \[::1\]:7000"),
        ("::1:7000", "write an IPv6 address in brackets"),
        ("host:", "'' is not a port"),
        ("host:65536", r"'65536' is not a port \(0 to 65535\)"),
        ("host:-1", "'-1' is not a port"),
        ("host:٣", "is not a port"),
        ("host:http", "'http' is not a port"),
        ("a b:1", "not a host name"),
        ("a/b:1", "not a host name"),
        ("unix:", "the path is missing"),
        ("unix:@", "the path is missing"),
        ("unix:" + "x" * 108, "the path has 108 bytes, a Unix socket's at most 107"),
        ("fd://", "is not a descriptor's number"),
        ("fd://stdin", "is not a descriptor's number"),
        ("", "the port is missing"),
    ],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason) as caught:
        parse_bind(text)
    assert repr(text) in str(caught.value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        address = parse_bind(text)
    except AddressError:
        return
    assert parse_bind(str(address)) == address


@given(st.ip_addresses(), st.integers(0, 65535))
def test_what_the_system_calls_it_is_what_can_be_bound(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    raw = (str(ip), port) if ip.version == 4 else (str(ip), port, 0, 0)
    parsed = parse_bind(format_address(raw))
    assert isinstance(parsed, InetAddress)
    shown = ipaddress.ip_address(parsed.host)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    assert shown in (ip, mapped)
    assert parsed.port == port


def test_an_ipv4_peer_of_a_dual_stack_listener_is_written_as_ipv4() -> None:
    assert format_address(("::ffff:10.0.0.7", 4242, 0, 0)) == "10.0.0.7:4242"


def test_unix_names(tmp_path: Path) -> None:
    assert format_address("/run/s") == "unix:/run/s"
    assert format_address(b"\0name") == "unix:@name"
    assert format_address("") == "unix:"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        assert local_text(sock) == f"unix:{tmp_path}/s"


def test_an_unnamed_unix_peer_is_told_by_its_process() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_text(one) == f"unix:pid={os.getpid()}"


def test_a_socket_without_a_peer_has_no_peer() -> None:
    with socket.socket() as sock:
        assert peer_text(sock) == ""
    assert local_text(sock) == ""


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\0\xff\xfename", "unix:@\\xff\\xfename"),
        (b"\0a\0b", "unix:@a\\x00b"),
        ("\0\u00e9t\u00e9".encode(), "unix:@\u00e9t\u00e9"),
        ("/tmp/\udcff\x1b[2J\n", "unix:/tmp/\\xff\\x1b[2J\\n"),
        ("/tmp/\u202e", "unix:/tmp/\\u202e"),
        ("/a\\b", "unix:/a\\b"),
        (b"\0\\xff\xff", "unix:@\\\\xff\\xff"),
    ],
)
def test_a_name_that_a_peer_chose_can_be_shown_and_encoded(raw: str | bytes, text: str) -> None:
    assert format_address(raw) == text
    assert format_address(raw).encode().decode().isprintable()
