"""Upgrades: the keeper becomes a newer version of itself, in the same process.

A child first loads the new version and reads the state of the server: what is wrong with it is
told, and nothing has changed.  Then the keeper writes its state to memory, leaves its descriptors
open, and executes the new version (execve(2)).  The pid stays, the workers stay its children and
serve on meanwhile; what they send waits in their channels, and signals wait, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.loop._system import Exit, System
from socketkeep._keeper.rollout._rollout import Done, Rollout, RolloutOutcome
from socketkeep._keeper.tables._state import KeepOpen, SavedServer, write_state

_EXIT_FAILED: Final = 1
_MOST_TEXT: Final = 65536
_READS: Final = 16
_SPARE: Final = 16  # descriptors; an interpreter that starts needs a handful at a time
_STOPPING: Final = "cannot upgrade: the server is stopping"


class Upgrades:
    """One upgrade at a time; who asks during one is told how it ended.

    `snapshot`, set by who assembles the server, returns its state; it is called with what notes
    each descriptor that must stay open.  `reload` is called with those who asked for a reload
    meanwhile, when no upgrade has taken place: an upgrade is followed by a reload anyway.
    `changed` is called when a process has ended that nobody waits for any more.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        rollout: Rollout,
        start_timeout: float,
        reload: Callable[[Done | None], None],
        changed: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._system = system
        self._rollout = rollout
        self.start_timeout = start_timeout  # of the next one
        self._reload = reload
        self._changed = changed
        self._children = ChildWatch(reactor, system)
        self._check: _Check | None = None
        self._done: list[Done] = []
        self._reloads_asked: list[Done | None] = []
        self.act_on_signals: Callable[[], None] = lambda: None  # on those that were received
        self.settle: Callable[[], None] = lambda: None  # what a next version would not know of
        self.obstacle: Callable[[], str] = lambda: ""  # why there can be none now
        self.snapshot: Callable[[KeepOpen], SavedServer]
        self.signals: Sequence[signal.Signals] = ()  # that are acted on
        self.active = False
        self.completed = 0

    def __len__(self) -> int:
        """Return how many processes it has."""
        return len(self._children)

    def request(self, done: Done | None = None) -> None:
        """Upgrade, once the reload that is under way has ended.

        `done` is told why not; or, in the next version of the keeper, how it ended.
        """
        if done is not None:
            self._done.append(done)
        if not self.active:
            self.active = True
            _log.info("upgrade asked for")
            self.go_on()

    def reload_later(self, done: Done | None) -> None:
        """A reload was asked for during an upgrade."""
        self._reloads_asked.append(done)

    def go_on(self) -> None:
        """Begin, if one is to begin and no reload is under way."""
        if not self.active or self._check is not None or self._rollout.coming is not None:
            return
        if obstacle := self.obstacle():
            self._refuse(obstacle)
            return
        _log.info("upgrade started")
        try:
            self._check = _Check(self._reactor, self._system, write_state(self.snapshot(_same)))
        except Exception as error:
            self._fail("cannot check the new version", error)
            return
        self._children.watch(self._check.pid, self._checked)
        if self.start_timeout:
            check = self._check
            check.timer = self._reactor.call_later(self.start_timeout, lambda: self._late(check))

    def cancel(self) -> None:
        """The server stops."""
        if not self.active:
            return
        self._children.kill_all()
        if self._check is not None:
            self._check.close()
            self._check = None
        calls = [done for done in self._reloads_asked if done is not None]
        self._reloads_asked.clear()
        self._refuse(_STOPPING)
        for done in calls:
            done(RolloutOutcome(_EXIT_FAILED, 0, "cannot reload: the server is stopping"))

    def _late(self, check: _Check) -> None:
        if self._check is check:
            check.error = f"the check took more than {self.start_timeout:g} s (--start-timeout)"
            self._children.kill(check.pid)

    def _checked(self, ended: Exit) -> None:
        check, self._check = self._check, None
        if check is None:
            self._changed()  # the server stops, and waited for this
            return
        check.close()
        if ended.status == 0:
            self._become()
        else:
            self._refuse(f"the new version cannot take over: {check.reason(ended)}")

    def _become(self) -> None:
        """Execute the new version; when that fails, go on as if nothing had been asked."""
        mask = self._system.block_signals(self.signals)
        try:
            # Later ones wait in the kernel; these would be lost with this process's memory.
            self.act_on_signals()
            if self.active:
                self._execute(mask)
        except Exception as error:
            self._fail("cannot execute the new version", error)
        finally:
            self._system.set_signal_mask(mask)

    def _execute(self, mask: list[int]) -> None:
        needed: set[int] = set()

        def keep_open(fd: int) -> int:
            needed.add(fd)
            return fd

        self.settle()
        state = self.snapshot(keep_open)
        state.mask = mask
        state.descriptors = sorted(needed)
        state_fd = write_state(state)
        try:
            _require_spare(state_fd)
            self._system.become(state_fd, state.descriptors)
        finally:
            os.close(state_fd)

    def _fail(self, what: str, error: Exception) -> None:
        text = error.strerror if isinstance(error, OSError) else None
        self._refuse(f"{what}: {text or error}")
        if not isinstance(error, OSError):
            self._reactor.failed(error)

    def _refuse(self, error: str) -> None:
        """Tell those who asked, and do the reloads that were asked for meanwhile."""
        self.active = False
        _log.error("upgrade refused", error_text=error)
        calls, self._done = self._done, []
        for done in calls:
            done(RolloutOutcome(_EXIT_FAILED, 0, error))
        reloads, self._reloads_asked = self._reloads_asked, []
        for asked in reloads:
            self._reload(asked)


def _require_spare(fd: int) -> None:
    """Raise OSError if the new version could not even open its modules: that would end it."""
    with contextlib.ExitStack() as stack:
        for _ in range(_SPARE):
            stack.callback(os.close, os.dup(fd))


def _same(fd: int) -> int:
    """Note nothing: the state is only to be read."""
    return fd


class _Check:
    """A process that looks whether the new version can take over, and what it says."""

    def __init__(self, reactor: Reactor, system: System, state_fd: int) -> None:
        """Start it; takes `state_fd`.  Raises OSError."""
        self._reactor = reactor
        self.timer: ReactorTimer | None = None
        self.error = ""
        self._text = b""
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, state_fd)
            read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, write)
            try:
                os.set_blocking(write, True)
                self.pid = system.spawn_check(state_fd, write)
            except BaseException:
                os.close(read)
                raise
        self._fd = read
        reactor.register(read, self._read)

    def close(self) -> None:
        """Hear what it said last, and let go of it."""
        if self.timer is not None:
            self.timer.cancel()
        if self._fd >= 0:
            self._read(0)
        if self._fd >= 0:
            self._let_go()

    def reason(self, ended: Exit) -> str:
        """Return why it refused: a line, and the traceback that it ends if there is one."""
        text = self._text.decode(errors="replace").strip()
        if self.error or not text:
            return self.error or str(ended)
        line = text.splitlines()[-1]
        if "\nTraceback (" not in f"\n{text}":
            return line
        places = re.findall(r'^ *File "(.+)", line (\d+)', text, re.MULTILINE)
        where = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
        return f"{line}{where}\n{text}"

    def _read(self, _events: int) -> None:
        for _ in range(_READS):  # who says much leaves others their turn
            try:
                data = os.read(self._fd, 4096)
            except BlockingIOError:
                return
            if not data:
                self._let_go()
                return
            self._text = (self._text + data)[-_MOST_TEXT:]

    def _let_go(self) -> None:
        self._reactor.unregister(self._fd)
        os.close(self._fd)
        self._fd = -1
