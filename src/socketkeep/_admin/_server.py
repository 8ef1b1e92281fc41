"""One server, whole: listeners, control socket, signals and the keeper, from start to exit."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from socketkeep._admin._agent_check import AgentCheck
from socketkeep._admin._control import CONTROL_BACKLOG, CONTROL_MODE, ControlServer
from socketkeep._admin._file_watch import FileWatch
from socketkeep._admin._guarding import Guarding
from socketkeep._admin._http_process import HttpProcess
from socketkeep._admin._predecessors import Predecessors, listener_of
from socketkeep._admin._protocol import control_path, default_name, make_runtime_dir
from socketkeep._base import _log, _prctl
from socketkeep._base._accounts import (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_FOWNER,
    CAP_KILL,
    CAP_SETGID,
    CAP_SETUID,
    CAP_SYS_PTRACE,
    Account,
    become,
    keep_capabilities,
)
from socketkeep._base._address import UnixAddress, parse_bind
from socketkeep._base._errors import ListenError
from socketkeep._base._held_signals import hold_signals, let_signals_come
from socketkeep._base._inherited import hear_of_children, put_in_order
from socketkeep._base._mistakes import OptionError
from socketkeep._base._roles import Role
from socketkeep._base._titles import set_title
from socketkeep._config._address_lists import read_lists
from socketkeep._config._capacity import soft_limit
from socketkeep._config._listener_options import unix_owner
from socketkeep._config._renewal import Origins
from socketkeep._config._rights import account_to_become
from socketkeep._config._server_options import (
    ServeConfig,
    bound_addresses,
    listener_settings,
    serves_ipv6_alone,
)
from socketkeep._config._tuning import fastopen_disabled, tune
from socketkeep._guard._terms import guard_of_this
from socketkeep._inspect._holders import describe_holders, holders_of_port
from socketkeep._keeper._inheritance import restored_listener, snapshot
from socketkeep._keeper._keeper import Keeper
from socketkeep._keeper._signals import SIGNALS, SignalActions
from socketkeep._keeper.connections._fdstore import FdStore
from socketkeep._keeper.connections._inlets import Inlets
from socketkeep._keeper.connections._restoring import Stored
from socketkeep._keeper.loop._notify import Herald, ManagerTerms, Notifier
from socketkeep._keeper.loop._reactor import Reactor, SignalQueue
from socketkeep._keeper.loop._system import System
from socketkeep._keeper.rollout._directory import NamedDirectory, WorkingDirectory, place_of
from socketkeep._keeper.rollout._grounds import Grounds
from socketkeep._keeper.tables._state import KeepOpen, SavedServer
from socketkeep._net._binding import inherited_socket
from socketkeep._net._listener import STORED, Listener, passed_descriptors
from socketkeep._wire._rendezvous import KEEPER, directory_beside, leave

if TYPE_CHECKING:
    from socketkeep._cluster._process import ClusterProcess

#: What a keeper that stays root has: to make the files of sockets anew wherever they are, and whose
#: they were; to start, end and look at processes of another user.
_KEPT: Final = frozenset(
    (
        *(CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER),
        *(CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_SYS_PTRACE),
    )
)
_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2
_NAMES_TRIED: Final = 100
#: Seconds until it is tried to say that log lines were dropped, when there is no other line.
_CATCH_UP: Final = 1.0


class ServeFailure(Exception):
    """The server cannot serve: what to tell the user, and the exit code."""

    def __init__(self, text: str, exit_code: int = _EXIT_FAILED) -> None:
        super().__init__(text)
        self.text = text
        self.exit_code = exit_code


def run(
    config: ServeConfig,
    place: NamedDirectory,
    adopted: Sequence[tuple[str, socket.socket]] = (),
    command: Sequence[str] = (),
    directory: str = "",
    origins: Origins | None = None,
    wrong: str = "",
) -> None:
    """Serve until told to stop.  Raises ServeFailure when that cannot begin.

    place: the working directory, by the name that reloads follow.
    adopted: listening sockets for addresses of `config.bind`, by those; they are the server's from
    then on.  command: starts another keeper, in `directory`.  origins: of `config`, which reloads
    read anew.  wrong: the mistake in the settings file, where `config` is the keeper's of before.
    """
    gc.freeze()  # what is loaded stays: no collection need look at it
    hold_signals()
    try:
        lists = read_lists(config)
        account = account_to_become(config)
    except OptionError as error:
        raise ServeFailure(str(error), _EXIT_USAGE) from None
    told = put_in_order()
    if config.umask:
        os.umask(int(config.umask, 8))
    _log.configure(config.log_level, config.log_format, config.log_file, account)
    for text in told:
        _log.warning("inherited, and put in order", what=text)
    system = System()
    system.account = account
    system.worker_descriptors = _raise_descriptor_limit(config.max_connections)
    reactor = Reactor()
    with ExitStack() as stack:
        stack.callback(reactor.close)
        name, path, control, died = stack.enter_context(_control(config))
        predecessors = _predecessors(path, died, config.adopt_from, account)
        stack.callback(predecessors.close)
        passed, stored = _passed()
        stack.callback(stored.close)
        listeners = _bind(config, predecessors, passed, stored, adopted)
        _tune(config, listeners)
        admin = _bind_beside("--admin", config.admin, predecessors)
        agent = _bind_beside("--agent-check", config.agent_check, predecessors)
        earlier = max(predecessors.latest_boot, stored.latest_boot)
        boot = max(int(time.time()), earlier + 1)
        keeper = Keeper(
            *(config, reactor, system, listeners, boot, name),
            rendezvous=directory_beside(path),
            lists=lists,
        )
        keeper.origins = origins
        predecessors.wait_while(stored.awaits)
        predecessors.begin(reactor, keeper)
        server = _Server(
            *(stack, keeper, reactor, control, place, stored.names),
            *(list(command), directory),
        )
        if keeper.store is not None:
            texts = [each.text for each in listeners]
            alive = [worker for worker in keeper.pool if worker.adopted is not None]
            keeper.edges.adopt(stored.take_edges())
            stored.restore(keeper.connections, keeper.store, texts, alive, keeper.edges.stored)
        keeper.templates.open_place()
        keeper.edges.open_files()
        _give_up_rights(account, config)
        server.watch_files()
        server.join_cluster()
        if admin is not None:
            server.show(admin, path)
        if agent is not None:
            server.answer_agents(agent)
        guard = guard_of_this()
        if guard is not None and guard.starts:
            _log.warning("keeper started again", cause=guard.cause, stored=len(stored.names))
        if wrong:
            _log.error("settings not read: those before stay", error=wrong)
        _log.info("control", name=name, path=path)
        if admin is not None:
            _log.info("admin", url=f"http://{admin.text}/")
        if agent is not None:
            _log.info("agent check", address=agent.text)
        here = os.getcwd()
        if place.name != here:
            _log.info("working directory", path=place.name, leads_to=here)
        keeper.start()
        let_signals_come()
        reactor.run()
    _conclude(keeper)


def resume(state: SavedServer) -> None:
    """Go on from the state that an earlier version left in this process; return when it has ended.

    Raises ServeFailure.
    """
    config, saved = state.config, state.keeper
    for fd in state.descriptors:
        os.set_inheritable(fd, False)
    hear_of_children()  # an earlier version did not, when it was started so
    account = state.account
    _log.configure(config.log_level, config.log_format, config.log_file, account)
    system = System()
    system.account = account
    system.worker_descriptors = state.worker_descriptors
    reactor = Reactor()
    with ExitStack() as stack:
        stack.callback(reactor.close)
        assert state.control is not None
        control = stack.enter_context(restored_listener(state.control.listener))
        listeners = [restored_listener(each) for each in saved.listeners]
        _tune(config, listeners)  # an earlier version may have known of less
        path = state.control.listener.path
        keeper = Keeper(
            *(config, reactor, system, listeners, saved.boot, saved.name),
            rendezvous=directory_beside(path),
            census=saved.census,
            lists=saved.lists,
            inlets=Inlets.restored(saved.inlets),
        )
        keeper.origins = state.origins
        keeper.restore(saved)
        if any(worker.adopted is not None for worker in keeper.pool):
            predecessors = _predecessors(path, False, config.adopt_from, account)
            stack.callback(predecessors.close)
            predecessors.begin(reactor, keeper)
        server = _Server(
            *(stack, keeper, reactor, control, _restored_place(state), saved.stored),
            *(state.command, state.directory),
        )
        _give_up_rights(account, config)
        let_signals_come()
        away = time.monotonic() - state.written_at
        _log.info("upgraded", version=keeper.version, generation=saved.current, away=away)
        server.renew_guard()
        server.watch_files(instead_of=state.watcher)
        server.join_cluster(instead_of=state.cluster_pid, node=state.node)
        if state.admin is not None:
            server.show(restored_listener(state.admin), path, instead_of=state.admin_pid)
        if state.agent is not None:
            server.answer_agents(restored_listener(state.agent))
        server.control.resume(state.control.clients)
        reactor.run()
    _conclude(keeper)


def _restored_place(state: SavedServer) -> NamedDirectory:
    """Return the place that an earlier version was in; a version without one says nothing of it."""
    if state.place is not None:
        return NamedDirectory(state.place.name, state.place.guessed)
    try:
        return place_of(state.config.chdir, os.environ.get("PWD"))
    except OSError:
        return NamedDirectory(os.environ.get("PWD") or os.sep)


def _conclude(keeper: Keeper) -> None:
    if keeper.failure is not None:
        raise ServeFailure(keeper.failure.error, keeper.failure.exit_code)
    _log.info("stopped")


class _Server:
    """The surroundings of a keeper: ears for people and the system.  Closed by `stack`."""

    def __init__(
        self,
        stack: ExitStack,
        keeper: Keeper,
        reactor: Reactor,
        control: Listener,
        place: NamedDirectory,
        stored: Iterable[str],
        command: list[str],
        directory: str,
    ) -> None:
        self._place = place
        self._stack = stack
        self._keeper = keeper
        self._reactor = reactor
        self._file_watch: FileWatch | None = None
        self._http: HttpProcess | None = None
        self._cluster: ClusterProcess | None = None
        self._agent: AgentCheck | None = None
        _log.when_dropped(lambda: reactor.call_later(_CATCH_UP, _log.catch_up))
        for listener in keeper.listeners:
            stack.callback(listener.close)
        set_title(Role.KEEPER, f"[{keeper.name}]")
        self.control = ControlServer(keeper, reactor, control, keeper.name)
        stack.callback(self.control.close)
        if keeper.system.account is not None:
            # Made for its user; what is there goes on with workers that are left alone.
            stack.callback(leave, directory_beside(control._path), KEEPER)
        keeper.grounds = Grounds(
            *(WorkingDirectory(place), keeper.listeners, keeper.config),
            keeper.listener_renewed,
            self.control.look_after_socket,
        )
        signals = SignalQueue(reactor, _signals(), SignalActions(keeper).act)
        stack.callback(signals.close)
        self._command, self._directory = command, directory
        self._guarding = _notify_manager(stack, keeper, reactor, stored, command, directory)
        keeper.upgrades.act_on_signals = signals.act
        keeper.upgrades.signals = SIGNALS
        keeper.upgrades.snapshot = self._snapshot

    def renew_guard(self) -> None:
        """Have the guard, if there is one, become the version that is installed, too."""
        if self._guarding is not None:
            self._guarding.renew()

    def watch_files(self, instead_of: int = 0) -> None:
        """Begin to watch the source files, if that is wanted, and end an earlier watcher."""
        if self._keeper.config.reload:
            self._file_watch = FileWatch(
                *(self._reactor, self._keeper.system, self._place.name),
                *(self._keeper.config.target, self._keeper.reload, instead_of),
            )
            self._stack.callback(self._file_watch.close)

    def join_cluster(self, instead_of: int = 0, node: str = "") -> None:
        """Be in a cluster, if that is wanted, and end an earlier process of it."""
        keeper = self._keeper
        if keeper.config.cluster:
            from socketkeep._cluster._process import ClusterProcess  # for who has a cluster

            self._cluster = ClusterProcess(
                *(self._reactor, keeper.system, keeper.config, keeper.connections.post),
                keeper.name,
                instead_of=instead_of,
                node=node,
            )
            self._stack.callback(self._cluster.close)

    def show(self, listener: Listener, control: str, instead_of: int = 0) -> None:
        """Have a process show the server over HTTP, and end an earlier one; takes the listener."""
        config = self._keeper.config
        self._http = HttpProcess(
            *(self._reactor, self._keeper.system, listener, config, control),
            self.control.admit_onlooker,
            instead_of,
        )
        self._stack.callback(self._http.close)

    def answer_agents(self, listener: Listener) -> None:
        """Answer HAProxy's agent checks; takes the listener."""
        self._agent = AgentCheck(self._keeper, self._reactor, listener)
        self._stack.callback(self._agent.close)

    def _snapshot(self, keep: KeepOpen) -> SavedServer:
        """Return the keeper's state, and what the next version needs of this."""
        # First: senders are told what becomes of letters that are at other nodes.
        node = self._cluster.snapshot() if self._cluster is not None else (0, "")
        state = snapshot(self._keeper, keep)
        state.cluster_pid, state.node = node
        state.control = self.control.snapshot(keep)
        state.command, state.directory = self._command, self._directory
        if self._file_watch is not None:
            state.watcher = self._file_watch.pid
        if self._http is not None:
            state.admin, state.admin_pid = self._http.snapshot(keep)
        if self._agent is not None:
            state.agent = self._agent.snapshot(keep)
        return state


