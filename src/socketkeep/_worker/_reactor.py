"""One epoll for all connections of an async worker, which its event loop watches as one reader.

A reader of the loop's own costs several steps to be made and undone, and to be called a handle and
a context, which is more than all the rest that a short connection waits for.  Here it is a system
call to begin and one to end, and a look into a dict in between.

A single connection that asks and waits by turns pays with one more system call a turn: the loop's
epoll tells that there is something, and this one what.
"""

from __future__ import annotations

import asyncio
import select
from typing import Final

from socketkeep import _native
from socketkeep._stream._async_waiter import DONE
from socketkeep._stream._lease import Reader

#: How many connections are served before the loop's other callbacks get their turn.
_AT_ONCE: Final = 256
#: Seconds after which, at the latest, the scoreboard shows what the handlers received and sent.


class EpollReactor:
    """The reactor that the connections of a worker share; `_lease.SharedReactor`.

    loop: the running one.  What a task is resumed with is for the twin in C, which resumes it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, _outcome: object = None) -> None:
        self.loop: Final = loop
        self._epoll = select.epoll()
        self._readers: dict[int, Reader] = {}  # themselves: each method of one would be an object
        self.loop.add_reader(self._epoll.fileno(), self._run)

    def close(self) -> None:
        """Let go of the loop, at the worker's end."""
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def add_reader(self, fd: int, reader: Reader) -> None:
        """Call `reader` whenever `fd` is readable; in place of another, if it had one.

        Raises OSError when it is not open.
        """
        self._readers[fd] = reader
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except FileExistsError:
            return  # by another
        except OSError:
            del self._readers[fd]
            raise

    def remove_reader(self, fd: int) -> None:
        """Watch `fd` no longer.  To be called before it is closed: a duplicate would report on."""
        if self._readers.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                return  # it was closed by its number, and is not watched any more

    def _run(self) -> None:
        readers = self._readers
        for fd, _ in self._epoll.poll(0, _AT_ONCE):
            reader = readers.get(fd)
            if reader is not None:  # else one of those before has ended it
                reader._on_readable()


_Reactor: Final = _native.compiled_or(EpollReactor, "EpollReactor")


def make_reactor() -> EpollReactor:
    """Return a reactor on the running loop."""
    return _Reactor(asyncio.get_running_loop(), DONE)
