"""The scripts of both cores, drawn from bytes that a fuzzer makes up: ``make fuzz``.

The fuzzer sees which branches of the compiled core its bytes take, and goes on from those that took
new ones.  Arguments are libFuzzer's.
"""

from __future__ import annotations

import random
import sys

import atheris

from tests.native.cores import compiled
from tests.native.scripts import SCRIPTS


class Drawn(random.Random):
    """Draws from bytes, and zeros where they end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._left = data

    def getrandbits(self, k: int) -> int:
        size = -(-k // 8)
        taken, self._left = self._left[:size], self._left[size:]
        return int.from_bytes(taken.ljust(size, b"\0")) >> (8 * size - k)

    def random(self) -> float:
        return self.getrandbits(16) / 65536


def try_one(data: bytes) -> None:
    """Run the script that the bytes stand for; the first of them says which of the three."""
    drawn = Drawn(data)
    SCRIPTS[drawn.getrandbits(8) % len(SCRIPTS)](drawn)


if __name__ == "__main__":
    if compiled is None:
        sys.exit("the compiled core is not here, and nothing else is fuzzed")
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
