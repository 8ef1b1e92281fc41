"""The listeners that `adopt` has borrowed and hands to `serve`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from socketkeep._base._address import parse_bind
from socketkeep._config._listener_options import parse_listener
from socketkeep._config._server_options import ServeConfig

if TYPE_CHECKING:  # every `serve` imports this
    from socketkeep._inspect._adopting import BorrowedListener


@dataclass(frozen=True, slots=True)
class Adopted:
    """Listeners of another server, which was asked for by its `address`; none is nothing."""

    address: str = ""
    listeners: Sequence[BorrowedListener] = ()

    def bound(self, config: ServeConfig) -> ServeConfig:
        """Return the configuration that has the addresses of the listeners too, each once.

        So what is served can be the command line of every later start, its --bind included.  What
        options it has for the listeners are theirs.
        """
        if not self.listeners:
            return config
        texts = [listener.address for listener in self.listeners]
        same = {self.address, *texts}
        options, more = "", []
        for each in config.bind:
            address = parse_listener(each).address
            if str(parse_bind(address)) in same:
                options = each.removeprefix(address)
            else:
                more.append(each)
        return msgspec.structs.replace(config, bind=[*(text + options for text in texts), *more])

    def take(self) -> list[tuple[str, socket.socket]]:
        """Return the sockets, each with the address that it is bound by in the configuration."""
        return [(listener.address, listener.sock) for listener in self.listeners]
