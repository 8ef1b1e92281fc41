"""More clients than seats, all of whom go on asking: each is served its share."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server
from tests.harness.peers import parse_address

SEATS: Final = 4
CLIENTS: Final = 28
#: Replies to each client, on average, until they are counted.
ROUNDS: Final = 12

# It takes its time, so that there is always somebody who waits for a seat.
HANDLER: Final = """
import time
from socketkeep import resumable
@resumable
def handle(conn):
    for line in conn.lines(commit=True):
        time.sleep(0.02)
        conn.send(line + b"\\n")
"""

ROOM: Final = {
    "prefork": ("-w", str(SEATS)),
    "thread": ("-w", "1", "--threads", str(SEATS)),
}


@dataclass
class Crowd:
    """Clients that ask, think for 5 ms, and ask again.

    leave: every so many of them ask on a new connection each time; 0: none.
    """

    address: str
    clients: int
    leave: int = 0
    counts: Counter[int] = field(default_factory=Counter)

    async def ask_on(self, number: int) -> None:
        """Ask as one of the clients, until cancelled."""
        _, place = parse_address(self.address)
        leaves = self.leave and number % self.leave == 0
        while True:
            reader, writer = await asyncio.open_connection(*place)
            try:
                while True:
                    writer.write(b"?\n")
                    assert await reader.readline() == b"?\n"
                    self.counts[number] += 1
                    await asyncio.sleep(0.005)  # a client's thinking, for which it leaves the line
                    if leaves:
                        break
            finally:
                writer.close()


async def ask(*crowds: Crowd, until: int) -> None:
    """Have all of them ask until they have had so many replies together."""
    clients = {
        asyncio.ensure_future(crowd.ask_on(number))
        for crowd in crowds
        for number in range(crowd.clients)
    }
    try:
        async with asyncio.timeout(60):
            while sum(crowd.counts.total() for crowd in crowds) < until:
                done, _ = await asyncio.wait(clients, timeout=0.05)
                for failed in done:
                    failed.result()
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


@pytest.mark.parametrize("model", ["prefork", "thread"])
def test_each_client_is_served_its_share(model: str, tmp_path: Path) -> None:
    """Who has just been served does not come before those who never were.

    In the second part half of them come as new connections each time, and wait in the kernel's
    queue; the others keep theirs, and wait in the keeper.  By the policy nobody has less than half
    of what is fair; three quarters of that are asked for here.
    """
    (tmp_path / "app.py").write_text(HANDLER)
    with Server(tmp_path, "app.py:handle", "-k", model, *ROOM[model]) as server:
        for leave in (0, 2):
            crowd = Crowd(server.address, CLIENTS, leave)
            asyncio.run(ask(crowd, until=ROUNDS * CLIENTS))
            counts = [crowd.counts[number] for number in range(CLIENTS)]
            assert min(counts) >= ROUNDS * 3 / 8, (leave, counts)
        assert server.status()["totals"]["lost"] == 0


def test_each_listener_is_served_its_share(tmp_path: Path) -> None:
    """The clients of one address do not keep those of another waiting."""
    (tmp_path / "app.py").write_text(HANDLER)
    options = ("-k", "thread", "-w", "1", "--threads", "1", "--park-after", "off")
    bind = ["127.0.0.1:0", "127.0.0.2:0"]
    with Server(tmp_path, "app.py:handle", *options, bind=bind) as server:
        crowds = [Crowd(address, 8, leave=1) for address in server.addresses]
        asyncio.run(ask(*crowds, until=40))
        assert min(crowd.counts.total() for crowd in crowds) >= 10, crowds
