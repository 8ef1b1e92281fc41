"""The notes on the three modes."""

from __future__ import annotations

from typing import Final

from socketkeep._lab._bench import Bench
from socketkeep._lab._experiment import experiment


@experiment(
    claim="A socket is in one of three modes: blocking, non-blocking, or timeout",
    notes="A socket object can be in one of three modes: blocking, non-blocking, or timeout.",
    socketkeep="conn.mode is Blocking(), NonBlocking(), Timeout(s), or one Deadline for many calls",
)
def three_modes(bench: Bench) -> None:
    """The kernel has two, a flag; the third is Python's, which sets it and waits by itself."""
    process = bench.process("process")
    process.must("socket", "sock")
    for seconds, flag in ((None, "clear"), (0.0, "set"), (2.5, "set")):
        process.do("settimeout", "sock", seconds)
        bench.expect(
            f"gettimeout() after settimeout({seconds})", seconds, process.do("gettimeout", "sock")
        )
        bench.expect("O_NONBLOCK in the kernel", flag, bench.is_nonblocking(process, "sock"))


@experiment(
    claim="A socket is created blocking, unless setdefaulttimeout() says otherwise",
    notes="Sockets are always created in blocking mode.",
    socketkeep="Connection(sock) is Blocking() unless it is told a mode; no global default counts",
)
def created_blocking(bench: Bench) -> None:
    """The notes' "always" is that of a program that leaves the default alone."""
    process = bench.process("process")
    process.must("socket", "sock")
    bench.expect("gettimeout() of a new socket", None, process.do("gettimeout", "sock"))
    bench.expect("O_NONBLOCK in the kernel", "clear", bench.is_nonblocking(process, "sock"))
    process.do("setdefaulttimeout", 2.5)
    process.must("socket", "later")
    bench.expect("gettimeout() of one made after it", 2.5, process.do("gettimeout", "later"))
    bench.expect("gettimeout() of the one before", None, process.do("gettimeout", "sock"))


@experiment(
    claim="setblocking() is a shorthand for two calls of settimeout()",
    notes="调用socket.setblocking(0)设置socket为non-blocking. The setblocking() method is simply a "
    "shorthand for certain settimeout() calls.",
    socketkeep="Socket has both methods and .mode, three names of one fact",
)
def setblocking_is_shorthand(bench: Bench) -> None:
    """Two sockets side by side."""
    process = bench.process("process")
    process.must("socket", "one")
    process.must("socket", "other")
    for flag, seconds, in_the_kernel in ((0, 0.0, "set"), (1, None, "clear")):
        process.do("setblocking", "one", flag)
        process.do("settimeout", "other", seconds)
        for name, by in (("one", f"setblocking({flag})"), ("other", f"settimeout({seconds})")):
            bench.expect(f"gettimeout() after {by}", seconds, process.do("gettimeout", name))
            bench.expect("O_NONBLOCK", in_the_kernel, bench.is_nonblocking(process, name))


@experiment(
    claim="An accepted socket has the default timeout, and nothing of its listener's mode",
    notes="Sockets are always created in blocking mode.",
    socketkeep="listener.accept(mode=Timeout(2.5)) says what the connection is to be",
)
def accept_passes_on(bench: Bench) -> None:
    """Other systems hand O_NONBLOCK down; Python undoes that where it is so."""
    server, port = bench.listener()
    peer = bench.process("peer")
    for number, (seconds, default) in enumerate(((2.5, None), (0.0, None), (0.0, 1.5)), 1):
        server.do("settimeout", "listener", seconds)
        server.do("setdefaulttimeout", default)
        peer.must("connect", f"client{number}", port)
        server.must("readable", "listener", 5.0)
        server.must("accept", "listener", f"conn{number}")
        bench.expect(
            f"gettimeout() of the accepted one, the listener's being {seconds}, the default "
            f"{default}",
            default,
            server.do("gettimeout", f"conn{number}"),
        )
        flag = "clear" if default is None else "set"
        bench.expect("its O_NONBLOCK", flag, bench.is_nonblocking(server, f"conn{number}"))


@experiment(
    claim="Descriptors are each process's own, the mode flag O_NONBLOCK is everybody's",
    notes="When a process forks, file descriptors are duplicated in the child process. However, "
    "these file descriptors are distinct from each other.",
    socketkeep="a Connection's mode is its own: the library never changes the flag under it",
)
def flags_are_shared(bench: Bench) -> None:
    """The flag is the open file description's, which a fork and a dup share."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    server.do("dup", "conn", "copy")
    bench.expect("O_NONBLOCK in the child", "clear", bench.is_nonblocking(child, "conn"))
    server.do("setblocking", "conn", 0)
    bench.expect("O_NONBLOCK in the child now", "set", bench.is_nonblocking(child, "conn"))
    bench.expect("O_NONBLOCK of the duplicate", "set", bench.is_nonblocking(server, "copy"))
    bench.expect("what the child's Python takes it for", None, child.do("gettimeout", "conn"))
    bench.expect("recv in the child, blocking as it thinks", "EAGAIN", child.do("recv", "conn"))
    child.do("setblocking", "conn", 1)
    bench.expect("O_NONBLOCK in the parent", "clear", bench.is_nonblocking(server, "conn"))
    bench.expect("what the parent's Python says", 0.0, server.do("gettimeout", "conn"))
    peer.do("close", "client")


EXPERIMENTS: Final = (
    three_modes,
    created_blocking,
    setblocking_is_shorthand,
    accept_passes_on,
    flags_are_shared,
)
