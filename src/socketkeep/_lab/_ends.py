"""The notes on shutdown, and what they leave out of how a connection ends."""

from __future__ import annotations

from typing import Final

from socketkeep._lab._bench import Bench
from socketkeep._lab._experiment import experiment


@experiment(
    claim="shutdown() ends the connection at once, whoever holds it",
    notes="Calling shutdown for reading and writing closes the underlying connection and sends a "
    "FIN / EOF to the peer regardless of how many processes have handles to the socket.",
    socketkeep="shutdown(how) and send_eof(); from outside `socketkeep fin`",
)
def shutdown_at_once(bench: Bench) -> None:
    """Another process has a handle, and finds the connection ended."""
    server, peer = bench.connection()
    child = bench.fork(server, "child")
    server.do("shutdown", "conn", "SHUT_RDWR")
    state = bench.state("client", until="CLOSE_WAIT")
    bench.expect("the peer's state", "CLOSE_WAIT", state)
    bench.expect("FIN", "yes", bench.seen("FIN", "conn"))
    bench.expect("recv at the peer", b"", peer.do("recv", "client"))
    bench.expect("handles all the while", "server 1, child 1", bench.handles("conn"))
    bench.expect("send in the child", "EPIPE", child.do("send", "conn", b"x"))
    bench.expect("recv in the child", b"", child.do("recv", "conn"))


@experiment(
    claim="shutdown() frees nothing: close is needed still",
    notes="However, it does not deallocate the socket and you still need to call close afterward.",
    socketkeep="shutdown() leaves the descriptor open, and close() frees it; fileno() says which",
)
def shutdown_frees_nothing(bench: Bench) -> None:
    """The descriptor is there when both ends have shut down, until it is closed."""
    server, peer = bench.connection()
    before = server.opened("conn").inode
    server.do("shutdown", "conn", "SHUT_RDWR")
    bench.expect("handles after the shutdown", "server 1", bench.handles("conn"))
    bench.expect("the socket is deallocated", "no", bench.freed("conn"))
    peer.do("recv", "client")
    peer.do("close", "client")
    bench.expect("handles after the peer's close", "server 1", bench.handles("conn"))
    bench.expect("recv, on a socket that is there", b"", server.do("recv", "conn"))
    bench.expect("its inode", before, server.opened("conn").inode)
    server.do("close", "conn")
    bench.expect("handles after the close", "none", bench.handles("conn"))
    bench.expect("the socket is deallocated now", "yes", bench.freed("conn"))


@experiment(
    claim="The last close with unread data sends RST in the place of FIN",
    notes="(effectively sending a FIN / EOF to the peer): not in this case.",
    socketkeep="close() ends the sending first, and drops what still comes, so that no RST is sent",
)
def close_with_unread_data(bench: Bench) -> None:
    """The peer has sent something that nobody has received."""
    server, peer = bench.connection()
    peer.must("send", "client", b"unread")
    server.must("readable", "conn", 5.0)
    server.do("close", "conn")
    bench.expect("the peer's state", "CLOSED", bench.state("client", until="CLOSED"))
    bench.expect("RST", "yes", bench.seen("RST", "conn"))
    bench.expect("recv at the peer", "ECONNRESET", peer.do("recv", "client"))


@experiment(
    claim="shutdown() of a shared listener ends it for every process",
    notes="… regardless of how many processes have handles to the socket.",
    socketkeep="a listener is never shut down to drain: workers stop accepting, its queue is kept",
)
def shutdown_of_a_listener(bench: Bench) -> None:
    """The parent is suspended in accept; the child shuts the listener down."""
    server, port = bench.listener()
    child = bench.fork(server, "child")
    server.begin("accept", "listener", "conn")
    bench.sleeps(server, "listener", "accept|accept4")
    child.do("shutdown", "listener", "SHUT_RDWR")
    bench.expect("the parent's accept", "EINVAL", server.finish())
    peer = bench.process("peer")
    bench.expect("connect", "ECONNREFUSED", peer.do("connect", "client", port))
    bench.expect("the listener's state", "CLOSED", bench.state("listener"))
    bench.expect("its handles", "server 1, child 1", bench.handles("listener"))


@experiment(
    claim="A handle on its way to another process counts, and stands in no process's table",
    notes="If the handle count does not reach zero … the connection is not closed.",
    socketkeep="`socketkeep holders` says so: held by no process, on its way (SCM_RIGHTS)",
)
def handle_in_flight(bench: Bench) -> None:
    """Sent with SCM_RIGHTS, closed by the sender, and not yet received."""
    server, port = bench.listener()
    server.must("pair", "letterbox", "slot")
    child = bench.fork(server, "child")
    peer = bench.process("peer")
    peer.must("connect", "client", port)
    server.must("accept", "listener", "conn")
    server.do("send_fd", "letterbox", "conn")
    server.do("close", "conn")
    bench.expect("handles", "none", bench.handles("conn"))
    bench.expect("FIN", "no", bench.seen("FIN", "conn"))
    bench.expect("the socket is deallocated", "no", bench.freed("conn"))
    child.do("recv_fd", "slot", "arrived")
    bench.expect("handles when it was received", "child 1", bench.handles("conn"))
    child.do("send", "arrived", b"still open")
    bench.expect("what the peer receives", b"still open", peer.do("recv", "client"))
    bench.expect("the peer's state", "ESTABLISHED", bench.state("client"))


EXPERIMENTS: Final = (
    shutdown_at_once,
    shutdown_frees_nothing,
    close_with_unread_data,
    shutdown_of_a_listener,
    handle_in_flight,
)
