"""Twisted: ``on_twisted echo``."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from benchmarks.peers import BACKLOG, HOST, announce


class Echo(Protocol):  # type: ignore[misc, unused-ignore]
    """Echo."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Write it back."""
        self.transport.write(data)


if __name__ == "__main__":
    port = reactor.listenTCP(0, Factory.forProtocol(Echo), backlog=BACKLOG, interface=HOST)
    announce(port.getHost().port)
    reactor.run()
