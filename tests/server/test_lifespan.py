"""`Service`: what each worker sets up before it is ready, and takes down at its end."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_source

_SERVICE = """
import os
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from socketkeep import Service, resumable

HERE = Path(__file__).parent
GENERATION = HERE.joinpath("generation").read_text()
pool = None

def note(what):
    with open(HERE / "journal", "a") as file:
        file.write(f"{what} {GENERATION} {os.getpid()}\\n")

@contextmanager
def lifespan():
    global pool
    note("enter")
    pool = f"pool of {os.getpid()}"
    try:
        yield
    finally:
        note("leave")

@asynccontextmanager
async def lifespan_async():
    with lifespan():
        yield

@resumable
def handle(conn):
    for line in conn.lines(commit=True):
        conn.send(f"{pool} {GENERATION}\\n".encode())

@resumable
async def handle_async(conn):
    async for line in conn.lines(commit=True):
        await conn.send(f"{pool} {GENERATION}\\n".encode())

note("import")
sync = Service(handle, lifespan=lifespan)
of_async = Service(handle_async, lifespan=lifespan_async)
sync_of_async = Service(handle_async, lifespan=lifespan)

@contextmanager
def fails_at_its_end():
    yield
    raise LookupError("the pool was gone")

failing = Service(handle, lifespan=fails_at_its_end)

@asynccontextmanager
async def fails_at_its_end_async():
    yield
    raise LookupError("the pool was gone")

failing_async = Service(handle_async, lifespan=fails_at_its_end_async)
"""


def _write(directory: Path, generation: int) -> str:
    (directory / "generation").write_text(str(generation))
    return write_source(directory, _SERVICE).rpartition(":")[0]


def _journal(directory: Path) -> list[tuple[str, int, int]]:
    lines = (directory / "journal").read_text().splitlines()
    return [(what, int(number), int(pid)) for what, number, pid in map(str.split, lines)]


@pytest.mark.parametrize(
    ("service", "model"),
    [
        ("sync", "fork"),
        ("sync", "prefork"),
        ("sync", "thread"),
        ("of_async", "async"),
        ("sync_of_async", "async"),
    ],
)
def test_lifespan(tmp_path: Path, service: str, model: str) -> None:
    """Entered once in each worker, before it is ready; left once, when it ends."""
    place = _write(tmp_path, 1)
    with Server(tmp_path, f"{place}:{service}", "-k", model, "-w", "2") as server:
        first = {worker["pid"] for worker in server.workers()}
        with connect(server.address) as peer:
            peer.sendall(b"\n")
            words = read_reply(peer).split()
            assert words[:2] == [b"pool", b"of"]
            assert int(words[2]) in first
            _write(tmp_path, 2)
            server.reload()
            second = {worker["pid"] for worker in server.workers() if worker["generation"] == 2}
            server.wait_until(lambda: len(server.workers()) == 2, "the first workers gone")
            peer.sendall(b"\n")
            words = read_reply(peer).split()
            assert int(words[2]) in second
            assert words[3] == b"2"
        assert server.cli("stop").exit_code == 0
        assert server.wait_exit() == 0
    seen = Counter(_journal(tmp_path))
    assert seen == Counter(
        [(what, 1, pid) for what in ("enter", "leave") for pid in first]
        + [(what, 2, pid) for what in ("enter", "leave") for pid in second]
        + [event for event in seen if event[0] == "import"]
    )
    # Once a generation, in its template alone.
    imports = [(number, pid) for what, number, pid in seen if what == "import"]
    assert sorted(number for number, _ in imports) == [1, 2]
    assert not {pid for _, pid in imports} & (first | second | {server.pid})
    # The reload left the first workers only after the second were there.
    order = [(what, number) for what, number, _ in _journal(tmp_path)]
    assert order.index(("leave", 1)) > max(
        place for place, event in enumerate(order) if event == ("enter", 2)
    )


def test_not_ready_before_the_lifespan_is_entered(tmp_path: Path) -> None:
    """Nothing is accepted before, nor said to be: the connection waits, and is then served."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    target = write_source(
        tmp_path,
        "from contextlib import contextmanager\n"
        "from socketkeep import Service\n"
        "@contextmanager\n"
        "def lifespan():\n"
        f"    open({str(gate)!r}).close()\n"  # until somebody opens the other end
        "    yield\n"
        "def answer(conn):\n"
        "    conn.send(b'here\\n')\n"
        "handle = Service(answer, lifespan=lifespan)\n",
    )
    address = f"unix:{tmp_path}/listener"
    with Server(tmp_path, target, "-w", "1", bind=[address], wait_ready=False) as server:
        server.wait_event("control")
        with connect(address) as peer:
            server.wait_until(
                lambda: server.status()["workers"] == {"starting": 1, "ready": 0, "draining": 0},
                "the worker in its lifespan",
            )
            assert server.status()["state"] == "starting"
            assert server.status()["listeners"][0]["queued"] == 1
            assert not server.find("listening")
            with gate.open("w"):
                pass
            assert read_reply(peer) == b"here"
            server.wait_event("ready")
            assert server.addresses == [address]


@pytest.mark.parametrize(("service", "model"), [("failing", "thread"), ("failing_async", "async")])
def test_lifespan_that_fails_at_its_end(tmp_path: Path, service: str, model: str) -> None:
    """It is told with the user's traceback; a stop is a stop all the same."""
    place = _write(tmp_path, 1)
    with Server(tmp_path, f"{place}:{service}", "-k", model, "-w", "1") as server:
        assert server.cli("stop").exit_code == 0
        assert server.wait_exit() == 0
    text = "\n".join(server.stderr)
    assert "LookupError: the pool was gone" in text
    assert f"{os.sep}socketkeep{os.sep}_" not in text, text
