"""A process at its descriptor limit, for as long as a block runs."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def out_of_descriptors(spare: int = 0) -> Iterator[None]:
    """Let this process have `spare` more descriptors, and no others."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What is allocated is the lowest number that is free, so all below the last of these is taken.
    free = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(spare + 1)]
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
