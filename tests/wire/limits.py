"""A process at its descriptor limit, for as long as a block runs."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def out_of_descriptors(spare: int = 0) -> Iterator[None]:
    """Let this process have `spare` more descriptors, and no others.

    One that is closed meanwhile can be had again: the limit is on the number of a descriptor, so
    the numbers that are free below the highest are taken for the time.  What another thread closes
    while they are taken is taken, too, and what nobody refers to any more is collected before.
    """
    gc.collect()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    fillers = []
    while (fd := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= highest:
        fillers.append(fd)
    os.close(fd)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd, before[1]))
        with suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + spare, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in fillers:
            os.close(fd)
