"""`python -m tests.model.recorded FILE ARGUMENT...`: `socketkeep`, what its keepers see in a file.

A line for each event of a connection, as `tests/model/ownership.pml` names it: the event, the pid
of the worker, the connection and the epoch.  Each keeper that the guard starts adds to the file.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from socketkeep._keeper.connections._connections import Connections
from socketkeep._keeper.connections._moves import Moves
from socketkeep._keeper.connections._restoring import Stored
from tests.wire.sending import decoded


def record(write: Callable[[str], object]) -> None:
    """Have what this process does as a keeper written, for as long as it lives."""

    def before(kind: type, name: str, note: Callable[..., object]) -> None:
        method = getattr(kind, name)

        def noted(*arguments: Any, **more: Any) -> Any:
            note(*arguments)
            return method(*arguments, **more)

        patch.object(kind, name, noted).start()

    def say(event: str, worker: Any, connection: str, epoch: int) -> None:
        write(f"{event} {worker.pid} {connection} {epoch}")

    def taken(_: Any, worker: Any, packet: Any, handoff: Any) -> None:
        if handoff is not None and not packet.truncated:
            say("Parks" if handoff.parked else "Detached", worker, handoff.id, handoff.epoch)

    def ended(_: Any, worker: Any, message: Any) -> None:
        for connection, epoch in message.connections:
            say("Ended", worker, connection, epoch)

    def told(event: str) -> Callable[[Any, Any, Any], None]:
        return lambda _, worker, message: say(event, worker, message.id, message.epoch)

    before(Connections, "take", taken)
    before(Connections, "keep", lambda _, worker, packet, message: told("Keep")(_, worker, message))
    before(Connections, "attached", told("Attached"))
    before(Connections, "refused", told("Refused"))
    before(Connections, "ended", ended)
    before(Connections, "worker_died", lambda _, worker: say("Reaped", worker, "-", 0))
    before(Stored, "restore", lambda *_: write("Began 0 - 0"))
    take_parcel = Connections.take_parcel

    def taken_parcel(connections: Any, worker: Any, payload: bytes) -> bool:
        done = take_parcel(connections, worker, payload)
        if done:
            parcel = decoded(payload)
            say("Parks", worker, parcel.id, parcel.epoch)
        return done

    patch.object(Connections, "take_parcel", taken_parcel).start()
    give = Moves._give

    def given(moves: Moves, held: Any, worker: Any) -> bool:
        done = give(moves, held, worker)
        if done:
            say("Attach", worker, held.id, held.ownership.epoch)
        return done

    patch.object(Moves, "_give", given).start()


if __name__ == "__main__":
    with Path(sys.argv.pop(1)).open("a", buffering=1) as file:
        record(lambda line: file.write(line + "\n"))
        runpy.run_module("socketkeep", run_name="__main__", alter_sys=True)
