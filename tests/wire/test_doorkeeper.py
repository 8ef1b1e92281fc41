"""By what a peer is counted: the address, or the network, that it comes from."""

from __future__ import annotations

import pytest

from socketkeep._wire._doorkeeper import network_of, packed_of


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("192.0.2.1:7000", "c0000201"),
        ("[::ffff:192.0.2.1]:7000", "c0000201"),
        ("[2001:db8:1:2:3:4:5:6]:7000", "20010db800010002"),
        ("[2001:db8:1:2::9]:1", "20010db800010002"),
        ("[fe80::1%eth0]:1", "fe80000000000000"),
        ("unix:pid=1", None),
        ("unix:@a:b", None),
        ("", None),
    ],
)
def test_by_what_a_peer_is_counted(peer: str, counted: str | None) -> None:
    """IPv4 by the address, IPv6 by the /64, Unix sockets not at all."""
    found = packed_of(peer)
    assert (network_of(found).hex() if found is not None else None) == counted
