"""The ground of each generation, found anew: a working directory, reachable listeners.

The file of a Unix socket may have been removed while the server served, by hand or by what cleans
/tmp: nobody can connect any more, and nothing tells the server.  A reload makes it anew.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from socketkeep._base import _log
from socketkeep._base._address import UnixAddress
from socketkeep._base._errors import ListenError
from socketkeep._base._mistakes import OptionError
from socketkeep._config._listener_options import unix_owner
from socketkeep._config._listener_settings import ListenerSettings
from socketkeep._config._server_options import ServeConfig, listener_settings
from socketkeep._keeper.rollout._directory import WorkingDirectory
from socketkeep._net._listener import Listener

_Identity = tuple[int, int] | None


class Grounds:
    """Looked up by `renew` when a generation begins; `settle` and `give_up` say how it ended."""

    def __init__(
        self,
        directory: WorkingDirectory,
        listeners: Sequence[Listener],
        config: ServeConfig,
        renewed: Callable[[Listener], None],
        look_after_control: Callable[[], None],
    ) -> None:
        """`renewed` is told of each listener that has another socket now."""
        self.directory = directory
        self._listeners = listeners
        self._config = config
        self._renewed = renewed
        self._look_after_control = look_after_control
        self._earlier: list[tuple[Listener, socket.socket, _Identity]] = []

    def use(self, config: ServeConfig) -> None:
        """Go by these options from now on."""
        self._config = config

    def renew(self) -> str:
        """Look all of it up anew; return why the generation cannot begin, "" when it can."""
        self._look_after_control()
        settings = listener_settings(self._config, len(self._listeners))
        for listener, said in zip(self._listeners, settings, strict=True):
            if listener.file_is_gone:
                self._bind_anew(listener, said)
        error = self.directory.follow()
        if error:
            self.give_up()
        return error

    def settle(self) -> None:
        """The generation serves: with what it has found."""
        self.directory.stay()
        earlier, self._earlier = self._earlier, []
        for listener, sock, _ in earlier:
            sock.close()  # its workers accept what waits there as long as they are there
            self._renewed(listener)

    def give_up(self) -> None:
        """It does not: the one before has what it had."""
        self.directory.go_back()
        earlier, self._earlier = self._earlier, []
        for listener, sock, identity in earlier:
            if listener.fileno() < 0:  # the server stops
                sock.close()
                continue
            listener.close()
            listener.sock, listener._identity = sock, identity

    def _bind_anew(self, listener: Listener, said: ListenerSettings) -> None:
        try:
            mode, owner = int(said.mode, 8), unix_owner(said)
            fresh = bind_anew(listener, self._config.backlog, mode, owner)
        except (ListenError, OptionError) as error:
            _log.warning("the socket's file is gone and cannot be made anew", error=error)
            return
        _log.warning("the socket's file was gone and is made anew", address=listener.text)
        self._earlier.append((listener, listener.sock, listener._identity))
        listener.sock, listener._identity = fresh.sock, fresh._identity


def bind_anew(
    listener: Listener, backlog: int, mode: int, owner: tuple[int, int] = (-1, -1)
) -> Listener:
    """Return another listener at the path of one whose file is gone.  Raises ListenError."""
    path = listener._path
    fresh = Listener.bind(UnixAddress(path), backlog=backlog, unix_mode=mode, unix_owner=owner)
    fresh._owner = -1  # `listener` gets its socket, and has the file to remove
    return fresh
