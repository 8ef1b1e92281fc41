"""The orderly end of connections that no worker serves: half-close, bounded drain, close."""

from __future__ import annotations

import socket
from collections.abc import Callable

from socketkeep._base._passing import close_without_waiting
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables._state import KeepOpen, SavedClosing
from socketkeep._stream._closing import LINGER, discard, end_writing


class Closer:
    """Closes connections so that no RST cuts what the peer has not read yet."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._closing: dict[socket.socket, tuple[ReactorTimer, Callable[[], None]]] = {}
        self._at_once = False
        self._all_by = float("inf")

    def __len__(self) -> int:
        return len(self._closing)

    def close(self, sock: socket.socket, done: Callable[[], None]) -> None:
        """Half-close `sock`, discard what the peer still sends until it closes or the bound is
        reached, then close the descriptor and call `done`."""
        sock.setblocking(False)
        end_writing(sock)
        if self._at_once:
            close_without_waiting(sock.detach())
            done()
            return
        self._watch(sock, self._reactor.clock() + LINGER, done)

    def snapshot(self, keep: KeepOpen) -> list[SavedClosing]:
        """Return what is being closed."""
        return [
            SavedClosing(keep(sock.fileno()), timer.when)
            for sock, (timer, _) in self._closing.items()
        ]

    def restore(self, closing: list[SavedClosing], done: Callable[[], None]) -> None:
        """Go on with what an earlier process was closing."""
        for saved in closing:
            self._watch(socket.socket(fileno=saved.fd), saved.deadline, done)

    def end_by(self, when: float) -> None:
        """Close by that moment what is left then, for a server that is to have ended."""
        self._all_by = when
        for sock, (timer, done) in tuple(self._closing.items()):
            if timer.when > when:
                timer.cancel()
                self._expect(sock, when, done)

    def finish_all(self) -> None:
        """Close at once what is left, and what is still to come: the keeper ends."""
        self._at_once = True
        for sock in tuple(self._closing):
            self._finish(sock)

    def _watch(self, sock: socket.socket, deadline: float, done: Callable[[], None]) -> None:
        self._expect(sock, min(deadline, self._all_by), done)
        self._reactor.register(sock.fileno(), lambda _events: self._discard(sock))

    def _expect(self, sock: socket.socket, deadline: float, done: Callable[[], None]) -> None:
        timer = self._reactor.call_at(deadline, lambda: self._finish(sock))
        self._closing[sock] = (timer, done)

    def _discard(self, sock: socket.socket) -> None:
        if not discard(sock):
            self._finish(sock)

    def _finish(self, sock: socket.socket) -> None:
        if sock in self._closing:
            timer, done = self._closing.pop(sock)
            timer.cancel()
            self._reactor.unregister(sock.fileno())
            close_without_waiting(sock.detach())
            done()
