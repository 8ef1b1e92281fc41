"""A generation's template: it loads the user's code once and forks the workers from itself."""

from __future__ import annotations

import gc
import io
import os
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

from socketkeep._base import _log, _msgpack
from socketkeep._base._forking import exempt, fork_keeping, guard, leave, signals_blocked
from socketkeep._base._held_signals import let_signals_come
from socketkeep._base._log_users import write_users_lines
from socketkeep._base._mistakes import LoadError
from socketkeep._base._originals import socket_of
from socketkeep._base._roles import Role
from socketkeep._base._titles import set_title
from socketkeep._base._tracebacks import users_traceback
from socketkeep._config._chosen import (
    chosen,
    chosen_for_listeners,
    counts_by_address,
    names_networks,
)
from socketkeep._net._handlers import Handler
from socketkeep._stream._log_fields import log_fields
from socketkeep._wire._channel import Channel, ChannelClosed, Packet
from socketkeep._wire._inlets import inlet_of
from socketkeep._wire._messages import (
    ABSENT,
    Began,
    Forked,
    ForkFailed,
    ForkWorker,
    Loaded,
    LoadFailed,
    LoadTarget,
    StartFailed,
)
from socketkeep._wire._rendezvous import HELD, HELD_FD
from socketkeep._wire._scoreboard import Scoreboard
from socketkeep._worker._accepting import Siblings, defer_to_edges
from socketkeep._worker._environment import Environment
from socketkeep._worker._process import mend_process
from socketkeep._worker._signals import leave_requests_to_keeper, leave_to_keeper
from socketkeep._worker._target import (
    check_lifespan,
    check_replaced,
    choose_model,
    files_passed_over,
    load_handler,
)

if TYPE_CHECKING:
    from socketkeep._config._server_options import WorkerModel
    from socketkeep._wire._doorkeeper import Doorkeeper

#: Verbs that encode a state.
_COMMITS: Final = frozenset({"commit", "reply"})


def main(channel_fd: int) -> None:
    """Load what the keeper says, fork workers as it asks, and end when it has no more use."""
    gc.freeze()  # all of it stays, so that later collections are of the user's objects alone
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    leave_requests_to_keeper()
    let_signals_come()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the user's code prints goes out as it is printed.  In a buffer it would wait for the
        # end of a worker, and what was printed before a fork would go out once for each process.
        sys.stdout.reconfigure(line_buffering=True)
    os.set_inheritable(channel_fd, False)
    channel = Channel(_exempt_socket(channel_fd))
    try:
        template = Template(channel, _next_packet(channel))
        while True:
            packet = _next_packet(channel)
            template.obey(packet)
            packet.close()
    except ChannelClosed:
        return
    except LoadError as error:
        channel.send_now(LoadFailed(error.text, error.exit_code))


