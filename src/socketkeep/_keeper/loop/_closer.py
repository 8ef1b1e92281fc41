"""The orderly end of connections that no worker serves: half-close, bounded drain, close."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from socketkeep._base._passing import close_without_waiting
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables._state import KeepOpen, SavedClosing
from socketkeep._stream._closing import LINGER, draining, end_writing
from socketkeep._stream._waiting import Steps


@dataclass(slots=True, eq=False)
class _Ending:
    """One connection, its writing ended; `done` is called when it is closed."""

    sock: socket.socket
    deadline: float
    done: Callable[[], None]
    steps: Steps[bool]
    timer: ReactorTimer | None = None  # the end of the present wait


class LingeringCloser:
    """Closes connections so that no RST cuts what the peer has not read yet."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._endings: dict[socket.socket, _Ending] = {}
        self._at_once = False
        self._all_by = float("inf")

    def __len__(self) -> int:
        return len(self._endings)

    def close(self, sock: socket.socket, done: Callable[[], None]) -> None:
        """Half-close `sock`, discard what the peer still sends as `draining` does, then close it.

        done: called when the descriptor is closed, which may be at once.
        """
        sock.setblocking(False)
        end_writing(sock)
        if self._at_once:
            close_without_waiting(sock.detach())
            done()
            return
        self._drain(sock, self._reactor.clock() + LINGER, done)

    def snapshot(self, keep: KeepOpen) -> list[SavedClosing]:
        """Return what is being closed."""
        return [SavedClosing(keep(each.sock.fileno()), each.deadline) for each in self._all()]

    def restore(self, closing: list[SavedClosing], done: Callable[[], None]) -> None:
        """Go on with what an earlier process was closing."""
        for saved in closing:
            self._drain(socket.socket(fileno=saved.fd), saved.deadline, done)

    def end_by(self, when: float) -> None:
        """Close by that moment what is left then, for a server that is to have ended."""
        self._all_by = when
        for ending in self._all():
            if ending.deadline > when:
                self._forget(ending)
                self._drain(ending.sock, when, ending.done)

    def finish_all(self) -> None:
        """Close at once what is left, and what is still to come: the keeper ends."""
        self._at_once = True
        for ending in self._all():
            self._finish(ending)

    def _all(self) -> tuple[_Ending, ...]:
        return tuple(self._endings.values())

    def _drain(self, sock: socket.socket, deadline: float, done: Callable[[], None]) -> None:
        deadline = min(deadline, self._all_by)
        steps = draining(sock, deadline, self._reactor.clock)
        self._endings[sock] = ending = _Ending(sock, deadline, done, steps)
        self._reactor.register(sock.fileno(), lambda _events: self._go_on(ending, True))
        self._go_on(ending)

    def _go_on(self, ending: _Ending, ready: bool | None = None) -> None:
        """Take the next step.  ready: what the wait before it has ended with, None: the first."""
        if ending.timer is not None:
            ending.timer.cancel()
        try:
            want = next(ending.steps) if ready is None else ending.steps.send(ready)
        except StopIteration:
            self._finish(ending)
            return
        assert want.until is not None
        ending.timer = self._reactor.call_at(want.until, lambda: self._go_on(ending, False))

    def _forget(self, ending: _Ending) -> None:
        del self._endings[ending.sock]
        self._reactor.unregister(ending.sock.fileno())
        if ending.timer is not None:
            ending.timer.cancel()

    def _finish(self, ending: _Ending) -> None:
        self._forget(ending)
        close_without_waiting(ending.sock.detach())
        ending.done()