def _give_up_rights(account: Account | None, config: ServeConfig) -> None:
    """Have no more rights than are needed from here on.  Raises ServeFailure."""
    if account is None:
        return
    try:
        if config.rebind:
            keep_capabilities(_KEPT)
            return
        if os.geteuid() == 0:
            become(account)
        # It has keys open, and is the user's own that runs the code.
        _prctl.set_dumpable(False)
    except OSError as error:
        raise ServeFailure(f"--user: rights cannot be given up: {error.strerror}") from error


def _predecessors(
    control: str, died: bool, adopt_from: str, account: Account | None
) -> Predecessors:
    try:
        return Predecessors(control, died, adopt_from, account.uid if account else None)
    except OSError as error:
        raise ServeFailure(f"cannot take over the workers of an earlier server: {error}") from error


def _passed() -> tuple[list[tuple[str, int]], Stored]:
    """Return the listeners of socket units, and what the service manager's store gives back."""
    try:
        passed = passed_descriptors()
    except ListenError as error:
        raise ServeFailure(str(error)) from error
    stored = [(name, fd) for name, fd in passed if name.startswith(STORED)]
    return [each for each in passed if each not in stored], Stored.of(stored)


def _tune(config: ServeConfig, listeners: Sequence[Listener]) -> None:
    for listener, settings in zip(
        listeners, listener_settings(config, len(listeners)), strict=True
    ):
        tune(listener.sock, settings)
        if settings.tcp_fastopen and (value := fastopen_disabled()):
            _log.warning(
                "TCP Fast Open has no effect: set net.ipv4.tcp_fastopen to 3",
                address=listener.text,
                tcp_fastopen=value,
            )


