"""Peers of a handler that does as it is told, and says why it was called."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.harness import Server, connect, read_reply
from tests.peer.conftest import Site

_RESUMABLE: Final = "\nhandle = resumable({options})(handle)\n"


class Peers:
    """Plain sockets, each of which counts what it has asked."""

    def __init__(self, server: Server, stack: ExitStack, number: int) -> None:
        self.server = server
        self.socks = [stack.enter_context(connect(server.address)) for _ in range(number)]
        self.asked = [0] * number
        self.version = ""  # of the last answer

    def ask(self, index: int, word: str) -> tuple[str, bool]:
        """Ask and return why the handler that answered was called, and if it was redelivered."""
        self.tell(index, word)
        return self.hear(index, word)

    def tell(self, index: int, word: str) -> None:
        """Ask, and do not wait for the answer."""
        self.asked[index] += 1
        self.socks[index].sendall(word.encode() + b"\n")

    def hear(self, index: int, word: str, *, behind: int = 0) -> tuple[str, bool]:
        """Wait for an answer, `behind` of which others are to come."""
        count, said, self.version, attached, redelivered = (
            read_reply(self.socks[index]).decode().split()
        )
        assert (int(count), said) == (self.asked[index] - behind, word), (
            "the committed state went along"
        )
        return attached, redelivered == "1"

    def owners(self) -> list[int]:
        """Return the process that serves each."""
        self.server.wait_clean()
        owners = {each["peer"]: each["owner"] for each in self.server.connections()}
        return [owners[name_of(sock)] for sock in self.socks]

    def end(self, index: int) -> str:
        """Wait for the end of one; return "FIN" or "RST"."""
        try:
            while self.socks[index].recv(1000):
                pass
        except ConnectionResetError:
            return "RST"
        return "FIN"


def name_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"


@contextmanager
def told(
    site: Site, number: int, *options: str, decorated: str = "", room: int | None = None
) -> Iterator[Peers]:
    """Serve it to so many peers, each of which has been answered once.

    decorated: the options of `resumable`.  room: how many the server has seats for.
    """
    with (
        site.serve(
            write(site, "v0", decorated), *options, clients=room or number, spare=1
        ) as server,
        ExitStack() as stack,
    ):
        peers = Peers(server, stack, number)
        for index in range(number):
            # "parked" when it was, in the short time before it said something.
            assert peers.ask(index, "hello") in (("accepted", False), ("parked", False))
        yield peers


def write(site: Site, version: str, decorated: str = "") -> str:
    """Write the handler; return the TARGET to serve."""
    return site.write(version, "told", tail=_RESUMABLE.format(options=decorated))
