"""The system under the keeper: processes and their deaths, as one small object.

The keeper reaches fork, exec, signals and pidfds only through it, so that tests put a `System` of
their own in its place and play a race step by step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NoReturn

from socketkeep._base import _prctl
from socketkeep._base._accounts import Account
from socketkeep._base._held_signals import REQUESTS
from socketkeep._base._process_stat import GROUP, PARENT, START, STATE, has_ended, stat_fields
from socketkeep._base._visibility import hidden_processes
from socketkeep._guard._program import GUARDED
from socketkeep._guard._terms import guard_of_this
from socketkeep._inspect._descriptors import Descriptors, look_everywhere, look_into
from socketkeep._keeper.loop._reaper import Reaper
from socketkeep._wire._rendezvous import HELD_FD
from socketkeep._wire._scoreboard import NAME

TEMPLATE_CHANNEL_FD: Final = 3
EDGE_CHANNEL_FD: Final = 3
CHECK_STATE_FD: Final = 3
CLUSTER_CHANNEL_FD: Final = 3
ADMIN_LISTENER_FD: Final = 3
ADMIN_DOOR_FD: Final = 4
#: How often is looked when a process has gone between two looks.
_LOOKS: Final = 5
_FORCE: Final = 2.0  # seconds in which all below are killed, and a round of it
_FORCE_ROUND: Final = 0.1
_GENERATIONS: Final = 4  # from a template to a worker there are two
#: The module that a newer version of the package takes over by; of this name in every version.
SUCCESSOR: Final = "socketkeep._admin._successor"

# What no process may inherit from the keeper, or from who started that: how signals are taken.
_DEFAULTED: Final = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}

# What a service manager says to the keeper alone.  A library in the user's code that found it would
# speak for the server, or take its sockets.
_THE_KEEPERS: Final = frozenset(
    (
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE"),
        *("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES", GUARDED),
    )
)


#: Becomes another user and executes the rest of its arguments.  It is the keeper's own text, so
#: that no version of the package that may be installed by then is started with root's rights; and
#: by execve(2) the kernel has the process belong to that user in /proc, too.
_BECOME: Final = """
import os, sys
uid, gid, groups, *command = sys.argv[1:]
os.setgroups([int(number) for number in groups.split(",")])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
os.execv(command[0], command)
"""


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process: `status` is its exit code, or minus the signal that killed it.

    None: that is told to its parent alone, which this process is not.
    """

    status: int | None

    def __str__(self) -> str:
        if self.status is None:
            return "unknown"
        if self.status >= 0:
            return f"exit code {self.status}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-self.status).name}"
        return f"killed by signal {-self.status}"


