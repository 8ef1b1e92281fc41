"""What proxies tell of their clients, and which are believed."""

from __future__ import annotations

import asyncio

import pytest

from tests.asgi.test_requests import END, told
from tests.harness.asgi import Scope

PROXIES = ["10.0.0.0/8", "::1"]


def asked(header: bytes, trusted: list[str], peer: str = "10.0.0.7:4242") -> Scope:
    """Return the scope of a request that has this header, and comes from `peer`."""
    request = b"GET / HTTP/1.1\r\n" + header + b"\r\n" + END
    return asyncio.run(told(request, peer=peer, forwarded_allow_ips=trusted))


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1:4242", "192.0.2.1"),
        (b"[2001:db8::1]:4242", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"198.51.100.1, 192.0.2.1", "192.0.2.1"),
        (b"198.51.100.1, 192.0.2.1, 10.1.1.1", "192.0.2.1"),
        (b"10.1.1.2, 10.1.1.1", "10.1.1.2"),
        (b"evil, 192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1, unknown", "unknown"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(forwarded_for: bytes, client: str) -> None:
    scope = asked(b"X-Forwarded-For: " + forwarded_for, PROXIES)
    assert scope["client"] == (client, 0)


@pytest.mark.parametrize(
    ("networks", "peer", "believed"),
    [
        (["10.0.0.0/8"], "10.9.9.9:1", True),
        (["10.0.0.0/8"], "[::ffff:10.9.9.9]:1", True),
        (["10.0.0.0/8"], "192.0.2.1:1", False),
        (["10.0.0.0/8"], "unix:", True),
        (["none"], "unix:", False),
        (["none"], "127.0.0.1:1", False),
        (["*"], "192.0.2.1:1", True),
    ],
)
def test_who_is_believed(networks: list[str], peer: str, believed: bool) -> None:
    scope = asked(b"X-Forwarded-For: 198.51.100.7", networks, peer)
    assert (scope["client"] == ("198.51.100.7", 0)) is believed


@pytest.mark.parametrize(
    ("header", "expected"), [(b"https", "https"), (b"http, HTTPS", "https"), (b"gopher", "http")]
)
def test_the_scheme(header: bytes, expected: str) -> None:
    assert asked(b"X-Forwarded-Proto: " + header, PROXIES)["scheme"] == expected


@pytest.mark.parametrize(
    ("trusted", "client", "expected"),
    [
        ("10.0.0.7", ("192.0.2.1", 0), "https"),
        ("10.0.0.8", ("10.0.0.7", 4242), "http"),
    ],
)
def test_the_scope_says_what_a_believed_proxy_says(
    trusted: str, client: tuple[str, int], expected: str
) -> None:
    headers = b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
    request = b"GET / HTTP/1.1\r\n" + headers + END
    scope = asyncio.run(told(request, forwarded_allow_ips=[trusted]))
    assert (scope["client"], scope["scheme"]) == (client, expected)