def _bind(
    config: ServeConfig,
    predecessors: Predecessors,
    passed: Sequence[tuple[str, int]],
    stored: Stored,
    adopted: Sequence[tuple[str, socket.socket]],
) -> list[Listener]:
    listeners: list[Listener] = []
    addresses = bound_addresses(config)
    address = ""
    waiting = list(adopted)
    try:
        listeners += [Listener(inherited_socket(fd), name=name) for name, fd in passed]
        for address, said in zip(addresses, listener_settings(config, len(addresses)), strict=True):
            given = next((each for each in waiting if each[0] == address), None)
            if given is not None:
                waiting.remove(given)
                given[1].listen(config.backlog)  # it listens already; its queue gets this length
                listeners.append(Listener(given[1]))
                continue
            sock = stored.take_listener(address)
            if sock is not None:
                predecessors.let_go_of(address)  # it is the same one
                listeners.append(listener_of(sock))
                continue
            bind = partial(
                Listener.bind,
                address,
                backlog=config.backlog,
                unix_mode=int(said.mode, 8),
                unix_owner=unix_owner(said),
                ipv6_only=serves_ipv6_alone(address, addresses),
            )
            listeners.append(predecessors.listener(address, bind))
    except ListenError as error:
        for listener in listeners:
            listener.close()
        raise ServeFailure(_with_holders(error, address)) from error
    if not listeners:
        raise ServeFailure(
            "nothing to listen on: LISTEN_FDS passed no socket, and no --bind ADDRESS was given",
            _EXIT_USAGE,
        )
    return listeners