class Template:
    """The loaded code and the listeners, ready to be forked."""

    def __init__(self, channel: Channel, packet: Packet) -> None:
        """Load the user's code.  Raises LoadError, and ChannelClosed when the keeper has gone."""
        load = packet.message
        assert isinstance(load, LoadTarget), load
        if len(load.sockets) != len(load.listeners) + len(load.inlets):
            raise LoadError("the listeners did not arrive: out of file descriptors")
        self._channel = channel
        self._load = load
        self._config = chosen(load.config)
        self._settings, self._bound_as = chosen_for_listeners(
            load.settings, load.bound_as, self._config, len(load.listeners)
        )
        self._limits = names_networks(self._config, self._settings)
        if self._limits or counts_by_address(self._settings):
            import_module("socketkeep._wire._doorkeeper")  # once for all workers
        _log.configure(self._config.log_level, self._config.log_format, self._config.log_file)
        write_users_lines(self._config.log_level, self._config.log_format, log_fields)
        if load.descriptors:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (load.descriptors, hard))
        self._suffix = f" [{load.name}]" if load.name else ""
        set_title(Role.TEMPLATE, f"generation {load.generation}{self._suffix}")
        fds = [packet.take(fd) for fd in tuple(load.sockets)]
        self._listeners = [socket_of(fd) for fd in fds[: len(load.listeners)]]
        inlets = [inlet_of(fd) for fd in fds[len(load.listeners) :]]
        self._held: list[socket.socket] = [*self._listeners, *inlets]
        self._doors: list[socket.socket] = list(self._listeners)
        for number, inlet in zip(load.inlets, inlets, strict=True):
            self._doors[number] = inlet
        if load.rendezvous == HELD:
            os.set_inheritable(HELD_FD, False)
        pid, own = os.getpid(), self._descriptors()
        self._handler: Handler = load_handler(self._config, load.idle)
        if os.getpid() != pid:
            leave(0)  # the code has forked, and this is its child: no second template
        if self._descriptors() != own:
            # Not by the channel, whose number may be another's by now.
            _log.error(
                "the code closes descriptors that it has not opened, as os.closerange does and"
                " what makes a daemon of its process: it cannot be served"
            )
            leave(1)
        check_replaced()
        mend_process()
        for path in files_passed_over():
            _log.warning("file named like a standard module, which imports find", path=path)
        self._model: WorkerModel = choose_model(self._handler, self._config.model)
        if self._has_need_of_msgspec():
            _msgpack.use_msgspec()  # once for all workers, and for their children
        self._run = runner(self._model)
        self._siblings = Siblings()
        threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        handler = self._handler
        channel.send_now(
            Loaded(
                *(self._model, handler.resumable, threads),
                *(handler.on_crash, handler.redeliver, handler.on_taken),
                handler.on_push is not None,
                handler.on_leaving is not None,
                handler.resumable and _never_commits(handler),
            )
        )
        leave_to_keeper()
        # What is loaded stays: without this a collection in a worker writes to every object's
        # header and so copies the template's memory page by page.
        gc.collect()
        gc.freeze()

    def _has_need_of_msgspec(self) -> bool:
        """Return whether states are encoded, many messages, or what an edge tells."""
        handler = self._handler
        code = getattr(handler.call, "__code__", None)
        return (
            self._model == "async"
            or handler.resumable
            or any(each.tls for each in self._settings)
            or not _COMMITS.isdisjoint(getattr(code, "co_names", ()))
        )

    def _descriptors(self) -> list[tuple[int, int] | None]:
        """Return what stands behind the numbers of the channel and the listeners."""
        found: list[tuple[int, int] | None] = []
        for fd in (self._channel.fileno(), *(sock.fileno() for sock in self._held)):
            try:
                status = os.fstat(fd)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino))
        return found

    def obey(self, packet: Packet) -> None:
        """Fork the worker that the keeper asks for."""
        message = packet.message
        if not isinstance(message, ForkWorker):
            return
        if packet.truncated:
            self._channel.send_now(ForkFailed(message.serial, "out of file descriptors"))
            return
        self._siblings.seat(message.slot)
        try:
            with signals_blocked():
                pid = fork_keeping(self._held)
                if pid == 0:
                    self._fork_on(message)
        except OSError as error:
            self._channel.send_now(ForkFailed(message.serial, error.strerror or str(error)))
        else:
            status = 0
            # The code may have reaped it: by a SIGCHLD handler that waits for any child, or for
            # that it ignores the signal, in which case the kernel does.
            with suppress(ChildProcessError):
                _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):  # maybe before it had forked; the worker tells if it had
                self._channel.send_now(ForkFailed(message.serial, _killed(status)))

    def _doorkeeper(self, message: ForkWorker) -> Doorkeeper | None:
        """Return who says whom the worker takes; None where nothing is limited."""
        if message.census == ABSENT and not self._limits:
            return None
        from socketkeep._config._address_lists import AddressLists
        from socketkeep._wire._census import Census
        from socketkeep._wire._doorkeeper import Doorkeeper

        lists = AddressLists(self._load.allow, self._load.deny)
        census = None
        if message.census != ABSENT:
            # 0 is the keeper's lane: a worker for which there is none counts nothing.
            census = Census(message.census, message.lane or -1)
            os.close(message.census)
        return Doorkeeper.of(self._config, len(self._load.listeners), census, lists)

    def _fork_on(self, message: ForkWorker) -> NoReturn:
        """Fork the worker and exit, so that the keeper, a subreaper, becomes its parent."""
        try:
            pid = fork_keeping(self._held)
            if pid == 0:
                self._become_worker(message)
            self._channel.send_now(Forked(message.serial, pid))
        except OSError as error:
            self._channel.send_now(ForkFailed(message.serial, error.strerror or str(error)))
        finally:
            os._exit(0)

    def _become_worker(self, message: ForkWorker) -> NoReturn:
        status = 1
        try:
            # While the template's channel is open in this process the keeper waits for its word.
            self._channel.send_now(Began(message.serial, os.getpid()))
            leave_to_keeper()
            generation = f"generation {self._load.generation}{self._suffix}"
            set_title(Role.WORKER, f"{message.slot} {generation}")
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            self._channel.close()
            channel = Channel(_exempt_socket(message.channel))
            for listener in self._held:
                guard(listener)  # a process that a handler forks must not keep the port
            if self._load.inlets:
                defer_to_edges()
            environment = Environment(
                config=self._config,
                settings=self._settings,
                bound_as=self._bound_as,
                access_log=self._config.access_log,
                connect_log=self._config.connect_log,
                handler=self._handler,
                model=self._model,
                listeners=self._listeners,
                doors=self._doors,
                listener_names=self._load.listeners,
                channel=channel,
                scoreboard=Scoreboard(message.scoreboard),
                wake=message.wake,
                boot=self._load.boot,
                generation=self._load.generation,
                serial=message.serial,
                slot=message.slot,
                scoreboard_fd=message.scoreboard,
                rendezvous=self._load.rendezvous,
                siblings=self._siblings,
                doorkeeper=self._doorkeeper(message),
                server=self._load.name,
            )
            self._run(environment)
            status = 0
        except ChannelClosed:
            status = 0  # the keeper went before this worker was ready: there is nothing to serve
        except BaseException:
            _log.error("worker failed", traceback=traceback.format_exc())
        finally:
            _log.catch_up()
            # Not sys.exit: exit handlers and buffers are the template's, and would run twice.
            leave(status)


