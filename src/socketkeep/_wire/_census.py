"""The census: how many connections each address has, and how fast they come, in shared memory.

One memfd a server, made by the keeper, mapped by it and by each worker.  There is no lock, which a
process that stands still would keep from all others: each process writes a lane of its own, and all
read all lanes.  The keeper clears the lane of a worker that has died, with all that it counted.

A lane has no addresses, which peers choose, but counters of a fixed number, and an address has one
in each of `_TABLES` tables, by a keyed hash.  Two that have one in common make each other appear to
have more than they have, so the least of an address's counters counts: never too few, and too many
only where it meets others in every table.  With a thousand addresses that are all at a limit this
happens to one of 70,000 others.

How fast they come is one word in each place, when as many as there may be will have come, for all
processes: who writes it at the same moment as another loses one connection's account, and no more,
since time alone puts it right.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from functools import partial
from typing import Final, NewType

from socketkeep._base._passing import Unfit, sealed_size

#: Of the memfd, by which the maps of a process show what it is.
NAME: Final = "socketkeep-census"
#: The keeper's own lane, of connections that no worker has.
KEEPERS_LANE: Final = 0
#: Of who only reads.
NO_LANE: Final = -1
_TABLES: Final = 4
_PLACES: Final = 1 << 14  # of a table
_BASES: Final = tuple(range(0, _TABLES * _PLACES, _PLACES))
_LANE_WORDS: Final = _TABLES * _PLACES
_WORD: Final = 4
#: How many lanes, how many of them are in use, when as many as there may be will have been
#: accepted, and the key.  From word `_PACES` on the third of them, of each listener for itself.
_HEADER: Final = struct.Struct("=QQQ16s")
_HEADER_SIZE: Final = 4096
_PACE: Final = 2
_PACES: Final = 8
_MOST_PACES: Final = _HEADER_SIZE // 8 - _PACES
_RATES_SIZE: Final = _LANE_WORDS * 8  # between the header and the lanes
_START: Final = _HEADER_SIZE + _RATES_SIZE  # of the lanes
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_HASHES: Final = struct.Struct(f"={_TABLES}I")
_MOST_LANES: Final = 4096
_MODULUS: Final = 2**32

#: The counters of an address.
Place = NewType("Place", tuple[int, ...])


def create_memfd(lanes: int) -> int:
    """Return a memfd for a census of so many processes.  Pages that are not used cost nothing.

    Raises OSError.
    """
    lanes = min(lanes, _MOST_LANES)
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _START + lanes * _LANE_WORDS * _WORD)
        os.pwrite(fd, _HEADER.pack(lanes, 1, 0, os.urandom(16)), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Census:
    """The census as one process has it, which writes one lane.

    What workers have written is believed: they run user code, and could have each other's peers
    refused or let in, which is all that it is good for.
    """

    def __init__(self, fd: int, lane: int) -> None:
        """Map the memfd `fd`, which may be closed afterwards.  Raises OSError, and Unfit.

        lane: the one to write; one that the census does not have: none, and nothing is counted.
        """
        size = sealed_size(fd, _SEALS)
        if size < _START:
            raise Unfit(f"a census came that has {size} bytes")
        self._map = mmap.mmap(fd, size)
        self.lanes: Final = (size - _START) // (_LANE_WORDS * _WORD)
        self._lane = lane if 0 <= lane < self.lanes else None
        from hashlib import blake2b  # for who counts by address

        key: bytes = _HEADER.unpack_from(self._map)[3]
        self._hash = partial(blake2b, digest_size=_HASHES.size, key=key)
        self._header = memoryview(self._map)[:_HEADER_SIZE].cast("Q")
        end = _START + self.lanes * _LANE_WORDS * _WORD
        self._rates = memoryview(self._map)[_HEADER_SIZE:_START].cast("Q")
        self._counts = memoryview(self._map)[_START:end].cast("I")
        self._lock = threading.Lock()  # between the threads of this process

    def place(self, address: bytes) -> Place:
        """Return the counters of an address."""
        found = _HASHES.unpack(self._hash(address).digest())
        return Place(
            tuple([base + value % _PLACES for base, value in zip(_BASES, found, strict=True)])
        )

    def add(self, place: Place, amount: int, lane: int | None = None) -> None:
        """Count connections of an address in this process's lane, or, in the keeper, in another."""
        lane = self._lane if lane is None else lane
        if lane is None:
            return
        first, counts = lane * _LANE_WORDS, self._counts
        with self._lock:
            for index in place:
                counts[first + index] = max(0, counts[first + index] + amount) % _MODULUS

    def total(self, place: Place) -> int:
        """Return how many connections an address has in all processes together."""
        end = min(self._header[1], self.lanes) * _LANE_WORDS
        counts = self._counts
        return min(sum(counts[index:end:_LANE_WORDS]) for index in place)

    def exceeds(self, place: Place, most: int) -> bool:
        """Return whether an address has more than `most` connections in all processes together."""
        end = min(self._header[1], self.lanes) * _LANE_WORDS
        counts = self._counts
        return all(sum(counts[index:end:_LANE_WORDS]) > most for index in place)

    def enter(self, place: Place, most: int) -> bool:
        """Count one connection more, unless there would be more than `most`; return whether.

        Counted first: of two that come at one time to two processes each sees the other.  Both may
        be turned away then, and never are both let in.
        """
        self.add(place, 1)
        if self.exceeds(place, most):
            self.add(place, -1)
            return False
        return True

    def spend(self, place: Place, interval: int, burst: int, now: int) -> bool:
        """Take one connection of an address to account; whether it keeps to the rate.

        interval: nanoseconds from one to the next.  burst: how many may come at once.  now: of
        CLOCK_MONOTONIC, in nanoseconds.
        """
        rates = self._rates
        full = max(now, min([rates[index] for index in place]))
        if full - now > (burst - 1) * interval:
            return False
        full += interval
        for index in place:
            if rates[index] < full:
                rates[index] = full
        return True

    def wait(self, interval: int, burst: int, now: int, account: int = _PACE) -> int:
        """Return in how many nanoseconds one more may be accepted, whoever comes.

        account: of the server, or what `account_of` says.
        """
        return max(0, self._header[account] - now - (burst - 1) * interval)

    @staticmethod
    def account_of(listener: int | None) -> int:
        """Return the account of a listener with a rate of its own; None: the server's."""
        return _PACE if listener is None else _PACES + min(listener, _MOST_PACES - 1)

    def accepted(self, interval: int, now: int, account: int = _PACE) -> None:
        """Take a connection to account that was accepted.

        Processes that found at one moment that one more may come have all accepted one by then:
        each is taken to account, and what comes next waits the longer.
        """
        self._header[account] = max(self._header[account], now) + interval

    def clear(self, lane: int) -> None:
        """Forget what a lane has counted: its process has died, or is about to be made."""
        start = _START + lane * _LANE_WORDS * _WORD
        self._map[start : start + _LANE_WORDS * _WORD] = bytes(_LANE_WORDS * _WORD)
        self._header[1] = max(self._header[1], lane + 1)
