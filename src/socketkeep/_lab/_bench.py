"""The bench of an experiment: its processes, its record, and what it expects of that."""

from __future__ import annotations

import time
from typing import Final, Self

from msgspec.structs import replace

from socketkeep._lab._actor import Open
from socketkeep._lab._calls import Calls
from socketkeep._lab._kernel import KernelView, Look, nonblocking, sleep_of
from socketkeep._lab._outcome import CallOutcome, CannotBeDone, counted
from socketkeep._lab._process import LabProcess, wait_for
from socketkeep._lab._results import Observation, Step

#: Seconds that a call or a change of state may take; one that comes at all takes microseconds.
PATIENCE: Final = 10.0
IMPATIENCE: Final = 0.3


class Bench:
    """Use it as a context manager: its end ends every process, whatever became of them.

    calls: what the processes can do.  patience: seconds that each wait may take; all together at
    most three times as long.
    """

    def __init__(self, calls: type[Calls] = Calls, patience: float = PATIENCE) -> None:
        self.processes: list[LabProcess] = []
        self.steps: list[Step] = []
        self.checks: list[Observation] = []
        self._calls = calls
        self._patience = patience
        self._kernel = KernelView()
        self._last = Look({}, {}, frozenset())
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:  # parents before their children
            process.end()

    def process(self, name: str) -> LabProcess:
        """Start a process.  Raises CannotBeDone."""
        made = LabProcess.started(name, self._calls, self.processes, self._left, self._told)
        self.processes.append(made)
        return made

    def fork(self, parent: LabProcess, name: str) -> LabProcess:
        """Have a process of the experiment fork.  Raises CannotBeDone."""
        child = parent.fork(name)
        # Behind its parent and those that this has forked before: the order that they are drawn in.
        after = self.processes.index(parent)
        behind = [other for other in self.processes if other.parent is parent]
        place = self.processes.index(behind[-1]) if behind else after
        self.processes.insert(place + 1, child)
        self._look()  # the fork's step shows the child's handles
        return child

    def listener(self) -> tuple[LabProcess, int]:
        """Return a server's process, whose `listener` listens, and the port."""
        server = self.process("server")
        port: int = server.must("listen", "listener")
        return server, port

    def connection(self) -> tuple[LabProcess, LabProcess]:
        """Return a server's process with `conn`, and its peer's with the other end, `client`."""
        server, port = self.listener()
        peer = self.process("peer")
        peer.must("connect", "client", port)
        server.must("accept", "listener", "conn")
        server.must("close", "listener")
        return server, peer

    def expect(self, what: str, expected: object, observed: object) -> None:
        """State what the claim lets one expect of an observation, and the observation."""
        check = Observation(what, str(expected), str(observed))
        self.checks.append(check)
        if not check.holds:
            # It has been decided; what follows is still told, and no longer waited for.
            self._patience = min(self._patience, IMPATIENCE)

    def show(self, what: str, observed: object) -> None:
        """Put down an observation that decides nothing."""
        self.checks.append(Observation(what, "", str(observed)))

    def handles(self, name: str) -> str:
        """Return who has handles of a socket, as ``server 1, child 1``, or ``none``."""
        return counted(self._look().handles.get(name, {}))

    def state(self, name: str, until: str = "") -> str:
        """Return the state of a TCP socket; with `until`, wait for it to be that one."""

        def state() -> str:
            return self._look().states.get(name, "")

        if until:
            wait_for(lambda: state() == until, self._left)
        return state()

    def freed(self, name: str) -> str:
        """Return "yes" when the kernel has the socket no longer as a process's."""
        return "yes" if name in self._look().unowned else "no"

    def is_nonblocking(self, process: LabProcess, name: str) -> str:
        """Return "set" or "clear": the flag O_NONBLOCK, read in the kernel."""
        return "set" if nonblocking(process.pid, process.opened(name).fd) else "clear"

    def sleeps(self, process: LabProcess, name: str, calls: str) -> str:
        """Wait until a process is suspended in one of the `calls` ("a|b") on a socket.

        Return what it does: ``suspended in recvfrom(conn)``.  Raises CannotBeDone where that is
        not to be seen.
        """
        wanted = calls.split("|")
        seen = "it hangs in another"

        def reached() -> bool:
            nonlocal seen
            if process.has_returned():
                seen = "not suspended: the call has returned"
                return True
            asleep = sleep_of(process.pid)
            if asleep is None:
                seen = "not suspended"
                return False
            call, argument = asleep
            on = name if argument == process.opened(name).fd else f"{argument:#x}"
            seen = f"suspended in {call}({on})"
            # The argument of a poll is no descriptor but where they are listed.
            return call in wanted and (on == name or "poll" in call)

        try:
            if process.pending:
                wait_for(reached, self._left)
        except OSError as error:
            raise CannotBeDone(
                f"cannot see what process {process.name} does (/proc/PID/syscall): {error.strerror}"
            ) from None
        self._told(process, process.pending, CallOutcome(seen.partition("(")[0]), None)
        return seen

    def seen(self, flag: str, source: str) -> str:
        """Return "yes" when the last step has set off FIN or RST from a socket, else "no"."""
        self._look()
        packets = self.steps[-1].packets
        return "yes" if (flag, source) in [(each.flag, each.source) for each in packets] else "no"

    def _left(self) -> float:
        until_the_end = self._started + 3 * self._patience - time.monotonic()
        return max(0.0, min(self._patience, until_the_end))

    def _told(
        self,
        process: LabProcess,
        call: str,
        outcome: CallOutcome,
        sockets: dict[str, Open] | None,
    ) -> None:
        if process not in self.processes:
            return
        self._kernel.learn(sockets or {})
        before, self._last = self._last, self._looked()
        self.steps.append(
            Step(
                process.name,
                call,
                outcome.text,
                outcome.message,
                outcome.seconds,
                outcome.waits,
                time.monotonic() - self._started,
                self._last.handles,
                self._last.states,
                self._kernel.packets(before, self._last),
            )
        )

    def _look(self) -> Look:
        """Look again: what the last step set off may have arrived only now, and is its doing."""
        look = self._looked()
        if look != self._last and self.steps:
            last = self.steps[-1]
            self.steps[-1] = replace(
                last,
                handles=look.handles,
                states=look.states,
                packets=last.packets + self._kernel.packets(self._last, look),
            )
        self._last = look
        return look

    def _looked(self) -> Look:
        try:
            return self._kernel.look({process.name: process.pid for process in self.processes})
        except OSError as error:
            reason = f"cannot ask the kernel for its sockets (netlink): {error.strerror or error}"
            raise CannotBeDone(reason) from None
