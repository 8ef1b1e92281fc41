"""Taking over the workers and listeners of keepers that have died, when a server starts."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from socketkeep._base import _log
from socketkeep._base._errors import ListenError
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.workers._adoption import Adopter, Adoption
from socketkeep._net._listener import Listener
from socketkeep._wire._rendezvous import directory_beside

#: How long workers have to answer, in seconds: a `prefork` one that serves looks once a second.
_ANSWERING: Final = 5.0
#: How long an address may be taken by workers that have not yet noticed their keeper's death.
_NOTICING: Final = 5.0
_LOOK_AGAIN: Final = 0.1


class Predecessors:
    """The workers that keepers at some control sockets have left.

    control: this server's own control socket.  died: whether a keeper died that had it before.
    adopt_from: another such path, or the directory beside it; "": none.  owner: the uid of the
    workers, where it is another than this process's.  Raises OSError.
    """

    def __init__(self, control: str, died: bool, adopt_from: str, owner: int | None = None) -> None:
        self._died = died
        own = directory_beside(control)
        directories = [own] if died or os.path.isdir(own) else []
        if adopt_from:
            if _is_alive(adopt_from):
                raise OSError(f"the server at {adopt_from} is alive: stop it, or upgrade it")
            other = os.path.abspath(adopt_from)
            found = other if os.path.isdir(other) else directory_beside(other)
            if found not in directories and (os.path.isdir(found) or os.path.exists(other)):
                directories.append(found)
        self._adoptions = [Adoption(each, owner) for each in directories]
        for adoption in self._adoptions:
            adoption.open()
            adoption.gather(_ANSWERING)
        if adopt_from and not self._boots:
            _log.warning("nothing to adopt: no worker waits there", path=adopt_from)

    @property
    def latest_boot(self) -> int:
        """The latest boot under which a worker that was found accepts connections; 0: none."""
        return max(self._boots, default=0)

    def wait_while(self, awaits: Callable[[set[int]], bool]) -> None:
        """Wait for workers that have not noticed yet, for a while, if there are such.

        awaits: returns that, given the inodes of the scoreboards of those that have come.
        """
        deadline = time.monotonic() + _NOTICING
        while awaits(self._scoreboards) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
            for adoption in self._adoptions:
                adoption.gather(_LOOK_AGAIN)

    def listener(self, address: str, bind: Callable[[], Listener]) -> Listener:
        """Return the listener that the workers have for `address`, or one made by `bind`.

        Raises ListenError.
        """
        deadline = time.monotonic() + _NOTICING
        while True:
            for adoption in self._adoptions:
                sock = adoption.take_listener(address)
                if sock is not None:
                    return listener_of(sock)
            try:
                return bind()
            except ListenError as error:
                late = not self._died or time.monotonic() > deadline
                if error.errno != errno.EADDRINUSE or late:
                    raise
            time.sleep(_LOOK_AGAIN)  # there is nothing to wait for: a worker notices, or does not
            for adoption in self._adoptions:
                adoption.gather(_LOOK_AGAIN)

    def let_go_of(self, address: str) -> None:
        """Close the handles of the listener for `address`: it has come from elsewhere."""
        for adoption in self._adoptions:
            sock = adoption.take_listener(address)
            if sock is not None:
                sock.close()

    def begin(self, reactor: Reactor, adopter: Adopter) -> None:
        """Give the workers to `adopter`, those that come later too."""
        for adoption in self._adoptions:
            for address in adoption.drop_listeners():
                _log.warning("listener dropped: it is not configured any more", address=address)
            adoption.begin(reactor, adopter)

    def close(self) -> None:
        for adoption in self._adoptions:
            adoption.close()

    @property
    def _scoreboards(self) -> set[int]:
        return set[int]().union(*(adoption.scoreboards for adoption in self._adoptions))

    @property
    def _boots(self) -> set[int]:
        return set[int]().union(*(adoption.boots for adoption in self._adoptions))


def listener_of(sock: socket.socket) -> Listener:
    """Return the listener of a socket that an earlier server bound."""
    name = sock.getsockname()
    is_file = isinstance(name, str) and name and not name.startswith("\0")
    return Listener(sock, path=os.path.abspath(name) if is_file else "")


def _is_alive(control: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(control)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
    return True
