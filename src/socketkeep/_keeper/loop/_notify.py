"""Telling the service manager how the server is, as sd_notify(3) has it.

Each word is one datagram to the socket that the manager names in NOTIFY_SOCKET.  The protocol is
documented and stable, so this needs no library of systemd's.
"""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import Reactor

_RETRY: Final = 0.1
_STATUS_EVERY: Final = 5.0  # seconds; workers do not say when they accept or close

_WORD_OF_STATE: Final = {
    "running": "READY=1",
    "holding": "READY=1",  # else its signals would be kept from it until it is
    "reloading": "RELOADING=1",
    "draining": "STOPPING=1",
    "stopping": "STOPPING=1",
}


@dataclass(frozen=True, slots=True)
class ManagerTerms:
    """The service manager's terms, from the environment.

    address: of the socket it listens on, "" when there is no manager.  watchdog: seconds within
    which it wants to hear of this process, 0: never.  store: how many descriptors it keeps for it.
    """

    address: str = ""
    watchdog: float = 0.0
    store: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> ManagerTerms:
        """Read them for the process `pid`; the watchdog and the store may be meant for another."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return cls()
        if address[0] not in "/@":
            _log.warning("cannot notify the service manager", address=address)
            return cls()
        watchdog = _number(environment.get("WATCHDOG_USEC"))
        if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
            watchdog = 0
        return cls(address, watchdog / 1e6, _number(environment.get("FDSTORE")))


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


class Notifier:
    """Sends to the service manager.  It never waits and never raises: serving is what counts."""

    def __init__(self, address: str) -> None:
        self._address = _in_system(address)
        self._throttle = _log.Throttle()
        self._sock: socket.socket | None = None
        self._closed = False

    def send(self, *words: str, descriptors: Sequence[int] = (), again: bool = False) -> bool:
        """Send words in one datagram; return whether the manager's socket has taken it.

        again: the caller will try again, so that a socket without room is not worth a line.
        """
        if self._closed:
            return True  # nobody listens, and nobody is to try again
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        try:
            if self._sock is None:
                self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sock.setblocking(False)
            # Not connected: the manager may be executed anew, and then listens on another socket.
            self._sock.sendmsg(["\n".join(words).encode()], ancillary, 0, self._address)
        except OSError as error:
            if again and isinstance(error, BlockingIOError):
                return False
            self._throttle.warning("cannot notify the service manager", error=str(error))
            return False
        return True

    def pause(self) -> None:
        """Send nothing until there is somebody else."""
        self._closed = True

    def go_on(self, address: str) -> None:
        """Send there from here on."""
        self._address = _in_system(address)
        self._closed = False

    def close(self) -> None:
        """Send no more."""
        self._closed = True
        if self._sock is not None:
            self._sock.close()


def _in_system(address: str) -> str:
    # A leading @ stands for the NUL byte of Linux's abstract names, unix(7).
    return "\0" + address[1:] if address.startswith("@") else address


class GuardWatch:
    """Tells of the end of this process's guard, by `ended`."""

    def __init__(self, reactor: Reactor, pid: int, ended: Callable[[], None]) -> None:
        self._reactor = reactor
        self._ended = ended
        self._fd = os.pidfd_open(pid)
        reactor.register(self._fd, self._look)

    def close(self) -> None:
        if self._fd >= 0:
            self._reactor.unregister(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _look(self, _events: int) -> None:
        self.close()
        self._ended()


class Herald:
    """Tells the manager of the server's states, of its figures, and that its loop goes on.

    state: returns one of the keeper's states.  status: returns a line for people.
    """

    def __init__(
        self,
        reactor: Reactor,
        notifier: Notifier,
        watchdog: float,
        state: Callable[[], str],
        status: Callable[[], str],
    ) -> None:
        self._reactor = reactor
        self._notifier = notifier
        self._state = state
        self._status = status
        self._told_word = ""
        self._told_status = ""
        self._again = False
        if watchdog:
            self._pat(watchdog / 2)
        self._tell_status()

    def look(self) -> None:
        """Tell the state if it is another than the one told last; in vain: again in a moment."""
        word = _WORD_OF_STATE.get(self._state(), "")
        if word in ("", self._told_word) or self._again:
            return
        words = [word, f"STATUS={self._status()}"]
        if word == "READY=1":
            words.append(f"MAINPID={os.getpid()}")  # for a unit that starts this by a shell
        elif word == "RELOADING=1":
            # By it the manager tells a reload that it asked for from one that began before.
            words.append(f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        if self._notifier.send(*words, again=True):
            self._told_word = word
        else:
            self._again = True
            self._reactor.call_later(_RETRY, self._look_again)

    def reload_asked(self) -> None:
        """Another reload was asked for: the manager, if it was that, waits for a newer word."""
        if self._told_word == "RELOADING=1":
            self._told_word = ""
        self.look()

    def tell_anew(self) -> None:
        """Somebody else listens, who was told nothing."""
        self._told_word = self._told_status = ""
        self.look()

    def _look_again(self) -> None:
        self._again = False
        self.look()

    def _pat(self, interval: float) -> None:
        self._notifier.send("WATCHDOG=1")
        self._reactor.call_later(interval, lambda: self._pat(interval))

    def _tell_status(self) -> None:
        status = self._status()
        if status != self._told_status and self._notifier.send(f"STATUS={status}", again=True):
            self._told_status = status
        self._reactor.call_later(_STATUS_EVERY, self._tell_status)
