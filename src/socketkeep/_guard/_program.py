"""The guard: the process that a user sees as the server, and whose child the keeper is.

It stores descriptors under names for the keeper and gives them back to the next one, by the
protocol of systemd's store (FDSTORE in sd_notify(3), sd_listen_fds(3)); starts the keeper again
when that has died; passes signals on to it; and reaps.  It has no configuration, reads nothing that
a peer has sent, and imports nothing of the package and little of the standard library: it is
executed as a file, by an interpreter without site-packages, in the place of the process that has
read the options, and has to be there when all else has failed.  `guard.c` is its twin.

    python -I -S _program.py PLAN COMMAND...

PLAN is a descriptor of what it goes on from (`Plan`), COMMAND starts the keeper.
"""

# `_signal` and `_socket` are the parts of `signal` and `socket` that the interpreter has: the rest
# of these takes more memory than all that is here.
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import array
import os
import resource
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

#: The variable that tells the keeper of its guard: its pid, the soft limit of descriptors that the
#: server was started with, how many keepers there were, and how the one before this ended.
GUARDED = "SOCKETKEEP_GUARDED"
#: The descriptor of this name has the names of those behind it: one variable may have 128 KiB.
NAMES = "socketkeep.names"
#: The keeper's word that the guard is to become the version that is installed: the command that
#: is executed for it, with `APART` between its words.
RENEW = "X_SOCKETKEEP_RENEW"
APART = "\x1f"
#: What is spoken with a sidecar; another one is refused.
SIDECAR_VERSION = "1"
#: Seconds without a word of the keeper's loop after which it is killed.
SILENCE = 60.0

FORWARDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1),
    *(signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH),
)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_CAUGHT = (*FORWARDED, signal.SIGCHLD)
_FIRST_PASSED = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_SHORTEST, _LONGEST = 0.1, 5.0  # seconds until a keeper that ends again and again is started
_SETTLED = 10.0  # seconds after which one that ends is none of those
_LARGEST = 4096  # bytes of a word
_CREDENTIALS = 12  # bytes: pid, uid, gid, unix(7)
_PATIENCE = 5.0  # seconds for a sidecar to answer
_RECONNECT = 1.0  # seconds from one attempt to find it again to the next
_MOST_AT_ONCE = 16  # descriptors in a word; a keeper sends one


class Plan:
    """The plan that a guard goes on from, once options are read or as its own next version.

    keeper: its pid, 0: there is none.  socket: where it hears the keeper.  most: how many
    descriptors it stores.  soft: the limit of descriptors that the server was started with.
    directory: the keeper's, by name.  starts: how many keepers there were.  cause: how the last
    one ended.  ready: whether one of them has served.  sidecar: the address of a guard in another
    container, which holds all of it, too, for the server of that `name`.  passed: descriptors that
    each keeper gets, by numbers, with their names.  stored: the keeper's, by names.
    """

    def __init__(self) -> None:
        self.keeper = self.socket = self.most = self.soft = self.starts = self.ready = 0
        self.directory = self.cause = self.sidecar = self.name = ""
        self.passed: dict[int, str] = {}
        self.stored: dict[str, int] = {}

    def write(self) -> int:
        """Return a descriptor that `read` makes it from; it is inheritable, and all that it names.

        Raises OSError.
        """
        lines = [f"{key}={text}" for key, text in self.__dict__.items() if key not in _TABLES]
        lines += [f"passed={fd}={name}" for fd, name in self.passed.items()]
        lines += [f"stored={fd}={name}" for name, fd in self.stored.items()]
        fd = _memory("\0".join(lines))
        for each in (fd, self.socket, *self.passed, *self.stored.values()):
            os.set_inheritable(each, True)
        return fd

    @classmethod
    def read(cls, fd: int) -> "Plan":
        """Return the plan that another process, or version, has written."""
        plan = cls()
        text = os.fsdecode(os.pread(fd, os.fstat(fd).st_size, 0))
        os.close(fd)
        for line in text.split("\0"):
            key, _, value = line.partition("=")
            if key in _TABLES:
                number, _, name = value.partition("=")
                os.set_inheritable(int(number), False)
                if key == "passed":
                    plan.passed[int(number)] = name
                else:
                    plan.stored[name] = int(number)
            else:
                setattr(plan, key, value if isinstance(getattr(plan, key, ""), str) else int(value))
        os.set_inheritable(plan.socket, False)
        return plan

    def variables(self, guard: int, keeper: int) -> dict[str, str]:
        """Return what a keeper is told by its environment; the arguments are pids."""
        return {
            "NOTIFY_SOCKET": "@" + _name_of(self.socket)[1:],
            "FDSTORE": str(self.most),
            "WATCHDOG_USEC": str(int(SILENCE * 1e6)),
            "WATCHDOG_PID": str(keeper),
            GUARDED: f"{guard} {self.soft} {self.starts} {self.cause}",
        }


