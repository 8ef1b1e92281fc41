"""A real worker whose user code speaks for it: real bytes over its channel, in its memory, from its
children.  The keeper goes on, the other workers' connections too, and the server reloads and ends.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect

#: The handler has what it is to do as Python, which its client sends.
HANDLER: Final = r"""
import array, gc, os, socket, struct, sys, time
import msgspec
from socketkeep import AsyncConnection, resumable

def environment():
    from socketkeep._worker._environment import Environment
    return next(each for each in gc.get_objects() if isinstance(each, Environment))

def raw(payload, fds=(), most=1.0):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    end = time.monotonic() + most
    while time.monotonic() < end:
        try:
            return environment().channel._sock.sendmsg([payload], rights, flags)
        except BlockingIOError:
            pass

def say(*parts):
    return b"\0" + msgspec.msgpack.encode(list(parts))

def detached(number, epoch=1):
    e = environment()
    name = "%x-%x-%x" % (e.boot, e.serial, number)
    return say("Detached", name, epoch, 0, "x", None, b"", 1, 0, 0, False, 0, False, -1)

def words():
    return environment().scoreboard._words

kept = []

@resumable
async def handle(conn: AsyncConnection) -> None:
    async for line in conn.lines():
        if line.startswith(b"do "):
            exec(msgspec.json.decode(line[3:]), globals(), {"conn": conn})
        await conn.send(b"%d\n" % os.getpid())
        conn.commit()
"""

#: What the hostile code does, and whether its worker is ended for it by the keeper.
ATTACKS: Final = {
    "shortens the scoreboard": (
        """
try: os.ftruncate(environment().scoreboard_fd, 0)
except PermissionError: pass
""",
        False,
    ),
    "a pipe as memfd": ("kept.append(os.pipe()); raw(b'\\1', [kept[-1][0]])", True),
    "a sparse memfd": (
        "f = os.memfd_create('x'); os.ftruncate(f, 2 << 30); raw(b'\\1', [f])",
        True,
    ),
    "the highest epoch": ("raw(detached(7, 2**64 - 1), [conn.fileno()])", True),
    "250 descriptors": (
        """
n = os.open('/dev/null', 0)
for i in range(40): raw(say('Keep', '1-1-%x' % i, 1, 10**9, 0, 'x'), [n] * 250, 0.1)
""",
        True,
    ),
    "no sockets": (
        """
n = os.open('/dev/null', 0)
for i in range(200): raw(detached(900 + i), [n], 0.1)
""",
        True,
    ),
    "a full pipe for the answer": (
        """
r, w = os.pipe(); os.set_blocking(w, False)
try:
    while True: os.write(w, b'x' * 4096)
except BlockingIOError: os.set_blocking(w, True)
kept.append((r, w)); raw(detached(99), [conn.fileno(), w])
""",
        True,
    ),
    "an empty packet": ("raw(b'')", True),
    "closes its channel": ("environment().channel._sock.shutdown(socket.SHUT_RDWR)", True),
    "garbage, and death": (
        "m = environment().scoreboard._map; m[:40000] = os.urandom(40000); os._exit(9)",
        False,
    ),
    "the template's pid, and death": (
        "w = environment().scoreboard.record(0); w[3] = {template}; os._exit(9)",
        False,
    ),
    "a flood from its children": (
        """
for _ in range(2):
    if os.fork() == 0:
        e = time.monotonic() + 1
        while time.monotonic() < e: raw(b'\\0' + b'\\xc1' * 9, most=0.1)
        os._exit(0)
""",
        True,
    ),
}


class Client:
    """Says a line, and hears the pid of who serves it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")

    def ask(self, line: bytes = b"x") -> int:
        self._sock.sendall(line + b"\n")
        return int(self._file.readline())

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def do(self, code: str) -> None:
        """Have its worker do that; there may be no answer any more."""
        self._sock.sendall(b"do " + json.dumps(code).encode() + b"\n")


@contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    made: list[Client] = []
    try:
        for _ in range(count):
            sock = connect(server.address)
            sock.settimeout(10.0)
            made.append(Client(sock))
        yield made
    finally:
        for client in made:
            client.close()


@contextmanager
def serving(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "hostile.py").write_text(HANDLER)
    options = ("--keep", "crash", "--keep-after", "0", "-k", "async", "-w", "3")
    with Server(tmp_path, "hostile.py:handle", *options) as server:
        yield server


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def all_are_ready(server: Server) -> bool:
    return [each["state"] for each in server.workers()] == ["ready"] * 3


def refused(server: Server) -> int:
    count = server.status()["totals"]["refused_messages"]
    assert isinstance(count, int)
    return count


def require_order(server: Server, others: list[tuple[Client, int]]) -> None:
    """The keeper answers at once, and the others' connections are where they were."""
    server.ask("status", timeout=5.0)
    for client, pid in others:
        assert client.ask() == pid


