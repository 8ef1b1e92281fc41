"""The notes on handles: fork duplicates them, close drops one, the last one ends it."""

from __future__ import annotations

from typing import Final

from socketkeep._lab._bench import Bench
from socketkeep._lab._experiment import experiment

_DISTINCT: Final = (
    "Closing a file descriptor in the child doesn't affect the corresponding file descriptor in "
    "the parent, and vice versa."
)


@experiment(
    claim="fork() gives the child a handle of its own of each socket",
    notes="When a process forks, file descriptors are duplicated in the child process.",
    socketkeep="a forked child keeps only what it was given: fork(give=[conn]), guard_forks()",
)
def fork_duplicates(bench: Bench) -> None:
    """Two processes, two descriptors, one socket."""
    server, peer = bench.connection()
    bench.expect("handles before", "server 1", bench.handles("conn"))
    child = bench.fork(server, "child")
    bench.expect("handles after", "server 1, child 1", bench.handles("conn"))
    child.do("send", "conn", b"from the child")
    bench.expect("what the peer receives", b"from the child", peer.do("recv", "client"))


@experiment(
    claim="Several processes can have handles of one socket: what one takes, the other misses",
    notes="The socket is a resource in the underlying OS and multiple processes can have a handle "
    "for the same underlying socket.",
    socketkeep="conn.holders() and `socketkeep holders` name every process that has one",
)
def one_socket(bench: Bench) -> None:
    """One inode, and one queue of bytes."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    second = bench.fork(child, "second")
    peer.must("send", "client", b"abc")
    for process, byte in ((server, b"a"), (child, b"b"), (second, b"c")):
        bench.expect(f"recv(1) in {process.name}", byte, process.do("recv", "conn", 1))
    sockets = {process.opened("conn").inode for process in (server, child, second)}
    bench.expect("sockets that the three descriptors are of", 1, len(sockets))


@experiment(
    claim="A close in the child leaves the parent's handle as it was",
    notes=_DISTINCT,
    socketkeep="release() drops this process's handle and touches no other",
)
def close_in_child(bench: Bench) -> None:
    """The parent goes on."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    child.do("close", "conn")
    bench.expect("handles", "server 1", bench.handles("conn"))
    bench.expect("send in the parent", 4, server.do("send", "conn", b"here"))
    bench.expect("what the peer receives", b"here", peer.do("recv", "client"))
    bench.expect("the peer's state", "ESTABLISHED", bench.state("client"))


@experiment(
    claim="A close in the parent leaves the child's handle as it was",
    notes=_DISTINCT,
    socketkeep="fork(give=[conn]) is this: the parent lets go, the child goes on",
)
def close_in_parent(bench: Bench) -> None:
    """The child goes on."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    server.do("close", "conn")
    bench.expect("handles", "child 1", bench.handles("conn"))
    bench.expect("send in the child", 4, child.do("send", "conn", b"here"))
    bench.expect("what the peer receives", b"here", peer.do("recv", "client"))
    bench.expect("the peer's state", "ESTABLISHED", bench.state("client"))


@experiment(
    claim="It does not matter that parent and child run at the same time",
    notes="The fact that the parent and child are running at the same time doesn't affect this.",
    socketkeep="so a reload closes the old worker's handle while the new one already serves",
)
def at_the_same_time(bench: Bench) -> None:
    """The child closes while the parent is suspended in a recv on the same socket."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    server.begin("recv", "conn")
    asleep = "suspended in recvfrom(conn)"
    bench.expect("the parent", asleep, bench.sleeps(server, "conn", "recvfrom"))
    child.do("close", "conn")
    bench.expect("the parent after the close", asleep, bench.sleeps(server, "conn", "recvfrom"))
    peer.must("send", "client", b"for the parent")
    bench.expect("what its recv returns", b"for the parent", server.finish())


@experiment(
    claim="Each close takes one from the number of handles",
    notes="When you call close it decrements the handle count by one.",
    socketkeep="conn.handles is that number",
)
def close_counts(bench: Bench) -> None:
    """A duplicate in the same process counts as one in another does."""
    server, _peer = bench.connection()
    child = bench.fork(server, "child")
    server.do("dup", "conn", "copy")
    for process, name, left in (
        (None, "", "server 2, child 1"),
        (server, "conn", "server 1, child 1"),
        (child, "conn", "server 1"),
        (server, "copy", "none"),
    ):
        if process is not None:
            process.do("close", name)
        done = f"after {process.name}'s close({name})" if process is not None else "to begin with"
        bench.expect(f"handles {done}", left, bench.handles("conn"))


@experiment(
    claim="While another process has a handle, close ends nothing: the peer waits",
    notes="If the handle count does not reach zero because another process still has a handle to "
    "the socket then the connection is not closed and the socket is not deallocated.",
    socketkeep="close() ends it for all holders; release() is this; `socketkeep why` tells who",
)
def close_with_a_holder(bench: Bench) -> None:
    """The peer is suspended in its recv, and only the child's bytes wake it."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    peer.begin("recv", "client")
    bench.sleeps(peer, "client", "recvfrom")
    server.do("close", "conn")
    bench.expect("FIN", "no", bench.seen("FIN", "conn"))
    doing = bench.sleeps(peer, "client", "recvfrom")
    bench.expect("the peer", "suspended in recvfrom(client)", doing)
    bench.expect("the socket is deallocated", "no", bench.freed("conn"))
    child.do("send", "conn", b"still open")
    # FIN would have come before these.
    bench.expect("what the peer's recv returns", b"still open", peer.finish())
    bench.expect("the peer's state", "ESTABLISHED", bench.state("client"))


@experiment(
    claim="The last close, and only it, sends FIN and gives the socket up",
    notes="If the handle count has reached zero then the socket and associated connection goes "
    "through the normal close procedure (effectively sending a FIN / EOF to the peer) and the "
    "socket is deallocated.",
    socketkeep="the keeper has a second handle, so that a worker's death is not the last close",
)
def last_close(bench: Bench) -> None:
    """First the parent's, then the child's."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    server.do("close", "conn")
    bench.expect("FIN at the first close", "no", bench.seen("FIN", "conn"))
    child.do("send", "conn", b"still open")
    bench.expect("what the peer receives after it", b"still open", peer.do("recv", "client"))
    child.do("close", "conn")
    state = bench.state("client", until="CLOSE_WAIT")
    bench.expect("the peer's state after the second", "CLOSE_WAIT", state)
    bench.expect("FIN at the second close", "yes", bench.seen("FIN", "conn"))
    bench.expect("recv at the peer", b"", peer.do("recv", "client"))
    bench.expect("the socket is deallocated", "yes", bench.freed("conn"))
    peer.do("close", "client")
    state = bench.state("conn", until="TIME_WAIT")
    bench.expect("what is left when the peer has closed", "TIME_WAIT", state)


EXPERIMENTS: Final = (
    fork_duplicates,
    one_socket,
    close_in_child,
    close_in_parent,
    at_the_same_time,
    close_counts,
    close_with_a_holder,
    last_close,
)