_TABLES = ("passed", "stored")


class ServerRefused(Exception):
    """The sidecar does not serve this guard; the text says why."""


class Sidecar:
    """The guard in another container, over a connection that stands for the server's life.

    What it has no room for at once is sent in order later, and nothing waits for it.
    """

    def __init__(self, address: str, name: str) -> None:
        self._address = address
        self._name = name
        self._queue: list[tuple[bytes, int]] = []  # words, and a descriptor of this list's; -1
        self.socket: socket.socket | None = None

    def open(self, names_only: bool = False) -> "dict[str, int]":
        """Return what it holds for the server, by names.  Raises OSError, ServerRefused.

        names_only: by -1s, since there may be no room for the descriptors.
        """
        found: dict[str, int] = {}
        own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            own.settimeout(_PATIENCE)
            own.connect(self._address)
            own.send(os.fsencode(f"HELLO={SIDECAR_VERSION}\nSERVER={self._name}"))
            while True:
                data, ancillary, _, _ = own.recvmsg(
                    _LARGEST, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
                words = dict(line.partition("=")[::2] for line in os.fsdecode(data).split("\n"))
                if "END" in words:
                    break
                fd = array.array("i", ancillary[0][2])[0] if ancillary else -1
                if names_only and fd >= 0:
                    os.close(fd)
                    fd = -1
                if "FDNAME" not in words:
                    raise ServerRefused(words.get("REFUSED", "it has closed the connection"))
                if not (names_only or ancillary):
                    raise ServerRefused("what it holds has no room: raise the limit of descriptors")
                found[words["FDNAME"]] = fd
        except BaseException:
            own.close()
            for fd in found.values():
                if fd >= 0:
                    os.close(fd)
            raise
        own.setblocking(False)
        self.socket = own
        return found

    def tell(self, words: str, fd: int = -1) -> None:
        """Have it do what the keeper has asked this guard for."""
        if self.socket is None:
            return
        try:
            copy = os.dup(fd) if fd >= 0 else -1
        except OSError as error:  # it is told when this has connected again
            self.close(str(error.strerror))
            return
        self._queue.append((os.fsencode(words), copy))
        self.flush()

    def tell_all(self, stored: "dict[str, int]", but: "dict[str, int]") -> None:
        """Have it store these, by names, except for those in `but`."""
        for name, fd in stored.items():
            if name not in but:
                self.tell(f"FDSTORE=1\nFDNAME={name}", fd)

    def close_in_turn(self, fd: int) -> bool:
        """Close it when all that this was told so far has been sent; return False if that is so."""
        if self.pending:
            self._queue.append((b"", fd))
        return self.pending

    def flush(self) -> None:
        """Send what there is room for."""
        while self._queue and self.socket is not None:
            words, fd = self._queue[0]
            if not words:
                del self._queue[0]
                os.close(fd)
                continue
            rights = array.array("i", [fd] if fd >= 0 else [])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
            try:
                self.socket.sendmsg([words], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                self.close(str(error.strerror))
                return
            del self._queue[0]
            if fd >= 0:
                os.close(fd)

    @property
    def pending(self) -> bool:
        """Return whether something is still to be sent."""
        return self.socket is not None and bool(self._queue)

    def finish(self) -> None:
        """Send all that is still to be sent, for as long as there is patience for."""
        deadline = time.monotonic() + _PATIENCE
        while self.socket is not None and self.pending and time.monotonic() < deadline:
            poller = select.poll()
            poller.register(self.socket.fileno(), select.POLLOUT)
            poller.poll(max(deadline - time.monotonic(), 0.0) * 1000)
            self.flush()

    @property
    def events(self) -> int:
        """Return what to wait for."""
        return select.POLLIN | (select.POLLOUT if self._queue else 0)

    def close(self, why: str) -> None:
        """Let go of the connection."""
        if self.socket is not None:
            _say(f"the guard at {self._address} is gone: {why}")
            self.socket.close()
            self.socket = None
        for _, fd in self._queue:
            if fd >= 0:
                os.close(fd)
        self._queue.clear()


class GuardProgram:
    """Holds, starts, passes signals on, reaps."""

    def __init__(self, plan: Plan, command: "list[str]", sidecar: Sidecar | None) -> None:
        self._plan = plan
        self._sidecar = sidecar
        self._reconnect_at = 0.0
        self._command = command
        self._socket = socket.socket(fileno=plan.socket)
        self._ending = False  # it was told to end
        self._speaks = True  # the keeper can be told to end
        self._owed: list[int] = []  # signals for one that cannot
        self._renewal = 0  # pid of the process that tries the next version
        self._next: list[str] = []  # which that is executed by
        self._pidfd = -1  # of a keeper that is no child of this
        self._started_at = self._heard_at = time.monotonic()
        # When the next keeper is to be started; 0.0: there is one.
        self._start_at = 0.0 if plan.keeper else self._started_at
        self._delay = 0.0
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Handlers that only queue: the number of each signal is written to the pipe.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in _CAUGHT:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def run(self) -> "NoReturn":
        """Guard until the keeper has ended for good."""
        self._reap()  # what ended before the handlers were set
        if self._plan.keeper and not _is_child(self._plan.keeper):
            self._watch_parent()
        if self._sidecar is not None and self._sidecar.socket is None:
            # Before a barrier is heard, which would not wait for it.
            self._reconnect(self._sidecar, time.monotonic())
        while True:
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            poller.register(self._socket.fileno(), select.POLLIN)
            if self._sidecar is not None and self._sidecar.socket is not None:
                poller.register(self._sidecar.socket.fileno(), self._sidecar.events)
            if self._pidfd >= 0:
                poller.register(self._pidfd, select.POLLIN)
            for fd, events in poller.poll(self._patience() * 1000):
                if fd == self._pidfd:
                    self._parent_ended()
                elif fd == self._wake:
                    self._take_signals()
                elif fd == self._socket.fileno():
                    self._hear()
                elif self._sidecar is not None:
                    self._sidecar.flush()
                    if events & ~select.POLLOUT:  # it says nothing more: it has ended
                        self._sidecar.close("it has ended")
            now = time.monotonic()
            if self._sidecar is not None and self._sidecar.socket is None:
                self._reconnect(self._sidecar, now)
            if self._start_at:
                if now >= self._start_at:
                    self._start()
            elif now - self._heard_at > SILENCE:
                self._end_silent()

    def _patience(self) -> float:
        now = time.monotonic()
        until = self._start_at or self._heard_at + SILENCE
        if self._sidecar is not None and self._sidecar.socket is None:
            until = min(until, self._reconnect_at)
        return min(max(until - now, 0.0), SILENCE) + 0.001

    def _reconnect(self, sidecar: Sidecar, now: float) -> None:
        """Find the sidecar again, and have it hold what this holds."""
        if now < self._reconnect_at:
            return
        self._reconnect_at = now + _RECONNECT
        try:
            theirs = sidecar.open(names_only=True)
        except (OSError, ServerRefused):
            return
        stored = self._plan.stored
        # Before what is stale goes: it may be of the same connections.
        sidecar.tell_all(stored, theirs)
        stale = [name for name in theirs if name not in stored]
        for name in stale:
            sidecar.tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        if stale:
            sidecar.tell_all(stored, {})  # what had no room there may have some now
        _say(f"the guard of {self._plan.name} holds it again: {len(stored)} descriptors")

    # Signals and ends.

    def _take_signals(self) -> None:
        for number in _read(self._wake):
            if number == signal.SIGCHLD:
                self._reap()
                continue
            if number in _ENDING:
                self._ending = True
                if not self._speaks:
                    # What earlier keepers have left has to be ended by one that has taken it over.
                    self._owed.append(number)
                    self._start_at = min(self._start_at, time.monotonic())
                    continue
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._pidfd < 0:
            if self._plan.keeper:
                os.kill(self._plan.keeper, number)  # reaped by this process alone, so it is that
            return
        try:  # noqa: SIM105 - contextlib is not loaded
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # its end is heard of elsewhere

    def _watch_parent(self) -> None:
        """Watch a keeper that has started this guard in the place of a dead one."""
        keeper = self._plan.keeper
        try:
            self._pidfd = os.pidfd_open(keeper)
        except OSError:
            keeper = 0
        if os.getppid() != keeper:
            self._parent_ended()

    def _parent_ended(self) -> None:
        """Pass no end on: how it ended is told to its own parent alone."""
        self._hear()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._ended(None)

    def _reap(self) -> None:
        """Reap every child, the orphans of earlier keepers included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self._plan.keeper:
                self._hear()  # what it has said last
                self._ended(code)
            elif pid == self._renewal:
                self._renewal = 0
                if code == 0:
                    self._become()
                else:
                    _say("the guard stays as it is: the installed one does not run")

    def _ended(self, code: "int | None") -> None:
        plan = self._plan
        plan.keeper = 0
        # One that cannot even begin, in the place of one that served, is no reason to let go of
        # what that one has left: its files may be whole again soon.
        if self._ending or not plan.ready or code == 0:
            self._say_last()
            _exit_as(code or 0)
        self._speaks = False
        if code is None:
            plan.cause = "not known"
        else:
            plan.cause = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        brief = time.monotonic() - self._started_at < _SETTLED
        self._delay = min(max(self._delay * 2, _SHORTEST), _LONGEST) if brief else 0.0
        self._start_at = time.monotonic() + self._delay

    def _say_last(self) -> None:
        """Have the sidecar hear what has ended; it keeps the rest for the next server."""
        if self._sidecar is not None:
            self._sidecar.finish()

    def _end_silent(self) -> None:
        """Kill a keeper whose loop stands still, unless somebody has stopped it."""
        self._heard_at = time.monotonic()
        with open(f"/proc/{self._plan.keeper}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
        if self._plan.ready and state not in (b"T", b"t"):
            _say(f"the keeper ({self._plan.keeper}) is killed: no word of it for {SILENCE:g} s")
            os.kill(self._plan.keeper, signal.SIGKILL)

    # The store.

    def _hear(self) -> None:
        """Take all that the keeper has said."""
        while True:
            room = socket.CMSG_SPACE(_CREDENTIALS) + socket.CMSG_SPACE(4 * _MOST_AT_ONCE)
            flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, room, flags)
            except OSError:  # there is no more, or no room for its descriptors
                return
            pid, fds = 0, array.array("i")
            for _, kind, content in ancillary:
                if kind == socket.SCM_RIGHTS:
                    fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                else:
                    pid = array.array("i", content)[0]
            # Anybody can send here; who it was the kernel says.
            words = dict(line.partition("=")[::2] for line in os.fsdecode(data).split("\n"))
            kept = self._act(words, fds) if pid == self._plan.keeper else False
            for fd in fds[kept:]:
                os.close(fd)

    def _act(self, words: "dict[str, str]", fds: "array.array[int]") -> bool:
        """Do what the keeper asks for; return whether the first descriptor is kept."""
        plan = self._plan
        self._heard_at = time.monotonic()
        if "READY" in words:
            plan.ready, self._speaks = 1, True
            while self._owed:
                os.kill(plan.keeper, self._owed.pop(0))
        if "STOPPING" in words:
            self._ending = True
        if RENEW in words:
            self._renew(words[RENEW].split(APART))
        if "BARRIER" in words:
            return bool(fds) and self._sidecar is not None and self._sidecar.close_in_turn(fds[0])
        name = words.get("FDNAME", "")
        if "FDSTOREREMOVE" in words:
            fd = plan.stored.pop(name, -1)
            if fd >= 0:
                os.close(fd)
                if self._sidecar is not None:
                    self._sidecar.tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        elif "FDSTORE" in words and name and fds and len(plan.stored) < plan.most:
            if name in plan.stored:
                return False  # it stays, as with systemd
            plan.stored[name] = fds[0]
            if self._sidecar is not None:
                self._sidecar.tell(f"FDSTORE=1\nFDNAME={name}", fds[0])
            return True
        return False

    # Starting the keeper.

    def _start(self) -> None:
        plan = self._plan
        plan.starts += 1
        self._speaks = False
        self._started_at = self._heard_at = time.monotonic()
        self._start_at = 0.0
        try:
            plan.keeper = _fork(self._execute)
        except OSError as error:
            _say(f"cannot start the keeper: {error.strerror}")
            self._start_at = time.monotonic() + _LONGEST

    def _execute(self) -> None:
        """Execute the keeper, in the child that is to be it."""
        plan = self._plan
        os.setpgid(0, 0)  # so that a Ctrl-C in the terminal reaches the guard alone
        variables = plan.variables(os.getppid(), os.getpid())
        try:
            os.chdir(plan.directory)  # by its name, which may lead to a newer release
        except OSError as error:
            _say(f"cannot enter {plan.directory}: {error.strerror}")
        fds = [*plan.passed, _memory("\0".join(plan.stored)), *plan.stored.values()]
        _lay_out(fds)
        variables |= {
            "PWD": plan.directory,
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join([*plan.passed.values(), NAMES]),
        }
        os.execve(self._command[0], self._command, {**os.environ, **variables})

    # Becoming the version of the guard that is installed.

    def _renew(self, command: "list[str]") -> None:
        """Become what is executed by `command`, if that runs."""
        if not self._renewal:
            self._next = command
            try:
                self._renewal = _fork(lambda: os.execv(command[0], [*command, "--check"]))
            except OSError as error:
                _say(f"the guard stays as it is: {error.strerror}")

    def _become(self) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)
        try:
            self._take_signals()  # these would be lost with this one's memory
            os.execv(self._next[0], [*self._next, str(self._plan.write()), *self._command])
        except OSError as error:
            _say(f"the guard stays as it is: {error.strerror}")
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork(child: "Callable[[], object]") -> int:
    """Have a child do what it executes in the end, with signals held; return its pid."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)
    try:
        pid = os.fork()
        if pid:
            return pid
        try:
            # What this interpreter has ignored is not to be in what is executed.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            child()
        except BaseException as error:
            _say(f"cannot execute: {error}")
        finally:
            os._exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _lay_out(fds: "list[int]") -> None:
    """Give descriptors the numbers from `_FIRST_PASSED` on, and leave them to what is executed.

    In place: the process may have no room for as many again.
    """
    places = {fd: index for index, fd in enumerate(fds)}
    for index in range(len(fds)):
        fd, number = fds[index], _FIRST_PASSED + index
        if fd == number:
            os.set_inheritable(fd, True)
            continue
        waits = places.get(number)
        if waits is not None:
            fds[waits] = os.dup(number)
            places[fds[waits]] = waits
        os.dup2(fd, number)
        os.close(fd)
        del places[fd]


def _memory(text: str) -> int:
    fd = os.memfd_create("socketkeep-guard")
    os.write(fd, os.fsencode(text))
    return fd


def _name_of(fd: int) -> str:
    own = socket.socket(fileno=fd)
    try:
        name = own.getsockname()
        return os.fsdecode(name)
    finally:
        own.detach()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _LARGEST)
    except BlockingIOError:
        return b""


def _say(text: str) -> None:
    """Say a line, if there is room for it: who reads the log must not keep the guard waiting."""
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    if any(events & select.POLLOUT for _, events in poller.poll(0)):
        line = f"socketkeep: guard: {text}\n"
        try:  # noqa: SIM105 - contextlib is not loaded
            os.write(2, os.fsencode(line)[:_LARGEST])
        except OSError:
            pass


def _exit_as(code: int) -> "NoReturn":
    """End as the keeper has ended."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # there is no core of this to look at
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        code = 128 - code  # the first process of a container is not killed so
    os._exit(code)


def main() -> None:
    """Guard, from the plan that the first argument is the descriptor of."""
    if sys.argv[1] == "--check":
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)  # inherited, they would end it
    try:
        with open("/proc/self/comm", "w") as file:
            file.write("socketkeep")
    except OSError:
        pass  # of a name alone nothing depends
    plan = Plan.read(int(sys.argv[1]))
    sidecar = None
    if plan.sidecar:
        sidecar = Sidecar(plan.sidecar, plan.name)
        if not plan.starts and not plan.keeper:
            plan.starts = -1  # the keeper that is started is the first one
            try:
                plan.stored = sidecar.open()
            except OSError as error:
                hint = "start it there first, by socketkeep guard --listen"
                _say(f"cannot use the guard at {plan.sidecar}: {error.strerror or error}: {hint}")
                sys.exit(1)
            except ServerRefused as error:
                _say(f"cannot use the guard at {plan.sidecar}: {error}")
                sys.exit(1)
    GuardProgram(plan, sys.argv[2:], sidecar).run()


if __name__ == "__main__":
    main()
