"""Who has a connection, by what is said of it: an independent account, without states or a table.

`tell` is told everything that is said of one connection, true or stale, and says which of it can be
so.  `Log` writes down what a keeper's connections were told and what was accepted of it, so that it
can be held against the account afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.keeper.fakes import owned

#: What can be said, and what is said with it: of which giving it is, or to whom it was given.
SAYINGS: Final[dict[str, str]] = {
    "detached": "epoch",
    "parked": "epoch",
    "ended": "epoch",
    "attached": "epoch",
    "refused": "epoch",
    "assigned": "worker",
    **dict.fromkeys(
        (
            *("owner_died", "resumed", "condemned", "woken", "idle"),
            *("receiver_died", "expired", "stopped", "drained"),
        ),
        "",
    ),
}


@dataclass
class Ledger:
    """One connection.

    `server` is the worker that serves it, `receiver` the one it was sent to and that has not
    answered (it may be serving it), and `held` whether the keeper alone has it.  While it is held,
    `waits` says for what, before another may have it.  `ended` is 1 while it is being closed, 2
    when it is closed.
    """

    server: int | None = 1
    receiver: int | None = None
    epoch: int = 1
    held: bool = False
    waits: str = ""
    ended: int = 0

    @classmethod
    def of(cls, state: str, epoch: int, worker: int | None) -> Ledger:
        """Return the account of a connection that an earlier version of the keeper knew so."""
        if state == "owned":
            return cls(server=worker, epoch=epoch)
        waits = {"parked": "bytes", "orphaned": "judgement"}.get(state, "")
        ledger = cls(server=None, receiver=worker, epoch=epoch, held=True, waits=waits)
        assert ledger.state == state
        return ledger

    @property
    def free(self) -> bool:
        """Whether it can be given to a worker."""
        return self.held and self.receiver is None and not self.ended and not self.waits

    @property
    def state(self) -> str:
        """What the keeper must call this."""
        if self.ended:
            return "closing" if self.ended == 1 else "closed"
        if self.waits:
            return "parked" if self.waits == "bytes" else "orphaned"
        return "moving" if self.held else "owned"

    @property
    def worker(self) -> int | None:
        """Who may be serving it."""
        return self.receiver if self.server is None else self.server

    def tell(self, saying: str, value: int = 0) -> bool:
        """Return whether it can be so; if it can, it is."""
        if SAYINGS[saying] == "epoch" and value != self.epoch:
            return False
        if not self._may(saying):
            return False
        match saying:
            case "detached" | "parked" | "owner_died":
                self.server, self.held = None, True
                self.waits = {"parked": "bytes", "owner_died": "judgement"}.get(saying, "")
            case "ended":
                self.server, self.ended = None, 2
            case "resumed" | "woken":
                self.waits = ""
            case "condemned" | "idle" | "stopped" | "expired":
                self.waits, self.ended = "", 1
            case "assigned":
                self.receiver = value
                self.epoch += 1
            case "attached":
                self.server, self.receiver, self.held = self.receiver, None, False
            case "refused" | "receiver_died":
                self.server = self.receiver = None
                self.held = True
            case "drained":
                self.held, self.ended = False, 2
        return True

    def _may(self, saying: str) -> bool:
        match saying:
            case "detached" | "parked" | "ended" | "owner_died":
                return self.server is not None
            case "attached":
                return self.receiver is not None
            case "refused" | "receiver_died":
                return self.worker is not None
            case "resumed" | "condemned":
                return self.waits == "judgement"
            case "woken" | "idle":
                return self.waits == "bytes"
            case "stopped":
                return self.free or self.waits == "bytes"
            case "drained":
                return self.ended == 1
        return self.free


@dataclass
class Log:
    """What was said of each connection since the log was begun, in order."""

    entries: list[tuple[Any, str, int, bool]] = field(default_factory=list)
    begun: dict[int, tuple[str, int, int | None]] = field(default_factory=dict)

    def replay(self) -> int:
        """Hold it against an account of its own for each connection; return how much was said."""
        ledgers: dict[int, Ledger] = {}
        for ownership, saying, value, accepted in self.entries:
            state, epoch, worker = self.begun[id(ownership)]
            ledger = ledgers.setdefault(id(ownership), Ledger.of(state, epoch, worker))
            before = repr(ledger)
            assert ledger.tell(saying, value) is accepted, (saying, value, accepted, before)
        for ownership, *_ in self.entries:
            ledger = ledgers[id(ownership)]
            said = (ownership.state.value, ownership.epoch, ownership.worker)
            assert said == (ledger.state, ledger.epoch, ledger.worker)
        return len(self.entries)

    def _noting(self, saying: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(ownership: Any, *values: int) -> Any:
            place = (ownership.state.value, ownership.epoch, ownership.worker)
            self.begun.setdefault(id(ownership), place)
            (value,) = values or (0,)
            try:
                outcome = original(ownership, *values)
            except Exception:  # whatever it is, it was not accepted
                self.entries.append((ownership, saying, value, False))
                raise
            self.entries.append((ownership, saying, value, True))
            return outcome

        return noted


@contextmanager
def logged() -> Iterator[Log]:
    """Write down what is said of every connection meanwhile."""
    log, kind = Log(), type(owned("owned", 1))
    with pytest.MonkeyPatch.context() as patch:
        for saying in SAYINGS:
            patch.setattr(kind, saying, log._noting(saying, getattr(kind, saying)))
        yield log
