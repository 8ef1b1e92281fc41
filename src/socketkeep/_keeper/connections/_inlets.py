"""The inlets of the listeners that edges accept from, both ends, as the keeper holds them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from socketkeep._config._listener_settings import ListenerSettings
from socketkeep._keeper.tables._state import KeepOpen, SavedInlet
from socketkeep._net._listener import Listener
from socketkeep._wire._inlets import Inlet, inlet_of, inlet_pair


class Inlets:
    """The inlets that workers accept from, and the edges' ends of them, by listeners' numbers."""

    def __init__(self, pairs: Mapping[int, tuple[Inlet, socket.socket]]) -> None:
        self.doors = {number: Listener(inlet) for number, (inlet, _) in pairs.items()}
        self.outlets = {number: outlet for number, (_, outlet) in pairs.items()}

    @classmethod
    def made_for(cls, settings: Sequence[ListenerSettings]) -> Inlets:
        """Make those that are wanted.  Raises OSError."""
        return cls({number: inlet_pair() for number, said in enumerate(settings) if said.of_edges})

    @classmethod
    def restored(cls, saved: Sequence[SavedInlet]) -> Inlets:
        """Go on with those of an earlier version of the keeper."""
        return cls(
            {
                each.listener: (inlet_of(each.inlet), socket.socket(fileno=each.outlet))
                for each in saved
            }
        )

    def snapshot(self, keep: KeepOpen) -> list[SavedInlet]:
        """Return what the next version of the keeper goes on with."""
        return [
            SavedInlet(number, keep(door.fileno()), keep(self.outlets[number].fileno()))
            for number, door in self.doors.items()
        ]

    def close(self) -> None:
        """Take no more; what is in them ends."""
        for door in self.doors.values():
            door.close()
        for outlet in self.outlets.values():
            outlet.close()
