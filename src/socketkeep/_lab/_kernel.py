"""The kernel's word on the sockets of an experiment, and on the processes that have them."""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from socketkeep._base._process_stat import STATE, stat_fields
from socketkeep._inspect._rows import STATES
from socketkeep._inspect._sock_diag import tcp_socket
from socketkeep._lab._actor import Open
from socketkeep._lab._calls import HOST
from socketkeep._lab._results import EndingPacket

GONE: Final = "gone"
CLOSED: Final = "CLOSED"
#: An end is in these once FIN has come from the other.
_FIN_RECEIVED: Final = frozenset({"CLOSE_WAIT", "LAST_ACK", "CLOSING", "TIME_WAIT"})
_NO_FIN_YET: Final = frozenset({"ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"})
#: From these an open socket comes to CLOSED by no orderly way.
_CUT_SHORT: Final = _NO_FIN_YET | {"CLOSE_WAIT"}
#: Those that Python's sockets wait in (asm/unistd.h), for a number is hard to read.
_SYSTEM_CALLS: Final[Mapping[str, Mapping[int, str]]] = {
    "x86_64": {
        7: "poll",
        42: "connect",
        43: "accept",
        44: "sendto",
        45: "recvfrom",
        271: "ppoll",
        288: "accept4",
    },
    "aarch64": {
        73: "ppoll",
        202: "accept",
        203: "connect",
        206: "sendto",
        207: "recvfrom",
        242: "accept4",
    },
}

_Ends = tuple[int, int]


class Look(Struct, frozen=True):
    """The sockets at one moment: handles by socket and process, and the states of TCP sockets.

    unowned: those that no process has a handle of, as the kernel sees it.
    """

    handles: dict[str, dict[str, int]]
    states: dict[str, str]
    unowned: frozenset[str]


class KernelView:
    """Looks at the sockets that it has been told of."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # by inode
        self._inodes: dict[str, int] = {}
        self._ends: dict[str, _Ends] = {}  # own port and peer's

    def learn(self, sockets: Mapping[str, Open]) -> None:
        """Note what a process has open; the name that comes first is a socket's."""
        for name, found in sockets.items():
            known = self._names.setdefault(found.inode, name)
            self._inodes.setdefault(known, found.inode)
            if found.ends is not None and known not in self._ends:
                self._ends[known] = found.ends

    def look(self, pids: Mapping[str, int]) -> Look:
        """Look at them, and at the processes.  Raises OSError where netlink is forbidden."""
        handles: dict[str, dict[str, int]] = {name: {} for name in self._names.values()}
        for process, pid in pids.items():
            for inode in _inodes_of(pid):
                if (name := self._names.get(inode)) is not None:
                    handles[name][process] = handles[name].get(process, 0) + 1
        states, unowned = self._tcp(handles)
        return Look(handles, states, unowned)

    def _tcp(
        self, handles: Mapping[str, Mapping[str, int]]
    ) -> tuple[dict[str, str], frozenset[str]]:
        states, unowned = {}, set()
        for name, (port, peer_port) in self._ends.items():
            peer = HOST if peer_port else "0.0.0.0"
            listed = tcp_socket(HOST, port, peer, peer_port)
            if listed is not None and listed.inode not in (0, self._inodes[name]):
                listed = None  # another has its ends now
            if listed is not None:
                states[name] = STATES.get(listed.state, str(listed.state))
            else:
                # The table has every TCP socket but the closed ones.
                states[name] = CLOSED if handles[name] else GONE
            if listed is None or listed.inode == 0:
                unowned.add(name)
        return states, frozenset(unowned)

    def packets(self, before: Look, after: Look) -> tuple[EndingPacket, ...]:
        """Return what must have arrived between the two, for the states to be what they are."""
        arrived = {}
        for name, ends in self._ends.items():
            other = self._named(ends[::-1])
            was, is_now = before.states.get(name, ""), after.states[name]
            if was in _NO_FIN_YET and is_now in _FIN_RECEIVED:
                arrived[name] = EndingPacket("FIN", other, name)
            elif was in _CUT_SHORT and is_now == CLOSED:
                arrived[name] = EndingPacket("RST", other, name)
        return tuple(
            packet
            for packet in arrived.values()
            # Both ended in order: the FIN and its acknowledgement have gone both ways at once.
            if packet.flag == "FIN" or arrived.get(packet.source, packet).flag == "RST"
        )

    def _named(self, ends: _Ends) -> str:
        return next((name for name, known in self._ends.items() if known == ends), "")


def nonblocking(pid: int, fd: int) -> bool:
    """Return whether O_NONBLOCK is set on the description of that descriptor.  Raises OSError."""
    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
        flags = re.search(r"^flags:\s*([0-7]+)", file.read(), re.MULTILINE)
    assert flags is not None
    return bool(int(flags[1], 8) & os.O_NONBLOCK)


def sleep_of(pid: int) -> tuple[str, int] | None:
    """Return the system call that a process is suspended in, and that call's first argument.

    None when it runs, or is about to.  Raises OSError without the right to trace it, and on a
    machine whose calls are not known here.
    """
    machine = platform.machine()
    if machine not in _SYSTEM_CALLS:
        raise OSError(errno.ENOSYS, f"the numbers of the system calls of {machine} are not known")
    with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        call = file.read().split()
    if stat_fields(pid)[STATE] != b"S" or len(call) < 3:
        return None
    number = int(call[0])
    return _SYSTEM_CALLS[machine].get(number, f"call {number}"), int(call[1], 16)


def _inodes_of(pid: int) -> Iterable[int]:
    directory = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(directory)
    except OSError:
        return  # it has ended
    for number in numbers:
        try:
            link = os.readlink(f"{directory}/{number}")
        except OSError:
            continue  # closed since it was listed
        if link.startswith("socket:["):
            yield int(link[8:-1])
