"""A guard in a container of its own: what the servers of other containers have, it holds for them.

A server's own guard is its client (`Sidecar` in `_program.py`).  One connection stands for one
server: while it is there nobody else is the server of that name, and what it says is believed; when
it ends, what it has stored waits for the next one.  `sidecar.c` is its twin.
"""

from __future__ import annotations

import array
import contextlib
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
from dataclasses import dataclass, field
from typing import Final, NoReturn

from socketkeep._base import _log
from socketkeep._base._printable import printable
from socketkeep._guard._becoming import COMPILED, guard_installed
from socketkeep._guard._program import SIDECAR_VERSION

_LARGEST: Final = 4096
_MOST_GUESTS: Final = 256
_MOST_SERVERS: Final = 64
_LONGEST: Final = 255  # characters of a name
_UCRED: Final = struct.Struct("3i")
_LATE: Final = 1.0  # seconds that a send to a guest may take
_PAUSE: Final = 100.0  # milliseconds without accepting, when there was no descriptor for one more


@dataclass(eq=False)
class _Guest:
    """A client; refused: why, which it is told once it has spoken; server: by its word."""

    sock: socket.socket
    refused: str = ""
    server: str = ""


@dataclass(eq=False)
class GuardServer:
    """Serves on `listener`, for processes of this user; holds `most` descriptors in all."""

    listener: socket.socket
    most: int
    stored: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._guests: dict[int, _Guest] = {}
        self._throttle = _log.Throttle()

    def run(self) -> NoReturn:
        """Serve until the process ends."""
        self.listener.setblocking(False)  # who has come may have gone
        poller = select.poll()
        poller.register(self.listener.fileno(), select.POLLIN)
        pauses = False
        while True:
            ready = poller.poll(_PAUSE if pauses else None)
            if pauses:
                poller.modify(self.listener.fileno(), select.POLLIN)
                pauses = False
            for fd, _ in ready:
                if fd == self.listener.fileno():
                    try:
                        guest = self._accept()
                    except (BlockingIOError, ConnectionAbortedError):
                        continue  # it has gone
                    except OSError:  # there is no descriptor for it
                        poller.modify(fd, 0)
                        pauses = True
                        continue
                    self._guests[guest.sock.fileno()] = guest
                    poller.register(guest.sock.fileno(), select.POLLIN)
                elif not self._hear(self._guests[fd]):
                    poller.unregister(fd)
                    self._end(self._guests.pop(fd))

    def _accept(self) -> _Guest:
        sock, _ = self.listener.accept()
        _, uid, _ = _UCRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        sock.settimeout(_LATE)
        own = os.geteuid()
        if uid not in (own, 0):
            return _Guest(sock, f"it is of user {uid}, and the guard of user {own}")
        full = len(self._guests) >= _MOST_GUESTS
        return _Guest(sock, f"{_MOST_GUESTS} are connected" if full else "")

    def _hear(self, guest: _Guest) -> bool:
        """Take a word; return whether the guest is still there, and one."""
        fds = array.array("i")
        try:
            data, ancillary, _, _ = guest.sock.recvmsg(
                _LARGEST, socket.CMSG_SPACE(4 * 16), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return False
        for _, _, content in ancillary:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        words = dict(line.partition("=")[::2] for line in os.fsdecode(data).split("\n"))
        kept = False
        try:
            if not data:
                return False
            if not guest.server:
                return self._welcome(guest, words)
            kept = self._act(guest.server, words, fds)
        finally:
            for fd in fds[kept:]:
                os.close(fd)
        return True

    def _welcome(self, guest: _Guest, words: dict[str, str]) -> bool:
        """Give a server what is held for it, unless that may not be."""
        name = words.get("SERVER", "")
        why = guest.refused
        if why:
            pass
        elif words.get("HELLO") != SIDECAR_VERSION:
            why = f"it speaks version {words.get('HELLO')!r}, and the guard {SIDECAR_VERSION}"
        elif not name or len(name) > _LONGEST:
            why = f"a server has a name of 1 to {_LONGEST} characters"
        elif any(each.server == name for each in self._guests.values()):
            why = f"a server named {name!r} is connected: stop that one, or give another --name"
        elif name not in self.stored and len(self.stored) >= _MOST_SERVERS:
            why = f"{_MOST_SERVERS} servers are known"
        if why:
            self._throttle.warning("a server was refused", why=printable(why))
            _refuse(guest.sock, why)
            return False
        guest.server = name
        held = self.stored.setdefault(name, {})
        try:
            for each, fd in held.items():
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                guest.sock.sendmsg([os.fsencode(f"FDNAME={each}")], rights)
            guest.sock.send(b"END=1")
        except OSError:
            return False
        _log.info("server connected", name=printable(name), held=len(held))
        return True

    def _act(self, server: str, words: dict[str, str], fds: array.array[int]) -> bool:
        """Do what a server asks for; return whether the first descriptor is stored."""
        held = self.stored[server]
        name = words.get("FDNAME", "")
        if "FDSTOREREMOVE" in words:
            fd = held.pop(name, -1)
            if fd >= 0:
                os.close(fd)
        elif "FDSTORE" in words and 0 < len(name) <= _LONGEST and fds:
            if sum(map(len, self.stored.values())) < self.most:
                return held.setdefault(name, fds[0]) == fds[0]
            self._throttle.warning("the guard is full", most=self.most)
        return False

    def _end(self, guest: _Guest) -> None:
        guest.sock.close()
        if guest.server:
            held = self.stored[guest.server]
            _log.info("server gone", name=printable(guest.server), held=len(held))
            if not held:
                del self.stored[guest.server]


def _refuse(sock: socket.socket, why: str) -> None:
    with contextlib.suppress(OSError):
        sock.send(os.fsencode(f"REFUSED={why}"))


def listen(path: str) -> socket.socket:
    """Return a listener at `path` that this user alone can connect to.

    A file of a guard that has died is replaced.  Raises OSError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _is_served(path):
            os.unlink(path)
    except FileNotFoundError:
        pass
    umask = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    sock.listen(_MOST_GUESTS)
    return sock


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def serve(path: str, most: int) -> NoReturn:
    """Guard the servers that connect at `path`.  Raises OSError."""
    listener = listen(path)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    _log.configure("info", "human", "")
    _log.info("guarding", path=path, most=most)
    program = guard_installed()
    if program == [COMPILED]:
        listener.set_inheritable(True)
        with contextlib.suppress(OSError):  # a file for another machine, say
            os.execv(COMPILED, [COMPILED, "--listen", str(listener.fileno()), str(most)])
    GuardServer(listener, most).run()