@pytest.mark.parametrize("name", ATTACKS)
def test_what_one_worker_does_reaches_no_other(server: Server, name: str) -> None:
    code, ended = ATTACKS[name]
    template = next(p for p, text in server.processes().items() if "template" in text)
    since = server.mark()
    server.wait_until(lambda: all_are_ready(server), "three workers")
    before, count = (descriptors(server.pid), resident(server.pid)), refused(server)
    with clients(server, 12) as all_of_them:
        served = [(client, client.ask()) for client in all_of_them]
        hostile, victim = served[0]
        others = [each for each in served if each[1] != victim]
        hostile.do(code.replace("{template}", str(template)))
        if name != "shortens the scoreboard":
            server.wait_event("worker exited", since=since, pid=victim)
            assert (refused(server) > count) is ended
        else:
            assert hostile.ask() == victim
        require_order(server, others)
        pids = {each["pid"] for each in server.workers()}
        assert {pid for _, pid in others} <= pids
        assert template in server.processes()
    server.wait_until(lambda: all_are_ready(server), "a worker in its place")
    server.wait_until(lambda: descriptors(server.pid) <= before[0] + 2, "descriptors closed")
    assert resident(server.pid) < before[1] + 32 * 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all of the attacks; it is reloaded after them, and ends as any."""
    with serving(tmp_path_factory.mktemp("hostile")) as server:
        yield server
        with clients(server, 6) as served:
            before = {client.ask() for client in served}
            server.reload()
            server.wait_until(lambda: not before & {c.ask() for c in served}, "all have moved")


#: Run in the worker: bytes at random over the channel, and words at random in the scoreboard.
_FUZZ: Final = r"""
import random
assert os.getpid() == {pid}, 'the worker that was asked has died, and this is another'
rng = random.Random({seed!r})
tags = ['Ready', 'StartFailed', 'Detached', 'Attached', 'Refused', 'Keep', 'Ended', 'Orphaned',
        'Free', 'Began', 'Seats', 'Forked', 'Stranded', 'Later']
numbers = [-2**63, -1, 0, 1, 2, 65536, 2**32, 2**32 + 1, 2**63, 2**64 - 1]
def value():
    number, data = rng.choice(numbers), rng.randbytes(65537)
    return rng.choice([number, None, True, 'x', '1-1-1', data, [], 1.5])
e = environment()
name = '%x-%x-%x' % (e.boot, e.serial, rng.randrange(1, 99))
for _ in range({count}):
    for _ in range(rng.randrange(3)):
        words()[rng.randrange(32 + 24 * 8)] = rng.choice([rng.getrandbits(64), *numbers]) % 2**64
    fields = [name, 1, 0, 'x', None, b'', 1, 0, 0, False, 0, False, -1][:rng.randrange(14)]
    for _ in range(rng.choice([0, 1, 1, 2])):
        if fields:
            fields[rng.randrange(len(fields))] = value()
    payload = say(rng.choice(tags), *fields)
    if rng.random() < 0.2:
        payload = payload[:rng.randrange(len(payload) + 1)]
    made = []
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        kind = rng.randrange(5)
        made += ([os.dup(conn.fileno())] if kind < 2 else [os.open('/dev/null', 0)] if kind == 2
                 else list(os.pipe()) if kind == 3 else [os.eventfd(0)])
    raw(payload[:32769], made, 0.1)
    for fd in made:
        os.close(fd)
"""


def test_fuzz(tmp_path: Path) -> None:
    """Longer, or again: FUZZ_SECONDS and FUZZ_SEED."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "24")) / 4
    seed = os.environ["FUZZ_SEED"]
    with serving(tmp_path) as server, clients(server, 12) as all_of_them:
        served = [(client, client.ask()) for client in all_of_them]
        hostile = {served[0][1]}
        others = [each for each in served if each[1] not in hostile]
        before = descriptors(server.pid), resident(server.pid)
        end = time.monotonic() + seconds
        rounds = 0
        while time.monotonic() < end:
            rounds += 1
            with clients(server, 8) as new:
                for client in new:
                    try:
                        pid = client.ask()
                    except (OSError, ValueError):
                        continue  # its worker has been ended meanwhile
                    if pid not in {pid for _, pid in others}:
                        client.do(_FUZZ.format(seed=f"{seed} {rounds}", count=50, pid=pid))
                        break
                require_order(server, others)
            assert descriptors(server.pid) < before[0] + 200
        assert refused(server) > 0
        assert not server.find("internal error, please report it")
        server.wait_until(lambda: all_are_ready(server), "three workers", timeout=60.0)
        server.reload()
        for client, _ in others:
            client.ask()
        assert resident(server.pid) < before[1] + 32 * 1024 * 1024
