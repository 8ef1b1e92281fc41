"""What the keepers of a real server have seen, against the transitions of the model."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

from tests.guard.support import GuardedServer
from tests.harness import connect, read_reply, write_handler
from tests.model.checking import Event, Model

_ROOT: Final = Path(__file__).parents[2]


class RecordedServer(GuardedServer):
    """One whose keepers write down what they see."""

    def __init__(self, directory: Path, seen: Path, target: str, *options: str) -> None:
        super().__init__(directory, target, *options)
        self._environment["PYTHONPATH"] = str(_ROOT)
        self._command[1:3] = ["-m", "tests.model.recorded", str(seen)]


def events(lines: list[str]) -> list[Event]:
    """Return what concerns the one connection that there is, workers numbered as they come."""
    workers: dict[str, int] = {}
    found = []
    for what, pid, connection, epoch in map(str.split, lines):
        if connection != "-":
            workers.setdefault(pid, len(workers))
        if what == "Began" or pid in workers:
            found.append(Event(what, workers.get(pid, 0), int(epoch)))
    return found[1:]  # the first keeper has begun


def test_what_a_server_does_the_model_allows(tmp_path: Path) -> None:
    """Through a reload, parking, and the death of a worker, the keeper, and all at once."""
    target, seen = write_handler(tmp_path, "v0", is_async=True), tmp_path / "seen"
    options = ("-k", "async", "-w", "1", "--keep", "crash", "--keep-after", "0")
    with RecordedServer(tmp_path, seen, target, *options, "--park-after", "0.3") as server:
        with connect(server.address) as peer:

            def asks(count: int) -> None:
                peer.sendall(b"x\n")
                assert read_reply(peer) == b"%d x v0" % count

            def rests() -> None:
                server.wait_until(lambda: server.status()["connections"]["parked"] == 1, "parked")

            asks(1)
            rests()
            asks(2)
            server.wait_clean()
            (serving,) = server.connections()
            if serving["owner"]:
                os.kill(serving["owner"], signal.SIGKILL)
            asks(3)
            server.reload()
            asks(4)
            server.kill_keeper()
            asks(5)
            server.kill_all_but_guard()
            asks(6)
        server.wait_until(lambda: not server.connections(), "ended")
    lines = seen.read_text().splitlines()
    seen_events = events(lines)
    assert {"Parks", "Attach", "Attached", "Began"} <= {event.what for event in seen_events}
    keepers = 1 + sum(event.what == "Began" for event in seen_events)
    model = Model(
        tmp_path,
        TRACE=1,
        WORKERS=6,
        KEEPERS=keepers,
        WORKER_DEATHS=6,
        GUARD_DEATHS=0,
        LAST_EPOCH=99,
    )
    assert model.allows(seen_events) == len(seen_events), seen_events
    twice = next(n for n, event in enumerate(seen_events) if event.what == "Attach")
    wrong = [*seen_events[: twice + 1], seen_events[twice]]
    assert model.allows(wrong) == len(wrong) - 1, "it is given away once"