class System:
    """Linux, as the keeper uses it.

    worker_descriptors: the soft limit of descriptors in templates and workers; 0 leaves the
    keeper's own.  account: the user of what it starts to serve; None: this process's.
    """

    worker_descriptors: int = 0
    account: Account | None = None

    @cached_property
    def reaper(self) -> Reaper[Exit]:
        """Return what reaps the children; one for all that wait for some."""
        return Reaper(self)

    def become_subreaper(self) -> None:
        """Make this process the parent of descendants whose own parent has gone.

        A template forks its workers through a process that exits at once, so that the keeper is
        their parent: it learns their exit status itself, and a template's death touches none.
        """
        _prctl.set_child_subreaper()

    def spawn_template(self, channel_fd: int, place_fd: int = -1) -> int:
        """Start a template process on its end of a channel and return its pid.

        place_fd: the directory of the rendezvous; -1: it finds that by its path.

        A fresh interpreter, not a fork: it has no descriptor and no memory of the keeper's, and the
        code of the version that is installed now.  It leads a process group of its own, so that a
        Ctrl-C in the terminal reaches the keeper alone.  Raises OSError.
        """
        actions = [(os.POSIX_SPAWN_DUP2, channel_fd, TEMPLATE_CHANNEL_FD)]
        if place_fd >= 0:
            actions.append((os.POSIX_SPAWN_DUP2, place_fd, HELD_FD))
        return self._serve(actions, "socketkeep._worker", str(TEMPLATE_CHANNEL_FD))

    def spawn_edge(self, channel_fd: int) -> int:
        """Start an edge on its end of a channel, and return its pid.  Raises OSError."""
        actions = [(os.POSIX_SPAWN_DUP2, channel_fd, EDGE_CHANNEL_FD)]
        return self._serve(actions, "socketkeep._edge", str(EDGE_CHANNEL_FD))

    def spawn_cluster(self, channel_fd: int) -> int:
        """Start the process that is in a cluster, on its end of a channel, and return its pid.

        Raises OSError.
        """
        actions = [(os.POSIX_SPAWN_DUP2, channel_fd, CLUSTER_CHANNEL_FD)]
        return self._serve(actions, "socketkeep._cluster", str(CLUSTER_CHANNEL_FD))

    def spawn_check(self, state_fd: int, error_fd: int) -> int:
        """Start a process that sees whether the installed version can go on from a state.

        It exits with 0 when it can, and otherwise says why not on `error_fd`.  Returns its pid.
        Raises OSError.
        """
        actions = [
            (os.POSIX_SPAWN_DUP2, error_fd, 2),
            (os.POSIX_SPAWN_DUP2, state_fd, CHECK_STATE_FD),
        ]
        return _spawn(actions, SUCCESSOR, "--check", str(CHECK_STATE_FD))

    def spawn_admin(self, listener_fd: int, settings_fd: int, door_fd: int) -> int:
        """Start the process that shows the server over HTTP, and return its pid.

        It reads its settings from `settings_fd`, as its standard input, and sends over `door_fd`
        the ends of the connections by which it asks.  Raises OSError.
        """
        actions = [
            (os.POSIX_SPAWN_DUP2, settings_fd, 0),
            (os.POSIX_SPAWN_DUP2, door_fd, ADMIN_DOOR_FD),
            (os.POSIX_SPAWN_DUP2, listener_fd, ADMIN_LISTENER_FD),
        ]
        return self._serve(actions, "socketkeep._admin._http", str(ADMIN_LISTENER_FD))

    def spawn_watcher(self, output_fd: int, directories: Sequence[str]) -> int:
        """Start the process that watches source files, and return its pid.

        It writes to `output_fd`.  Raises OSError.
        """
        actions = [(os.POSIX_SPAWN_DUP2, output_fd, 1)]
        return self._serve(actions, "socketkeep._admin._watcher", *directories)

    def _serve(self, actions: list[tuple[Any, ...]], module: str, *arguments: str) -> int:
        """Start a module as the user that serves."""
        account = self.account if os.geteuid() == 0 else None  # it has become that user itself
        return _spawn(actions, module, *arguments, account=account)

    def become(self, state_fd: int, descriptors: Iterable[int]) -> NoReturn:
        """Execute the installed version in this process; it goes on from the state.

        `descriptors` and `state_fd` stay open in it.  Returns only by raising OSError, and then
        nothing has changed.
        """
        passed = [*descriptors, state_fd]
        try:
            for fd in passed:
                os.set_inheritable(fd, True)
            os.execv(sys.executable, _python(SUCCESSOR, str(state_fd)))
        finally:
            for fd in passed:
                os.set_inheritable(fd, False)

    def block_signals(self, signals: Iterable[signal.Signals]) -> list[int]:
        """Let signals wait, across `become` too; return which did before."""
        return [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, signals)]

    def set_signal_mask(self, blocked: Iterable[int]) -> None:
        """Let these signals wait, and no others."""
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def open_pidfd(self, pid: int) -> int:
        """Return a descriptor that is readable once the child `pid` has ended.

        The child cannot have been reaped before: only the keeper can.  Raises OSError.
        """
        return os.pidfd_open(pid)

    def born(self, pid: int) -> int:
        """Return when a process was started, which no later one of that pid was; 0: none is seen.

        In clock ticks since the system's start.
        """
        try:
            return int(stat_fields(pid)[START])
        except OSError:
            return 0

    def kill(self, pidfd: int, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended already."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    def reap(self, pidfd: int) -> Exit | None:
        """Return how the child ended and let the kernel forget it; None while it runs.

        None also for a worker that died while the process which forked it, and exits at once, was
        still its parent: the pidfd stays readable, and the next attempt finds it.
        """
        return _waited(os.P_PIDFD, pidfd)

    def reap_child(self, pid: int) -> Exit | None:
        """As `reap`, by the pid of a child, which is its own until it has been reaped."""
        return _waited(os.P_PID, pid)

    def ended_child(self) -> int | None:
        """Return a child that has ended and was not reaped; it is not reaped by this.

        The same one until it has been reaped.
        """
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return None if found is None else found.si_pid

    def is_child(self, pid: int) -> bool:
        """Return whether this process has such a child, ended or not."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def holding(self, pids: Iterable[int], inodes: Collection[int]) -> set[int]:
        """Return those of the processes that have a socket with one of these inodes."""
        holding = set()
        for pid in pids:
            found = Descriptors()
            with contextlib.suppress(OSError):  # it has ended, or may not be looked into
                look_into(pid, inodes, found)
            if found.of:
                holding.add(pid)
        return holding

    def held_by_others(self, inodes: Collection[int]) -> tuple[set[int], bool]:
        """Return which of these sockets are held by processes besides this one and those below it.

        And whether all processes can be seen from here: if not, others may hold the rest.
        """
        ours = {os.getpid(), *_below(os.getpid())}
        if (guard := guard_of_this()) is not None:
            ours.add(guard.pid)
        found = Descriptors()
        look_everywhere(inodes, found, besides=ours)
        return set(found.of), not (found.unreadable or hidden_processes())

    def has_ended(self, pidfd: int) -> bool:
        """Return whether a process that may be another's child has ended."""
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def has_mapped(self, pid: int, memfd: int, *, child: bool) -> bool:
        """Return whether a process has the memory of `memfd` mapped: by that it shows whose it is.

        child: it is one of this process, and is believed where the system does not let it be
        seen.
        """
        inode = os.fstat(memfd).st_ino
        try:
            with open(f"/proc/{pid}/maps", errors="replace") as maps:
                return any(_maps(line, inode) for line in maps)
        except PermissionError:
            return child
        except OSError:
            return False

    def is_forked_by(self, pid: int, template: int) -> bool:
        """Return whether a process is one that the template has forked, itself or by another.

        The one between them may have exited, so that this process is its parent: then its group,
        which the template leads, tells it.
        """
        if pid == template:
            return False
        for _ in range(_LOOKS):
            found = _is_below(pid, template)
            if found is not None:
                return found
        return False

    def end_descendants(self) -> int:
        """Kill all processes below this one, and wait a moment for their end; return how many."""
        killed: set[int] = set()
        deadline = time.monotonic() + _FORCE
        while time.monotonic() < deadline:
            living = {pid: parent for pid, parent in _below(os.getpid()).items() if _lives(pid)}
            if not living:
                break
            with contextlib.ExitStack() as stack:
                poller = select.poll()
                for pid, parent in living.items():
                    with contextlib.suppress(OSError):
                        pidfd = os.pidfd_open(pid)
                        stack.callback(os.close, pidfd)
                        if _parent_and_group(pid)[0] == parent:  # it is no other by now
                            self.kill(pidfd, signal.SIGKILL)
                            killed.add(pid)
                            poller.register(pidfd, select.POLLIN)
                poller.poll(_FORCE_ROUND * 1000)
        return len(killed)

    def siblings(self, memfds: Iterable[int]) -> set[int]:
        """Return the children of the guard, and of its parent, that have one of these mapped.

        A guard that a keeper has started has become the child of who the keeper's orphans have
        become children of, too.  None where there is no guard.
        """
        guard = guard_of_this()
        if guard is None:
            return set()
        memfds = tuple(memfds)
        with contextlib.suppress(OSError):
            near = _children_of(guard.pid) | _children_of(_parent_and_group(guard.pid)[0])
            return {
                pid
                for pid in near - {os.getpid(), guard.pid}
                if any(self.has_mapped(pid, memfd, child=False) for memfd in memfds)
            }
        return set()

    def end_siblings(self, memfds: Iterable[int]) -> set[int]:
        """Kill the guard's other children that have one of these mapped, and wait for their end.

        Returns which those were.
        """
        killed = self.siblings(memfds)
        for pid in killed:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                pidfd = os.pidfd_open(pid)
                stack.callback(os.close, pidfd)
                self.kill(pidfd, signal.SIGKILL)
                poller = select.poll()
                poller.register(pidfd, select.POLLIN)
                poller.poll(_FORCE * 1000)
        return killed

    def children(self) -> set[int]:
        """Return the pids of this process's children, ended and not yet reaped ones included."""
        return _children_of(os.getpid())

    def resident_bytes(self, pid: int) -> int:
        """Return the memory of a process that is resident, in bytes; 0 when it has ended."""
        try:
            with open(f"/proc/{pid}/statm") as file:
                pages = int(file.read().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")


def _children_of(pid: int) -> set[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        text = file.read()
    return {int(word) for word in text.split()}


def _maps(line: str, inode: int) -> bool:
    """Return whether a line of /proc/PID/maps (proc_pid_maps(5)) is of that scoreboard."""
    words = line.split(maxsplit=5)
    return len(words) > 5 and words[4] == str(inode) and words[5].startswith(f"/memfd:{NAME}")


def _is_below(pid: int, template: int) -> bool | None:
    """Return whether a process has the template above it, or its group.

    None when that cannot be told.

    The process between them exits at once, and may have gone after it was read that it is the
    parent: then another one is by now.
    """
    keeper = os.getpid()
    one = pid
    for _ in range(_GENERATIONS):
        parent, group = _parent_and_group(one)
        if parent == template:
            return True
        if parent == keeper:
            return group == template
        if not parent and one != pid:
            return None
        if parent <= 1:
            return False
        one = parent
    return False


def _below(ancestor: int) -> dict[int, int]:
    """Return the processes below one, with the parent of each."""
    parents = {int(name): 0 for name in os.listdir("/proc") if name.isdigit()}
    for pid in parents:
        parents[pid] = _parent_and_group(pid)[0]
    found: dict[int, int] = {}
    while True:
        known = {ancestor, *found}
        more = {p: up for p, up in parents.items() if up in known and p not in found}
        if not more:
            return found
        found.update(more)


def _lives(pid: int) -> bool:
    """Return whether a process has not ended; one that only waits to be reaped has."""
    try:
        return not has_ended(stat_fields(pid)[STATE])
    except OSError:
        return False


def _parent_and_group(pid: int) -> tuple[int, int]:
    """Return the parent and the process group of a process, zeros when there is none."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return 0, 0
    return int(fields[PARENT]), int(fields[GROUP])


def _waited(kind: int, number: int) -> Exit | None:
    try:
        result = os.waitid(kind, number, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    exited = result.si_code == os.CLD_EXITED
    return Exit(result.si_status if exited else -result.si_status)


def _spawn(
    actions: list[tuple[Any, ...]], module: str, *arguments: str, account: Account | None = None
) -> int:
    """Start a module of ours in a fresh interpreter, and return its pid.

    account: the user that it is to be; None: this process's.

    What is asked of a server by signal is often sent to all processes of its control group
    (`systemctl kill`): it waits in the new process for as long as that leaves it blocked, and so
    does not end it.  Raises OSError that names what could not be executed.
    """
    command = _python(module, *arguments)
    environment = {key: text for key, text in os.environ.items() if key not in _THE_KEEPERS}
    if account is not None:
        groups = ",".join(map(str, account.groups))
        ids = str(account.uid), str(account.gid), groups
        command = [sys.executable, "-I", "-S", "-c", _BECOME, *ids, *command]
        if account.home:
            environment |= {"HOME": account.home, "USER": account.name, "LOGNAME": account.name}
    try:
        return os.posix_spawn(
            sys.executable,
            command,
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigmask=REQUESTS,
            setsigdef=_DEFAULTED,
        )
    except OSError as error:
        if error.errno == errno.EAGAIN:
            error.strerror = "too many processes (ulimit -u, or pids.max of the control group)"
        else:
            error.strerror = f"{sys.executable or 'sys.executable is empty'}: {error.strerror}"
        raise


def _python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours as this interpreter runs.

    -P: the working directory is the application's, and what is ours is not looked for there.
    """
    flags = sys.flags
    options = ["-P"]
    options += ["-I"] if flags.isolated else ["-E"] * flags.ignore_environment
    options += ["-s"] * flags.no_user_site + ["-S"] * flags.no_site
    options += ["-B"] * flags.dont_write_bytecode
    options += ["-O"] * flags.optimize + ["-b"] * flags.bytes_warning
    options += [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return [sys.executable, *options, "-m", module, *arguments]
