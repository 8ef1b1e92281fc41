"""The loop of the notes: accept, fork, and the two closes."""

from __future__ import annotations

from typing import Final

from socketkeep._lab._bench import Bench
from socketkeep._lab._experiment import experiment
from socketkeep._lab._process import LabProcess

_CHILDREN: Final = ("first", "second")


def _served(
    bench: Bench,
    server: LabProcess,
    peer: LabProcess,
    port: int,
    number: int,
    *,
    parent_closes: bool,
) -> LabProcess:
    """Go once round the loop, until the peer has its answer; return the child, which lives."""
    conn, client = f"conn{number}", f"client{number}"
    peer.must("connect", client, port)
    server.must("accept", "listener", conn)
    child = bench.fork(server, _CHILDREN[number - 1])
    child.do("close", "listener")
    if parent_closes:
        server.do("close", conn)
    child.do("send", conn, b"hello")
    bench.expect(f"what client {number} receives", b"hello", peer.do("recv", client))
    return child


@experiment(
    claim="With both closes, each connection ends with its child, and the listener with the parent",
    notes="The child should close(sockfd) (this doesn't affect the parent) and the parent should "
    "close(new_sockfd) (this doesn't affect the child).",
    socketkeep="listener.serve_forking(handle) is this loop, with both closes and the reaping",
)
def the_loop(bench: Bench) -> None:
    """Clients one after the other; then the parent stops."""
    server, port = bench.listener()
    peer = bench.process("peer")
    for number in range(1, len(_CHILDREN) + 1):
        child = _served(bench, server, peer, port, number, parent_closes=True)
        conn, client = f"conn{number}", f"client{number}"
        bench.expect("handles of the connection", f"{child.name} 1", bench.handles(conn))
        child.exit()
        state = bench.state(client, until="CLOSE_WAIT")
        bench.expect("the client's state when its child has ended", "CLOSE_WAIT", state)
        bench.expect("recv at the client", b"", peer.do("recv", client))
    bench.expect("sockets that the parent has", 1, len(server.sockets))
    bench.expect("handles of the listener", "server 1", bench.handles("listener"))
    server.do("close", "listener")
    bench.expect("connect now", "ECONNREFUSED", peer.do("connect", "late", port))


@experiment(
    claim="Without the parent's close, no client sees an end, and the parent's descriptors pile up",
    notes="The parent should close(new_sockfd).",
    socketkeep="the parent lets go of what fork(give=…) gave; `socketkeep leaks` finds the rest",
)
def loop_without_parents_close(bench: Bench) -> None:
    """As the loop, but for one line."""
    server, port = bench.listener()
    peer = bench.process("peer")
    for number in range(1, len(_CHILDREN) + 1):
        child = _served(bench, server, peer, port, number, parent_closes=False)
        child.exit()
        conn, client = f"conn{number}", f"client{number}"
        bench.expect("handles when the child has ended", "server 1", bench.handles(conn))
        bench.expect("FIN", "no", bench.seen("FIN", conn))
        bench.expect("the client's state", "ESTABLISHED", bench.state(client))
        # The listener is one of them.
        bench.expect("sockets that the parent has", number + 1, len(server.sockets))
    peer.begin("recv", "client1")
    doing = bench.sleeps(peer, "client1", "recvfrom")
    bench.expect("the first client", "suspended in recvfrom(client1)", doing)
    server.do("close", "conn1")
    bench.expect("its recv when the parent closes at last", b"", peer.finish())


@experiment(
    claim="Without the child's close, a closed port goes on listening, and nobody accepts",
    notes="The child should close(sockfd).",
    socketkeep="a child lets go of the listener when it is forked, however it is forked",
)
def loop_without_childs_close(bench: Bench) -> None:
    """The child serves on when the parent stops, as a long connection makes it do."""
    server, port = bench.listener()
    peer = bench.process("peer")
    peer.must("connect", "client", port)
    server.must("accept", "listener", "conn")
    child = bench.fork(server, "child")
    server.do("close", "conn")
    server.do("close", "listener")
    bench.expect("handles of the listener", "child 1", bench.handles("listener"))
    bench.expect("its state", "LISTEN", bench.state("listener"))
    bench.expect("connect", None, peer.do("connect", "victim", port))
    bench.expect("the state of that client", "ESTABLISHED", bench.state("victim"))
    peer.begin("recv", "victim")
    doing = bench.sleeps(peer, "victim", "recvfrom")
    bench.expect("that client", "suspended in recvfrom(victim)", doing)
    again = server.do("listen", "next", port)
    bench.expect("listening on the port anew", "EADDRINUSE", again)
    child.exit()
    bench.expect("RST to that client when the child has ended", "yes", bench.seen("RST", ""))
    bench.expect("its recv", "ECONNRESET", peer.finish())
    again = server.do("listen", "next", port)
    bench.expect("listening on the port anew, then", port, again)


EXPERIMENTS: Final = (the_loop, loop_without_parents_close, loop_without_childs_close)
