"""A short life of a real server, recorded as a trace.

`python -m tests.keeper.recording` records one for each model anew, into ``tests/data/traces``.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.harness.configuration import MODELS, Model
from tests.harness.handlers import write_source
from tests.harness.peers import connect
from tests.harness.server import Server
from tests.keeper.traces import DATA

_ROOT: Final = Path(__file__).parent.parent.parent

_HANDLER: Final = """
from socketkeep import AsyncConnection, Connection, resumable

@resumable
{define} handle(conn: {connection}) -> None:
    count = conn.state or 0
    {each} line in conn.lines():
        count += 1
        if line == b"park":
            conn.commit(count)
            {wait}conn.park()
        {wait}conn.send(b"%d\\n" % count)
        conn.commit(count)
"""

_HEAD: Final = """\
# Packets between the keeper of a server of the model `{model}` and its processes, as they were:
# recorded by `python -m tests.keeper.recording`, read by tests/keeper/test_traces.py.
"""


class TracedServer(Server):
    """A server whose keeper writes a trace to a file."""

    def __init__(self, directory: Path, trace: Path, target: str, *options: str) -> None:
        self._trace = trace
        bind = [f"unix:{directory}/listener.sock", "127.0.0.1:0"]  # as a bench has them
        super().__init__(
            directory, target, *options, bind=bind, environment={"PYTHONPATH": str(_ROOT)}
        )
        self._command[1:3] = ["-m", "tests.keeper.traced", str(trace)]

    def act(self, action: str) -> None:
        """Note what is done now."""
        with self._trace.open("a") as file:
            file.write(f"! {action}\n")

    def wait_packets(self, kind: str, count: int) -> None:
        """Wait until the keeper has received so many packets of a kind."""
        what = f"{count} of {kind}"
        self.wait_until(lambda: self._trace.read_text().count(f": {kind}") >= count, what)


def record(directory: Path, model: Model) -> list[str]:
    """Have a server live, and return the lines of its trace.

    It starts; a peer connects, is parked and wakes twice, moves at a reload and after the death of
    the process that serves it, and ends; the server stops.
    """
    trace = directory / "trace"
    trace.write_text("! start\n")
    is_async = model == "async"
    source = _HANDLER.format(
        define="async def" if is_async else "def",
        connection="AsyncConnection" if is_async else "Connection",
        each="async for" if is_async else "for",
        wait="await " if is_async else "",
    )
    target = write_source(directory, source)
    options = ("--model", model, "--workers", "1", "--keep", "crash", "--keep-after", "0s")
    with ExitStack() as stack:
        server = stack.enter_context(
            TracedServer(directory, trace, target, *options, "--park-after", "off")
        )
        server.act("connect")
        peer = stack.enter_context(connect(server.addresses[1]))
        answers = stack.enter_context(peer.makefile("rb"))

        def asks(count: int) -> None:
            peer.sendall(b"more\n")
            assert answers.readline() == b"%d\n" % count

        def parks(count: int) -> None:
            peer.sendall(b"park\n")
            server.wait_packets("Detached parked=true", count)
            server.wait_until(lambda: server.status()["connections"]["parked"] == 1, "parked")

        asks(1)
        server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "kept")
        server.act("park")
        parks(1)
        server.act("wake")
        asks(3)
        server.act("park")
        parks(2)
        server.act("wake")
        asks(5)
        server.act("reload")
        server.reload()
        asks(6)
        server.wait_packets("Attached", 1)
        server.act("kill")
        # An answer is out before its commit is made.
        server.wait_clean()
        (connection,) = server.connections()
        os.kill(connection["owner"], signal.SIGKILL)
        server.wait_packets("Attached", 2)
        asks(7)
        server.act("end")
        peer.shutdown(socket.SHUT_WR)
        assert answers.read() == b""
        server.wait_packets("Ended", 1)
        server.act("stop")
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
    return trace.read_text().splitlines()


def main() -> None:
    """Record a trace of each model."""
    DATA.mkdir(exist_ok=True)
    for model in MODELS:
        with tempfile.TemporaryDirectory() as directory:
            lines = record(Path(directory), model)
        (DATA / f"{model}.txt").write_text(_HEAD.format(model=model) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
