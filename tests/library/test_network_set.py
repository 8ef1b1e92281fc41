"""Sets of networks, against the standard library's own look-up."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from random import Random

from socketkeep._base._network_set import NetworkSet


def test_as_ipaddress_has_it() -> None:
    """Of random networks and addresses near to them, of both versions."""
    random = Random(14)
    networks = []
    for bits, count in ((32, 40), (128, 40)):
        for _ in range(count):
            length = random.randrange(4, bits + 1)
            number = random.getrandbits(bits) >> bits - length << bits - length
            networks.append(ip_network((number.to_bytes(bits // 8), length)))
    found = NetworkSet(map(str, networks))
    inside = 0
    for network in networks:
        for flipped in range(network.max_prefixlen):
            number = int(network.network_address) ^ 1 << flipped
            address = ip_address(number.to_bytes(network.max_prefixlen // 8))
            expected = any(address in each for each in networks)
            assert (address.packed in found) == expected, address
            inside += expected
    assert inside


def test_an_empty_set_has_nothing() -> None:
    """And is false."""
    assert not NetworkSet([])
    assert b"\x7f\0\0\1" not in NetworkSet([])
    assert b"\x7f\0\0\1" in NetworkSet(["0.0.0.0/0"])
    assert bytes(16) not in NetworkSet(["0.0.0.0/0"])
