"""A keeper on a bench: real but for the clock, the processes and the far ends of its channels."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from functools import partial
from typing import Any

from socketkeep import Listener
from socketkeep._admin import _snapshots
from socketkeep._keeper import _inheritance, _keeper, _signals
from tests.harness.configuration import Model, closing_seconds, configured
from tests.keeper.fakes import (
    BOOT,
    Check,
    Clock,
    Executed,
    FakeSystem,
    FarWorker,
    OnCrash,
    Served,
    SteppedReactor,
    Template,
)

#: Seconds after which the keeper takes the next step of a stop, whatever became of the one before:
#: a worker is killed, what is late is ended, and at last all is.
KILLS_AFTER = 0.5
LATE_AFTER = _keeper.LATE
LAST_RESORT_AFTER = _keeper.LAST_RESORT
#: The oldest format whose readers may go on with a server of such listeners.
oldest_reader = _inheritance.oldest_reader


class Bench:
    """A keeper with all that it needs, and its world."""

    def __init__(self, **options: Any) -> None:
        self._before = open_descriptors()
        self.clock = Clock()
        self.reactor = SteppedReactor(self.clock)
        self.system = FakeSystem()
        # Of the files' kind: its connections are as quick as a pair of sockets, and are told to be
        # the server's own.
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self.listeners = [
            Listener.bind(f"unix:{self._directory.name}/listener.sock"),
            Listener.bind("127.0.0.1:0"),
        ]
        # The workers' handles: the keeper closes its own at a stop.
        self._entrances = [socket.socket(fileno=os.dup(each.fileno())) for each in self.listeners]
        self.config = configured(**{"start_timeout": 30.0, "worker_timeout": "off", **options})
        self.keeper = _keeper.Keeper(self.config, self.reactor, self.system, self.listeners, BOOT)
        self._assemble()
        self.outcomes: list[Any] = []
        self._peers: list[socket.socket] = []

    def settle(self) -> None:
        """Let the keeper do what there is to do now, and the far ends read what it sends."""
        for _ in range(20):
            self._run()
            before = len(self.system.processes)
            for template in self.system.templates:
                if not template.closed:
                    template.read()
                for worker in template.workers:
                    if not worker.closed:
                        worker.read()
            self._run()
            if before == len(self.system.processes) and not self.reactor._soon:
                return

    def advance(self, seconds: float) -> None:
        """Let time pass, in small steps."""
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-9:
            self.clock.now = min(end, self.clock.now + 0.05)
            self._run()
        self.settle()

    def forecast(self, *silent: Any) -> Any:
        """Return what a reload would do; silent: the workers that have not said what they have."""
        return _snapshots.reload_forecast(self.keeper, list(silent))

    def cost(self, generation: int) -> Any:
        """Return what the reload that brought this generation has done."""
        return _snapshots.reload_cost(self.keeper, generation)

    def _assemble(self) -> None:
        self.act_on_signal = _signals.SignalActions(self.keeper).act
        self.keeper.upgrades.signals = _signals.SIGNALS
        self.keeper.upgrades.snapshot = partial(_inheritance.snapshot, self.keeper)

    def _run(self) -> None:
        """Run the keeper, and its successor if it executes one."""
        while True:
            try:
                self.reactor.settle()
            except Executed as executed:
                self._succeed(executed.state)
            else:
                return

    def _succeed(self, state: Any) -> None:
        """Do what execve(2) does to the keeper, and what the new version then does."""
        old = self.keeper
        links = [worker.link for worker in old.pool]
        links += [link for _, link in old.templates._alive.values()]
        for sock in (
            *(link._channel._sock for link in links),
            *(held.sock for held in old.connections.connection_table),
            *old.closer._endings,
            *(listener.sock for listener in self.listeners),
        ):
            if sock.fileno() >= 0:
                assert sock.fileno() in state.descriptors
                sock.detach()  # not closed: it is the successor's
        for children in (old.pool._children, old.templates._running, old.upgrades._children):
            for child in children._watched.values():
                if child.pidfd >= 0:
                    os.close(child.pidfd)
        self.reactor.close()
        self.reactor = SteppedReactor(self.clock)
        self.listeners = [_inheritance.restored_listener(saved) for saved in state.keeper.listeners]
        self.keeper = _keeper.Keeper(
            state.config,
            self.reactor,
            self.system,
            self.listeners,
            state.keeper.boot,
            state.keeper.name,
        )
        self._assemble()
        self.keeper.origins = state.origins
        self.keeper.restore(state.keeper)
        for held in self.keeper.connections.connection_table:
            former = old.connections.connection_table.get(held.id)
            assert former is not None
            assert former.ownership == held.ownership
            held.ownership = former.ownership  # so that what is told of it is one account
        self.keeper.finish_upgrade(self.outcomes.append)

    @property
    def listener(self) -> Listener:
        """The first of its listeners."""
        return self.listeners[0]

    @property
    def template(self) -> Template:
        """The newest template."""
        return self.system.templates[-1]

    @property
    def ended_rollouts(self) -> list[tuple[int, int, str]]:
        """How each reload and upgrade has ended: exit code, generation, error."""
        return [(each.exit_code, each.generation, each.error) for each in self.outcomes]

    @property
    def handlers_have(self) -> float:
        """The seconds of the graceful timeout in which handlers may go on."""
        return self.config.graceful_timeout - closing_seconds(self.config)

    def has_stopped(self) -> bool:
        """Whether the keeper has ended its loop."""
        return self.reactor.stopped

    def reload(self) -> None:
        self.keeper.reload(self.outcomes.append)
        self.settle()

    def upgrade(self) -> Check:
        """Ask for an upgrade; return its check."""
        self.keeper.upgrade(self.outcomes.append)
        self.settle()
        check = self.system.check
        assert check is not None
        return check

    def fork(self) -> list[FarWorker]:
        """Have the newest template fork what the keeper has asked for."""
        forked = self.template.fork()
        self.settle()
        return forked

    def bring_up(
        self,
        model: Model = "async",
        *,
        resumable: bool = True,
        on_crash: OnCrash = "close",
        redeliver: bool = False,
    ) -> list[FarWorker]:
        """Let the generation that is coming load, fork and become ready; return its workers."""
        self.settle()
        self.template.loaded(model, resumable=resumable, on_crash=on_crash, redeliver=redeliver)
        self.settle()
        workers = self.fork()
        for worker in workers:
            worker.ready()
        self.settle()
        return workers

    def start(
        self,
        model: Model = "async",
        *,
        resumable: bool = True,
        on_crash: OnCrash = "close",
        redeliver: bool = False,
    ) -> list[FarWorker]:
        """Start the server; return the workers of its first generation."""
        self.keeper.start()
        return self.bring_up(model, resumable=resumable, on_crash=on_crash, redeliver=redeliver)

    def connect(self, *, tcp: bool = False) -> tuple[socket.socket, socket.socket]:
        """Return a peer's socket and the accepted one; only with `tcp` a reset can be told."""
        peer = self.knock(tcp=tcp)
        accepted, _ = self._entrances[tcp].accept()
        accepted.setblocking(False)
        peer.setblocking(False)
        self._peers.append(peer)
        return peer, accepted

    def knock(self, *, tcp: bool = False) -> socket.socket:
        """Return a peer that is in the accept queue."""
        entrance = self._entrances[tcp]
        peer = socket.socket(entrance.family)
        peer.connect(entrance.getsockname())
        return peer

    def serve(self, worker: FarWorker, *, tcp: bool = False) -> tuple[socket.socket, Served]:
        """Return a peer, and its connection in the worker."""
        peer, accepted = self.connect(tcp=tcp)
        return peer, worker.accept(accepted)

    def kept(self, worker: FarWorker, *, tcp: bool = False) -> tuple[socket.socket, Served]:
        """Return a peer, and its connection in the worker, of which the keeper has a handle too."""
        peer, served = self.serve(worker, tcp=tcp)
        served.keep()
        self.settle()
        assert served.is_kept()
        return peer, served

    def record_of(self, worker: FarWorker) -> Any:
        """Return the keeper's record of a worker."""
        (found,) = (known for known in self.keeper.pool if known.serial == worker.serial)
        return found

    def close(self) -> None:
        """End at once, and see that the keeper leaves nothing behind."""
        self.keeper.stop_now()
        self.settle()
        for process in self.system.processes.values():
            process.die(0)
        self.settle()
        stopped, unreaped = self.reactor.stopped, self.system.unreaped()
        for peer in self._peers:
            peer.close()
        self.system.close()
        for entrance in self._entrances:
            entrance.close()
        for listener in self.listeners:
            listener.close()
        self._directory.cleanup()
        self.reactor.close()
        if self.keeper.lanes.memfd >= 0:
            os.close(self.keeper.lanes.memfd)
        assert stopped, "the keeper does not end"
        assert not unreaped
        left = open_descriptors().items() - self._before.items()
        assert not left, f"the keeper left these open: {left}"


def open_descriptors() -> dict[str, str]:
    """Return what this process has open: descriptor and what it is.

    Maps of scoreboards are left out: they go with their last reference.  So is the census, which a
    keeper has for as long as its process runs.
    """
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return {
        fd: what
        for fd, what in found.items()
        if "scoreboard" not in what and "census" not in what and not what.endswith("/fd")
    }


def is_at_eof(peer: socket.socket) -> bool:
    """Whether the peer has been sent FIN (and has read all), or RST."""
    try:
        return peer.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # the other end was closed, and had not read all
        return True


def end_of(peer: socket.socket) -> str:
    """Wait for the end of a peer's TCP connection; return "FIN" or "RST"."""
    peer.settimeout(5.0)
    try:
        while peer.recv(100):
            pass
    except ConnectionResetError:
        return "RST"
    finally:
        peer.setblocking(False)
    return "FIN"


def is_alive(peer: socket.socket, held: socket.socket) -> bool:
    """Whether the peer and the handle are two ends of one connection that both can use."""
    peer.send(b"?")
    if not held.recv(1000).endswith(b"?"):  # after what had been sent before
        return False
    held.send(b"!")
    return peer.recv(100) == b"!"
