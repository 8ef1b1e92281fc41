"""Reaping: every child that has ended, whoever's it was.

The keeper is a subreaper, so that workers become its children when the process that forked them
exits.  What the user's code leaves behind becomes its child in the same way: a shell's background
job, a daemon that forked twice, the process between a template that was killed and its worker.
Nobody waits for those; each would be a zombie until the server ends.  So SIGCHLD has the keeper
look at every child that has ended, without reaping it (WNOWAIT): one that somebody waits for is
reaped by who waits, who needs its exit status, and the others here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

#: How many exits of children that nobody waited for are remembered: a worker may end, and be
#: reaped, before the keeper has read that it was forked.
_MOST_REMEMBERED: Final = 256

Exit = TypeVar("Exit")
Exit_co = TypeVar("Exit_co", covariant=True)


class Kernel(Protocol[Exit_co]):
    """The part of the system that is asked."""

    def children(self) -> set[int]: ...
    def ended_child(self) -> int | None: ...
    def reap_child(self, pid: int) -> Exit_co | None: ...


class Reaper(Generic[Exit]):
    """The children of this process that somebody waits for, and the reaping of the others."""

    def __init__(self, kernel: Kernel[Exit]) -> None:
        self._kernel = kernel
        self._expected: dict[int, Callable[[], object]] = {}
        self._unclaimed: dict[int, Exit] = {}

    def expect(self, pid: int, reap: Callable[[], object]) -> None:
        """Leave the child to the caller: `reap` is called when it has ended."""
        self._expected[pid] = reap

    def forget(self, pid: int) -> None:
        """Nobody waits for the child any more."""
        self._expected.pop(pid, None)

    def claim(self, pid: int) -> Exit | None:
        """Return how a child ended that was reaped before it was waited for; None: it was not."""
        return self._unclaimed.pop(pid, None)

    def remembers(self, pid: int) -> bool:
        """Return whether there is one to `claim`."""
        return pid in self._unclaimed

    @property
    def strangers(self) -> set[int]:
        """The children that nobody waits for."""
        try:
            return self._kernel.children() - self._expected.keys()
        except OSError:
            return set()  # this kernel does not list them

    def reap(self) -> None:
        """Reap every child that has ended, or have who waits for it do so."""
        seen: set[int] = set()
        failures: list[Exception] = []
        while (pid := self._kernel.ended_child()) is not None and pid not in seen:
            seen.add(pid)
            expected = self._expected.get(pid)
            if expected is not None:
                try:
                    expected()
                except Exception as error:  # a bug in what follows from it; the others are reaped
                    failures.append(error)
                continue
            ended = self._kernel.reap_child(pid)
            if ended is not None:
                self._unclaimed[pid] = ended
        while len(self._unclaimed) > _MOST_REMEMBERED:
            del self._unclaimed[next(iter(self._unclaimed))]
        if failures:
            raise failures[0]
