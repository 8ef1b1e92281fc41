"""The results of inspection: frozen values, which are also the JSON that commands print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct


class Timer(Struct, frozen=True, gc=False):
    """A timer that runs in the kernel for a TCP socket.

    Attributes:
        kind: "retransmission" (sent, not acknowledged), "keepalive", "time-wait", or "zero-window
            probe" (the peer takes nothing more).
        left: Seconds until it fires.
        fired: How often it has since the peer last answered.
    """

    kind: str
    left: float
    fired: int


class TcpFacts(Struct, frozen=True, gc=False):
    """The kernel's counts of a TCP connection (`struct tcp_info`); sizes in bytes.

    Attributes:
        sent: The bytes that were sent.
        received: The bytes that were received.
        acknowledged: Those of the sent bytes that the peer has acknowledged.
        unsent: The bytes that wait to be sent, for want of the peer's window or of the network's.
        retransmitted: The segments that were sent again, in all.
        window: The bytes that the peer will take now.
        rtt: The round trip's time in seconds.
        since_sent: Seconds since data was sent; since the connection was made, while none was.
        since_received: Seconds since data was received, likewise.
    """

    sent: int
    received: int
    acknowledged: int
    unsent: int
    retransmitted: int
    window: int
    rtt: float
    since_sent: float
    since_received: float


class SocketHolder(Struct, frozen=True, gc=False):
    """A descriptor of a socket.

    Attributes:
        pid: The process.
        fd: Its descriptor.
        command: Its command line.
        user: The user that it runs as.
        how: The way in which the process came by it, where that can be told: "inherited" (at a
            fork, from process `of`; which may have closed its own since), "kept" (it is a
            Socketkeep keeper, and holds the connection so that no worker's death ends it), "serves"
            (a worker of the keeper `of`), "" where it cannot be told.
        of: The other process of `how`, 0 where there is none.
    """

    pid: int
    fd: int
    command: str
    user: str
    how: Literal["inherited", "kept", "serves", ""]
    of: int

    def __str__(self) -> str:
        text = f"{self.pid}:{self.fd} {self.user} {self.command}"
        match self.how:
            case "inherited":
                return f"{text}, inherited at a fork from {self.of}"
            case "kept":
                return f"{text}, keeps it (a Socketkeep keeper)"
            case "serves":
                return f"{text}, serves it for the keeper {self.of}"
            case _:
                return text


class HeldSocket(Struct, frozen=True, gc=False):
    """A socket, and who holds it.

    Attributes:
        kind: "tcp", "udp", "unix", or the kernel's name of another protocol.
        state: The state as ss(8) and netstat(8) name it, "" where the kernel does not say.
        local: This side's address as text.
        peer: The other side's address as text; of a Unix socket's peer without a name its inode.
        receive_queue: The bytes that wait to be read; of a listener the connections that wait to be
            accepted.  None: not known.
        send_queue: The bytes that the peer has not acknowledged; of a listener the bound of its
            queue.  None: not known.
        timer: The timer that runs for it, None where none does.
        nonblocking: The O_NONBLOCK flag, which all holders share.  None: not known.
        age: Seconds since the connection was made.  The kernel keeps it only while no data has
            passed one of the two ways; None otherwise, and for what is no TCP connection.
        shut: The directions in which this side has ended it: "", "receive", "send" or "both".
        user: The socket's owner, "" when no process has it any more.
        inode: The socket's inode, 0 when no process has it any more.
        cookie: The kernel's number of the socket, which is not used again.
        tcp: The kernel's counts, None for what is no TCP connection.
        holders: The holders, by pid and descriptor.
        note: Why there are none, or what could not be found out.
    """

    kind: str
    state: str
    local: str
    peer: str
    receive_queue: int | None
    send_queue: int | None
    timer: Timer | None
    nonblocking: bool | None
    age: float | None
    shut: str
    user: str
    inode: int
    cookie: int
    tcp: TcpFacts | None
    holders: tuple[SocketHolder, ...]
    note: str


class HeldSockets(Struct, frozen=True):
    """The sockets that were asked for, listeners first; iterating and len() go over them.

    Attributes:
        what: The words that were asked for, as they were understood.
        sockets: The sockets.
        unreadable: The number of processes of each user that this one has no right to look into.
            Each may hold any of the sockets; empty: all that are listed were seen.
        why: Which these are, and which right is missing.
        hidden: The thing that hides processes, which then cannot even be counted; "": nothing.
    """

    what: str
    sockets: tuple[HeldSocket, ...]
    unreadable: dict[str, int]
    why: str = ""
    hidden: str = ""

    def __iter__(self) -> Iterator[HeldSocket]:
        return iter(self.sockets)

    def __len__(self) -> int:
        return len(self.sockets)

    @property
    def incomplete(self) -> str:
        """Return what could not be looked into, as a sentence; "" when there is nothing such."""
        parts = []
        if self.unreadable:
            count = sum(self.unreadable.values())
            users = ", ".join(
                f"{number} of user {user}" for user, number in sorted(self.unreadable.items())
            )
            processes = "process" if count == 1 else "processes"
            parts.append(f"{count} {processes} could not be looked into ({users}): {self.why}")
        if self.hidden:
            parts.append(self.hidden)
        return "; ".join(parts)
