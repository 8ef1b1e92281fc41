"""The notes on waiting."""

from __future__ import annotations

from typing import Final

from socketkeep._lab._bench import Bench
from socketkeep._lab._experiment import experiment

_ENOUGH: Final = 30.0
_SHORT: Final = 0.05
#: How often a call is made that should not be suspended: a page fault may suspend it, too.
_TRIES: Final = 5
_MOST_STEPS: Final = 100


@experiment(
    claim="A blocking operation suspends the process until it is complete",
    notes="进程挂起直到io完成 (the process is suspended until the I/O is complete). "
    "In blocking mode, operations block until complete.",
    socketkeep="Blocking() waits so, in every verb that receives or sends",
)
def blocking_suspends(bench: Bench) -> None:
    """The kernel tells what a process is suspended in; only then the other one acts."""
    server, port = bench.listener()
    server.begin("accept", "listener", "conn")
    doing = bench.sleeps(server, "listener", "accept|accept4")
    bench.expect("the server, nobody having connected", "suspended in accept4(listener)", doing)
    peer = bench.process("peer")
    peer.must("connect", "client", port)
    bench.expect("accept then", None, server.finish())
    server.begin("recv", "conn")
    doing = bench.sleeps(server, "conn", "recvfrom")
    bench.expect("the server, nothing having been sent", "suspended in recvfrom(conn)", doing)
    peer.must("send", "client", b"at last")
    bench.expect("recv then", b"at last", server.finish())


@experiment(
    claim="A blocking operation ends with the error that the system reports",
    notes="进程挂起直到io完成或者异常 (… complete, or an error). In blocking mode, operations "
    "block until complete or the system returns an error.",
    socketkeep="PeerReset, PeerClosed … say which operation, how long, how many bytes",
)
def blocking_ends_with_error(bench: Bench) -> None:
    """The peer resets the connection under the receiver."""
    server, peer = bench.connection()
    server.begin("recv", "conn")
    doing = bench.sleeps(server, "conn", "recvfrom")
    bench.expect("the server, nothing having been sent", "suspended in recvfrom(conn)", doing)
    peer.do("reset", "client")
    bench.expect("the state then", "CLOSED", bench.state("conn", until="CLOSED"))
    bench.expect("recv then", "ECONNRESET", server.finish())


@experiment(
    claim="A blocking operation may fail because the system's own time has run out",
    notes="… or the system returns an error (such as connection timed out).",
    socketkeep="connect(timeout=…) and modes bound it in your time; the system's is minutes",
)
def connection_timed_out(bench: Bench) -> None:
    """A listener with a full queue answers nobody; the system's time is set to its shortest."""
    server, _port = bench.listener()
    peer = bench.process("peer")
    full: int = server.must("listen", "full", 0, 0)
    peer.must("connect", "queued", full)
    peer.must("socket", "late")
    peer.must("setsockopt", "late", "IPPROTO_TCP", "TCP_USER_TIMEOUT", 1)
    bench.expect("gettimeout()", None, peer.do("gettimeout", "late"))
    peer.begin("connect", "late", full)
    doing = bench.sleeps(peer, "late", "connect")
    bench.expect("the peer, nobody answering", "suspended in connect(late)", doing)
    bench.expect("connect then", "ETIMEDOUT", peer.finish())


@experiment(
    claim="A non-blocking operation that cannot be completed at once fails at once",
    notes="若socket不能立即完成io操作, 则马上返回一个错误. In non-blocking mode, operations "
    "fail (with an error that is unfortunately system-dependent) if they cannot be completed "
    "immediately.",
    socketkeep="WouldBlock, whatever the operation and the system; errno has what the system said",
)
def nonblocking_fails(bench: Bench) -> None:
    """The table of which error, on this system."""
    server, port = bench.listener()
    server.do("setblocking", "listener", 0)
    bench.expect("accept, nobody waiting", "EAGAIN", server.do("accept", "listener", "none"))
    peer = bench.process("peer")
    peer.must("connect", "client", port)
    server.must("readable", "listener", 5.0)
    server.must("accept", "listener", "conn")
    server.do("setblocking", "conn", 0)
    tries = [server.do("recv", "conn") for _ in range(_TRIES)]
    bench.expect("recv, nothing there", "EAGAIN", tries[0])
    waits = min(each.waits for each in tries)
    bench.expect("how often recv gave up the processor", 0, waits)
    taken = server.do("fill", "conn")
    more = server.do("send", "conn", b"more")
    while not more.failed and len(bench.steps) < _MOST_STEPS:
        # Room was made meanwhile: what had been sent has come to the peer's side.
        server.do("fill", "conn")
        more = server.do("send", "conn", b"more")
    bench.show("bytes that the kernel took until it was full", taken)
    bench.expect("send, the buffer being full", "EAGAIN", more)
    server.must("pair", "left", "right")
    server.do("setblocking", "left", 0)
    bench.expect("recv of a Unix socket, nothing there", "EAGAIN", server.do("recv", "left"))
    # A queue for one, which is in it: the system answers no further connect.
    full: int = server.must("listen", "full", 0, 0)
    peer.must("connect", "queued", full)
    peer.must("socket", "late")
    peer.do("setblocking", "late", 0)
    bench.expect("connect", "EINPROGRESS", peer.do("connect", "late", full))
    bench.expect("connect again, meanwhile", "EALREADY", peer.do("connect", "late", full))
    bench.expect("connect once connected", "EISCONN", peer.do("connect", "client", port))


@experiment(
    claim="An operation in timeout mode fails when it is not complete within its time",
    notes="In timeout mode, operations fail if they cannot be completed within the timeout "
    "specified for the socket or if the system returns an error. (The notes write settime; the "
    "method is settimeout.)",
    socketkeep="Timeout(s) bounds the whole operation; TimedOut has bytes_done, nothing is lost",
)
def timeout(bench: Bench) -> None:
    """Complete in time, not complete in time, and an error in time."""
    server, peer = bench.connection()
    server.do("settimeout", "conn", _ENOUGH)
    server.begin("recv", "conn")
    doing = bench.sleeps(server, "conn", "poll|ppoll").partition("(")[0].replace("ppoll", "poll")
    bench.expect("the server, nothing having been sent", "suspended in poll", doing)
    peer.must("send", "client", b"in time")
    bench.expect("recv when it was sent in time", b"in time", server.finish())
    server.do("settimeout", "conn", _SHORT)
    late = server.do("recv", "conn")
    bench.expect(f"recv when nothing was sent for {_SHORT} s", "TimeoutError", late)
    bench.expect(f"it took {_SHORT} s or longer", True, late.seconds >= _SHORT)
    bench.expect("the connection after that", "ESTABLISHED", bench.state("conn"))
    server.do("settimeout", "conn", _ENOUGH)
    server.begin("recv", "conn")
    bench.sleeps(server, "conn", "poll|ppoll")
    peer.do("reset", "client")
    bench.expect("recv when the peer reset it in time", "ECONNRESET", server.finish())


EXPERIMENTS: Final = (
    blocking_suspends,
    blocking_ends_with_error,
    connection_timed_out,
    nonblocking_fails,
    timeout,
)
