"""A keeper's guard: watched, made the version that is installed, and replaced when it has died.

A guard that the keeper starts itself is its child, not its parent.  It learns of the keeper's end
by a pidfd, and is from then on what the first one was: the next keeper's parent.
"""

from __future__ import annotations

import _socket as socket
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

from socketkeep._base import _log
from socketkeep._base._held_signals import REQUESTS
from socketkeep._guard._becoming import guard_installed
from socketkeep._guard._program import APART, GUARDED, RENEW, Plan
from socketkeep._guard._terms import GuardTerms
from socketkeep._keeper._keeper import Keeper
from socketkeep._keeper.connections._fdstore import FdStore
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._notify import GuardWatch, Notifier
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer

#: Seconds until another is started where the one before died within `_SETTLED` of its start, too;
#: doubled.  The first is started at once.
_SHORTEST: Final = 0.1
_LONGEST: Final = 30.0
_SETTLED: Final = 10.0
_SPARE: Final = 4  # descriptors that it takes to start one
_VARIABLES: Final = ("NOTIFY_SOCKET", "FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID", GUARDED)
_INHERITED: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_DEFAULTED: Final = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


class Guarding:
    """The keeper's guard, from its start on.

    store: makes a store of the keeper's, over the notifier, with nothing in it.  command: starts
    another keeper, in `directory`; without one no guard can be started.
    """

    def __init__(
        self,
        keeper: Keeper,
        reactor: Reactor,
        notifier: Notifier,
        terms: GuardTerms,
        most: int,
        store: Callable[[], FdStore],
        command: Sequence[str],
        directory: str,
    ) -> None:
        self._keeper = keeper
        self._reactor = reactor
        self._notifier = notifier
        self._terms = terms
        self._most = most
        self._store = store
        self._command = list(command)
        self._directory = directory
        self._children = ChildWatch(reactor, keeper.system)
        self._watch: GuardWatch | None = None
        self._started_at = reactor.clock()
        self._delay = 0.0
        self._again: ReactorTimer | None = None
        self._closed = False
        keeper.guard = terms
        if terms.pid == os.getppid():
            self._watch = GuardWatch(reactor, terms.pid, self._ended)
        else:
            self._children.watch(terms.pid, lambda _ended: self._ended())

    def close(self) -> None:
        """Watch it no longer."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        if self._again is not None:
            self._again.cancel()
        for pid in self._children.pids:
            self._children.unwatch(pid)

    def renew(self) -> None:
        """Have the guard become the version that is installed."""
        self._notifier.send(f"{RENEW}={APART.join(guard_installed())}")

    def _ended(self) -> None:
        """Have another guard at once, or go on as a keeper that never had one until there is."""
        keeper = self._keeper
        delay = self._delay if self._reactor.clock() - self._started_at < _SETTLED else 0.0
        self._delay = min(max(delay * 2, _SHORTEST), _LONGEST)
        keeper.guard = None
        self._notifier.pause()
        for name in _VARIABLES:
            os.environ.pop(name, None)
        if self._closed:
            self._leave_store()
            return
        # What has no rights any more could start none that another keeper could begin from.
        unable = keeper.system.account is not None and os.geteuid() != 0
        if keeper.order is not None or unable or not self._command:
            self._leave_store()
            _log.error("the guard has ended: what the keeper holds nobody else holds from here on")
            return
        _log.error("the guard has ended: another is started, and holds all anew")
        if delay:
            self._leave_store()
            self._again = self._reactor.call_later(delay, self._start)
        else:
            self._start()

    def _leave_store(self, before: FdStore | None = None) -> None:
        """Store nothing from here on; before: one in whose place the present one was to come."""
        stores = before, self._keeper.store
        self._keeper.use_no_store()
        for store in stores:
            if store is not None:
                store.abandon()

    def _start(self) -> None:
        """Start a guard that begins with all that there is to be stored.

        Were it told of one thing after another, what it was not told yet would end with a keeper
        that dies meanwhile, and what a sidecar has would be taken for stale.
        """
        self._again = None
        keeper = self._keeper
        before, store = keeper.store, self._store()
        store.gather()
        try:
            with contextlib.ExitStack() as room:  # that all there is to be stored leaves for it
                for _ in range(_SPARE):
                    room.callback(os.close, os.memfd_create("room"))
                keeper.store_anew(store, connections=keeper.config.keep == "crash")
            pid = self._spawn(store.gathered)
        except OSError as error:
            self._leave_store(before)
            _log.error("no guard can be started", error=error.strerror)
            self._again = self._reactor.call_later(self._delay, self._start)
            self._delay = min(self._delay * 2, _LONGEST)
            return
        self._started_at = self._reactor.clock()
        self._children.watch(pid, lambda _ended: self._ended())
        keeper.guard = GuardTerms(pid, self._terms.soft, self._terms.starts, self._terms.cause)
        store.begun()
        if before is not None:
            before.abandon()
        if keeper.herald is not None:
            keeper.herald.tell_anew()
        _log.info("guarded again", guard=pid, stored=len(store))

    def _spawn(self, stored: dict[str, int]) -> int:
        """Start a guard that holds these; return its pid.  Raises OSError."""
        keeper = self._keeper
        config = keeper.config
        passed = keeper.listeners[: len(keeper.listeners) - len(config.bind)]
        own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        fds: list[int] = []
        try:
            own.bind("")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            plan = Plan()
            plan.keeper, plan.socket, plan.most = os.getpid(), own.fileno(), self._most
            plan.soft, plan.starts, plan.ready = self._terms.soft, self._terms.starts, 1
            plan.directory, plan.cause = self._directory, self._terms.cause
            plan.passed = {each.fileno(): each.name for each in passed}
            plan.stored = dict(sorted(stored.items()))  # as the compiled guard has them
            if ":" in config.guard:
                plan.sidecar = config.guard.removeprefix("unix:")
                plan.name = config.name or config.target
            written = plan.write()
            fds = [written, *plan.passed]
            program = guard_installed()
            variables = {k: v for k, v in os.environ.items() if k not in _INHERITED}
            pid = os.posix_spawn(
                program[0],
                [*program, str(written), *self._command],
                variables,
                setpgroup=0,
                setsigmask=REQUESTS,
                setsigdef=_DEFAULTED,
            )
            told = plan.variables(pid, os.getpid())
        finally:
            own.close()
            if fds:
                os.close(fds[0])
            for fd in fds[1:]:
                os.set_inheritable(fd, False)
        os.environ.update(told)
        self._notifier.go_on(told["NOTIFY_SOCKET"])
        return pid
