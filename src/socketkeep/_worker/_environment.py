"""The environment of a worker process, whatever its model."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from socketkeep._config._chosen import closing_time
from socketkeep._config._listener_settings import ListenerSettings
from socketkeep._net._handlers import Handler, WorkerInfo
from socketkeep._stream._closing import LINGER
from socketkeep._stream._lease import Order
from socketkeep._wire._channel import Channel
from socketkeep._wire._scoreboard import Scoreboard
from socketkeep._worker._accepting import Siblings

if TYPE_CHECKING:
    from socketkeep._config._server_options import ServeConfig, WorkerModel
    from socketkeep._wire._doorkeeper import Doorkeeper

#: Of the time for closing: the part in which peers may end by themselves, and the part after which
#: what is left is ended by force.  The rest is for the lifespan's end.
_LINGERS: Final = 0.5
_CUT_OFF: Final = 0.75


@dataclass(frozen=True, slots=True)
class Environment:
    """One worker's: what to serve, on which listeners, and how to reach the keeper.

    `settings` are the options of the listeners, and `bound_as` the addresses of those that --bind
    names.  `access_log` and `connect_log` are options, too; a rehearsal logs nothing.

    `doors` are what it accepts from, by the listeners' numbers: the listener, or where edges accept
    from that, the inlet by which they pass on what they have.  `wake` is an eventfd that the keeper
    holds too; the handlers in fork children poll it.  `scoreboard_fd` and `rendezvous` are for
    another keeper, should this worker's die.
    """

    config: ServeConfig
    settings: list[ListenerSettings]
    bound_as: list[str]
    access_log: bool
    connect_log: bool
    handler: Handler
    model: WorkerModel
    listeners: list[socket.socket]
    doors: list[socket.socket]
    listener_names: list[str]
    channel: Channel
    scoreboard: Scoreboard
    wake: int
    boot: int
    generation: int
    serial: int
    slot: int
    scoreboard_fd: int = -1
    rendezvous: str = ""
    siblings: Siblings = field(default_factory=Siblings)
    doorkeeper: Doorkeeper | None = None
    server: str = ""  # its name

    @property
    def info(self) -> WorkerInfo:
        """Return what the service's hooks are told of the worker."""
        return WorkerInfo(self.server, self.generation, self.slot, self.model)

    @property
    def pacer(self) -> Doorkeeper | None:
        """Return who is to be asked before anything is accepted; None: nobody."""
        return self.doorkeeper if self.doorkeeper is not None and self.doorkeeper.paces else None

    def lingers_until(self, order: Order) -> float:
        """Return until when a closed connection's peer may take its time to end, too."""
        return order.deadline + _LINGERS * closing_time(self.config)

    def linger(self, order: Order) -> float:
        """Return for how many seconds from now that is, within the bound that it has anyway."""
        return min(LINGER, max(0.0, self.lingers_until(order) - time.monotonic()))

    def cut_off(self, order: Order) -> float:
        """Return when what has not ended by itself is ended by force."""
        return order.deadline + _CUT_OFF * closing_time(self.config)
