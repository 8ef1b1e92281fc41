"""The waits of a process's threads: the descriptors that its system calls were given.

/proc/PID/task/TID/syscall shows the call that a thread sleeps in and its arguments (proc(5)); poll
and select have their descriptors in the process's memory, epoll in the kernel, where fdinfo shows
them.  All of it needs the right to trace the process.
"""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

#: By the name of the machine: the numbers of the calls whose first argument is a descriptor, of
#: accept among them, and of those that wait for many.
_ONE: Final = {
    # read write readv writev sendfile connect sendto recvfrom sendmsg recvmsg recvmmsg
    "x86_64": (0, 1, 19, 20, 40, 42, 44, 45, 46, 47, 299),
    "aarch64": (63, 64, 65, 66, 71, 203, 206, 207, 211, 212, 243),
}
_ACCEPT: Final = {"x86_64": (43, 288), "aarch64": (202, 242)}
_EPOLL: Final = {"x86_64": (232, 281, 441), "aarch64": (22, 441)}
_POLL: Final = {"x86_64": (7, 271), "aarch64": (73,)}
_SELECT: Final = {"x86_64": (23, 270), "aarch64": (72,)}
_IO_URING: Final = (426, 427)

_POLLFD: Final = struct.Struct("=ihh")
#: No process waits for more; what is read of another's memory is bounded by it.
_MOST: Final = 1 << 20


class ProcessWaits(Struct, frozen=True):
    """The waits of a process.

    descriptors: those that a thread waits for; `accepting` of them by accept(2) itself.
    told: whether that is all: every thread was asleep in a call that tells what it waits for.
    """

    descriptors: frozenset[int]
    accepting: frozenset[int]
    told: bool


def waits_of(pid: int) -> ProcessWaits:
    """Return what the threads of `pid` wait for now; never raises OSError."""
    found: set[int] = set()
    accepting: set[int] = set()
    told = platform.machine() in _ONE
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        threads, told = [], False
    for thread in threads:
        call = _call(pid, thread)
        if call is None or call[0] in _IO_URING:
            told = False
            continue
        number, arguments = call
        if number in _of_this(_ACCEPT):
            accepting.add(arguments[0])
        try:
            found.update(_waited_for(pid, number, arguments))
        except OSError:
            told = False
    return ProcessWaits(frozenset(found), frozenset(accepting), told and bool(threads))


def _of_this(numbers: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    return numbers.get(platform.machine(), ())


def _call(pid: int, thread: str) -> tuple[int, list[int]] | None:
    """Return number and arguments of the call that a thread is in, None where it is in none."""
    try:
        with open(f"/proc/{pid}/task/{thread}/syscall", encoding="ascii") as file:
            words = file.read().split()
    except OSError:
        return None
    if len(words) < 7:
        return None  # "running", or stopped outside of a call
    return int(words[0]), [int(word, 16) for word in words[1:7]]


def _waited_for(pid: int, number: int, arguments: list[int]) -> Iterator[int]:
    first, second = arguments[:2]
    if number in _of_this(_ONE) or number in _of_this(_ACCEPT):
        yield first
    elif number in _of_this(_EPOLL):
        yield from watched(pid, first)
    elif number in _of_this(_POLL) and 0 < second <= _MOST:
        for fd, _, _ in _POLLFD.iter_unpack(_memory(pid, first, second * _POLLFD.size)):
            yield fd
    elif number in _of_this(_SELECT) and 0 < first <= _MOST:
        size = (first + 63) // 64 * 8
        for address in filter(None, arguments[1:4]):
            bits = int.from_bytes(_memory(pid, address, size), "little")
            yield from (fd for fd in range(first) if bits >> fd & 1)


def watched(pid: int, epoll: int, depth: int = 2) -> Iterator[int]:
    """Yield the descriptors that an epoll instance watches; raises OSError."""
    with open(f"/proc/{pid}/fdinfo/{epoll}", encoding="ascii") as file:
        targets = [int(line.split()[1]) for line in file if line.startswith("tfd:")]
    for target in targets:
        yield target
        # One that is watched by another, as event libraries nest them.
        if depth and os.readlink(f"/proc/{pid}/fd/{target}") == "anon_inode:[eventpoll]":
            yield from watched(pid, target, depth - 1)


def _memory(pid: int, address: int, size: int) -> bytes:
    opened = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(opened, size, address)
    finally:
        os.close(opened)
