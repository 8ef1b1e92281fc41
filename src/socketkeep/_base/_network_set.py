"""Sets of networks that an address is looked up in, however many they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_BITS: Final = {4: 32, 6: 128}


class NetworkSet:
    """Networks, by the length of their prefixes: a look-up takes one step for each length."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Take networks in CIDR notation, and addresses.  Raises ValueError."""
        from ipaddress import ip_network  # for who names one

        found: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}  # by how far an address is shifted
        for text in networks:
            network = ip_network(text)
            shift = _BITS[network.version] - network.prefixlen
            known = found[network.version].setdefault(shift, set())
            known.add(int(network.network_address) >> shift)
        self._by_size = {4: tuple(found[4].items()), 16: tuple(found[6].items())}

    def __bool__(self) -> bool:
        return any(self._by_size.values())

    def __contains__(self, packed: bytes) -> bool:
        """Return whether an address, of 4 bytes or of 16, is in one of the networks."""
        number = int.from_bytes(packed)
        return any(number >> shift in known for shift, known in self._by_size[len(packed)])
