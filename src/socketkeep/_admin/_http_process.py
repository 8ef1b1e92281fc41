"""`--admin`: the process that shows the server over HTTP, as the keeper sees it.

A process of its own, so that nothing that a browser does can delay or end a connection: it has no
more than the listener and what anybody is told over the control socket.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from socketkeep._admin._settings import HttpSettings, admin_token, push_token
from socketkeep._base import _log, _passing
from socketkeep._base._mistakes import OptionError
from socketkeep._base._passing import Unfit
from socketkeep._config._server_options import ServeConfig
from socketkeep._keeper._inheritance import saved_listener
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.loop._system import ADMIN_DOOR_FD, Exit, System
from socketkeep._keeper.tables._state import KeepOpen, SavedListener
from socketkeep._net._listener import Listener
from socketkeep._wire._channel import Packet
from socketkeep._wire._descriptors import connection_place

_PIPE: Final = 65536  # bytes that a pipe takes, pipe(7)
_FIRST_DELAY: Final = 0.1  # seconds until it is started again, doubled each time
_LONGEST_DELAY: Final = 30.0
_LONG_ENOUGH: Final = 10.0  # a life of so long, and the next delay is the first one


class HttpProcess:
    """Keeps one running; the listener is the keeper's, so that whoever connects meanwhile waits.

    The process ends when the other end of its standard input is closed: when the keeper has ended,
    or has executed its next version.

    It may be another user's, and then cannot connect to the control socket: it makes a pair of
    sockets for each question and sends one of them, which `admit` is called with.

    instead_of: pid of the one that an earlier version of the keeper had; it is ended.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        listener: Listener,
        config: ServeConfig,
        control: str,
        admit: Callable[[socket.socket], None],
        instead_of: int = 0,
    ) -> None:
        self._reactor = reactor
        self._system = system
        self._listener = listener
        self._config = config
        self._control = control
        self._admit = admit
        self._door: socket.socket | None = None
        self._children = ChildWatch(reactor, system)
        self._throttle = _log.Throttle()
        self._pid = 0
        self._lifeline = -1
        self._started_at = 0.0
        self._delay = _FIRST_DELAY
        self._timer: ReactorTimer | None = None
        if instead_of:
            self._children.watch(instead_of, lambda _ended: None)
            self._children.kill(instead_of)
        self._start()

    def snapshot(self, keep: KeepOpen) -> tuple[SavedListener, int]:
        """Return what the next version of the server goes on from: the listener, and the pid."""
        return saved_listener(self._listener, keep), self._pid

    def close(self) -> None:
        """End the process, and close the listener."""
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()
        if self._pid:
            self._children.unwatch(self._pid)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        self._listener.close()

    def _start(self) -> None:
        self._started_at = self._reactor.clock()
        try:
            self._spawn()
        except (OSError, OptionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._throttle.warning("cannot start the admin process", error=reason)
            self._again()

    def _spawn(self) -> None:
        # Here: they may be files that only this process may read.
        config = msgspec.structs.replace(
            self._config,
            admin_token=admin_token(self._config),
            admin_token_file="",
            push_token=push_token(self._config),
            push_token_file="",
        )
        told = HttpSettings(config=config, control=self._control, door=ADMIN_DOOR_FD)
        settings = msgspec.json.encode(told) + b"\n"
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        door, their_door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # Nobody reads it yet: what had no room would be waited for without end.
            os.set_blocking(ours, False)
            if len(settings) > _PIPE:
                fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, len(settings))
            if os.write(ours, settings) < len(settings):
                raise OSError(errno.ENOSPC, "the settings are too long for a pipe")
            self._pid = self._system.spawn_admin(
                self._listener.fileno(), theirs, their_door.fileno()
            )
        except BaseException:
            os.close(ours)
            door.close()
            raise
        finally:
            os.close(theirs)
            their_door.close()
        self._lifeline = ours
        self._door = door
        door.setblocking(False)
        self._reactor.register(door.fileno(), self._at_the_door)
        self._children.watch(self._pid, self._ended)

    def _at_the_door(self, _events: int) -> None:
        assert self._door is not None
        try:
            received = _passing.receive(self._door)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self._close_door()
            return
        packet = Packet(None, received.descriptors, received.truncated)
        try:
            if not received.data:
                self._close_door()
            for fd in tuple(packet.descriptors):
                connection_place(fd)
                self._admit(socket.socket(fileno=packet.take(fd)))
        except Unfit as error:
            self._throttle.warning("the admin process asks by what is no socket", error=str(error))
        finally:
            packet.close()

    def _close_door(self) -> None:
        if self._door is not None:
            self._reactor.unregister(self._door.fileno())
            self._door.close()
            self._door = None

    def _ended(self, ended: Exit) -> None:
        self._pid = 0
        self._let_go()
        if self._reactor.clock() - self._started_at >= _LONG_ENOUGH:
            self._delay = _FIRST_DELAY
        _log.error("admin process ended", exit=ended, again_in=self._delay)
        self._again()

    def _again(self) -> None:
        self._timer = self._reactor.call_later(self._delay, self._start)
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _let_go(self) -> None:
        self._close_door()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