def _bind_beside(flag: str, address: str, predecessors: Predecessors) -> Listener | None:
    """Bind what is no listener of connections, if it is wanted."""
    if not address:
        return None
    bind = partial(Listener.bind, address, backlog=CONTROL_BACKLOG)
    try:
        return predecessors.listener(address, bind)
    except ListenError as error:
        raise ServeFailure(f"{flag}: {_with_holders(error, address)}") from error


def _notify_manager(
    stack: ExitStack,
    keeper: Keeper,
    reactor: Reactor,
    stored: Iterable[str],
    command: Sequence[str],
    directory: str,
) -> Guarding | None:
    """Tell the service manager, or the guard, if one started this process, how the server is.

    And have it keep what must outlive this process, if it does that.  stored: what it has already.
    command: starts another keeper, in `directory`.  Returns the guard, None without one.
    """
    terms = ManagerTerms.of(os.environ, os.getpid())
    if not terms.address:
        return None
    guard = guard_of_this()
    notifier = Notifier(terms.address)
    stack.callback(notifier.close)
    keeper.herald = Herald(
        reactor, notifier, terms.watchdog, lambda: keeper.state, lambda: keeper.summary
    )
    manager = "service manager" if guard is None else "guard"

    def new_store(names: Iterable[str] = ()) -> FdStore:
        store = FdStore(
            *(reactor, notifier, keeper.boot, terms.store, names),
            manager=manager,
            edges_stay=guard is not None,
            passes_on=guard is not None and ":" in keeper.config.guard,
        )
        stack.callback(store.close)
        return store

    guarding = None
    if guard is not None:
        guarding = Guarding(
            *(keeper, reactor, notifier, guard, terms.store, new_store, command, directory)
        )
        stack.callback(guarding.close)
    if terms.store:
        # With a guard each costs memory that only who asked for it pays.
        kept = guard is None or keeper.config.keep == "crash"
        keeper.use_store(new_store(stored), connections=kept)
    return guarding