def _never_commits(handler: Handler) -> bool:
    from socketkeep._worker._commitless import never_commits

    return never_commits(handler.call)


def _killed(status: int) -> str:
    return f"the process that forks it was killed by signal {os.WTERMSIG(status)}"


def _exempt_socket(fd: int) -> socket.socket:
    """Return the socket of a channel, which every child keeps, though the user guards forks."""
    sock = socket_of(fd)
    exempt(sock)
    return sock


def runner(model: WorkerModel) -> Callable[[Environment], None]:
    """Return what serves in `model`, imported now: the workers then share its memory."""
    if model == "async":
        from socketkeep._worker._async import run_async

        return run_async
    from socketkeep._worker._sync import SyncLoop, SyncModel

    build: Callable[[SyncLoop], SyncModel]
    if model == "fork":
        from socketkeep._worker._fork import ForkModel

        build = ForkModel
    elif model == "prefork":
        from socketkeep._worker._prefork import PreforkModel

        build = PreforkModel
    else:
        from socketkeep._worker._thread import ThreadModel

        build = ThreadModel

    def run(environment: Environment) -> None:
        with _lifespan(environment) as entered:
            if entered:
                SyncLoop(environment, build).run()

    return run


@contextmanager
def _lifespan(environment: Environment) -> Iterator[bool]:
    """Enter the service's lifespan, after its `on_start`.

    Yields whether that could be, and tells the keeper why not.
    """
    make, on_start = environment.handler.lifespan, environment.handler.on_start
    step = "on_start"
    try:
        pid = os.getpid()
        if on_start is not None:
            on_start(environment.info)
        step = "the lifespan"
        manager = make() if make else nullcontext()
        check_lifespan(manager, environment.model)
        assert isinstance(manager, AbstractContextManager)
        manager.__enter__()
        if os.getpid() != pid:
            leave(0)  # it has forked, and this is its child: no second worker
    except Exception as error:
        environment.channel.send_now(StartFailed(f"{step} failed:\n{users_traceback(error)}"))
        yield False
        return
    try:
        check_replaced()
    except LoadError as error:
        environment.channel.send_now(StartFailed(error.text))
        yield False
        return
    mend_process()
    try:
        yield True
    except BaseException:
        manager.__exit__(*sys.exc_info())
        raise
    try:
        manager.__exit__(None, None, None)
    except Exception as error:
        _log.error("lifespan failed at its end", traceback=users_traceback(error))


def _next_packet(channel: Channel) -> Packet:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        poll.poll()
        packet = channel.receive()
        if packet is not None:
            return packet
