"""What a worker process has been given, whatever its model."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from socketkeep._config import ServeConfig
from socketkeep._handlers import Handler
from socketkeep._wire._channel import Channel
from socketkeep._wire._scoreboard import Scoreboard
from socketkeep._worker._target import Model


@dataclass(frozen=True, slots=True)
class Environment:
    """One worker's: what to serve, on which listeners, and how to reach the keeper.

    `wake` is an eventfd that the keeper holds too; the handlers in fork children poll it.
    `scoreboard_fd` and `rendezvous` are for another keeper, should this worker's die.
    """

    config: ServeConfig
    handler: Handler
    model: Model
    listeners: list[socket.socket]
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