def _signals() -> list[signal.Signals]:
    """Return the signals that the server acts on.

    A terminal sends WINCH whenever its window changes: with one, it would stop the accepting.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return list(SIGNALS)
    return [number for number in SIGNALS if number != signal.SIGWINCH]


def _with_holders(error: ListenError, address: str) -> str:
    """Return what the error says, and who has the address when it is taken."""
    held = ""
    if error.errno == errno.EADDRINUSE:
        held = describe_holders(holders_of_port(parse_bind(address)))
    return f"{error}, {held}" if held else str(error)


@contextmanager
def _control(config: ServeConfig) -> Iterator[tuple[str, str, Listener, bool]]:
    """Listen on the control socket; yields the server's name, the path and the listener.

    And whether a keeper has died that had the name: it has left its socket.
    """
    wanted = config.name or default_name(config.target)
    if config.control:
        candidates = [(wanted, os.path.abspath(config.control))]
    else:
        try:
            make_runtime_dir()
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise ServeFailure(f"control socket: {error.strerror or error}{where}") from error
        # Two servers of one target need no names of their own; a name that was given is kept.
        more = 1 if config.name else _NAMES_TRIED
        names = [wanted, *(f"{wanted}-{n}" for n in range(2, more + 1))]
        candidates = [(name, control_path(name)) for name in names]
    name, path, listener, died = _listen_on_first_free(candidates)
    with listener:
        yield name, path, listener, died


def _listen_on_first_free(candidates: list[tuple[str, str]]) -> tuple[str, str, Listener, bool]:
    for name, path in candidates:
        died = os.path.lexists(path)
        try:
            listener = Listener.bind(
                UnixAddress(path), backlog=CONTROL_BACKLOG, unix_mode=CONTROL_MODE
            )
        except ListenError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServeFailure(f"control socket: {error}") from error
        else:
            return name, path, listener, died
    name, path = candidates[0]
    raise ServeFailure(
        f"a server named {name!r} is already running (control socket {path}): "
        "give this one another --name, or stop that one: socketkeep stop --control " + path
    )


def _raise_descriptor_limit(max_connections: int) -> int:
    """Raise the keeper's soft limit to the hard one; return the soft limit for the workers.

    The keeper may have to hold every connection at once.  Workers keep the limit that was set, or
    get what `--max-connections` needs (the hard limit was checked before): the user's code may use
    select(2), which cannot take descriptors from 1024 on.  Fewer than the server itself needs they
    do not get.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if (guard := guard_of_this()) is not None:
        soft = guard.soft  # it has raised its own, with which another keeper begins
    return soft_limit(soft, max_connections)
