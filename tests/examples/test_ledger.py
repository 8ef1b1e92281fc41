"""ledger.py, with nc, and with its workers killed under payments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES
from tests.harness import Server, connect, read_reply


@pytest.fixture
def bank(tmp_path: Path) -> dict[str, str]:
    """The environment of its server."""
    return {"LEDGER": str(tmp_path / "bank.db")}


def test_payments_with_nc(bank: dict[str, str], tmp_path: Path) -> None:
    target = f"{EXAMPLES / 'ledger.py'}:handle"
    with Server(tmp_path, target, "--keep", "crash", environment=bank) as server:
        lines = "open a 100\nopen b 0\nopen a 5\npay a b 30\npay a b 71\npay a c 1\npay a b -1\n"
        done = subprocess.run(
            ["nc", "-N", "127.0.0.1", str(server.port)],
            input=lines + "balance b\ntotal\nhelp\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    assert done.stdout.splitlines() == [
        "opened",
        "opened",
        "refused: there is an account 'a' already",
        "paid 70",
        "refused: 'a' has less",
        "refused: there is no account 'c'",
        "refused: an amount is a number up to 1000000000000, not '-1'",
        "30",
        "100",
        "refused: say open NAME AMOUNT, pay FROM TO AMOUNT, balance NAME or total",
    ]


def test_money_is_neither_made_nor_lost(bank: dict[str, str], tmp_path: Path) -> None:
    """Each connection is killed under a dozen times; what it is told is what was done."""
    names, kills, drawn = ("a", "b", "c"), 24, random.Random(1)
    paid = dict.fromkeys(names, 0)
    wrong: list[str] = []
    ends = threading.Event()
    options = ("--model", "fork", "--workers", "2", "--keep", "crash", "--keep-after", "0")
    target = f"{EXAMPLES / 'ledger.py'}:handle"
    with (
        Server(tmp_path, target, *options, "--poison-limit", "1000000", environment=bank) as server,
        ExitStack() as peers,
    ):
        sockets = {name: peers.enter_context(connect(server.address)) for name in names}
        for name, peer in sockets.items():
            peer.settimeout(30)
            peer.sendall(f"open {name} 1000000\n".encode())
            assert read_reply(peer) == b"opened"
        server.wait_until(lambda: server.status()["connections"]["kept"] == 3, "all kept")

        def pay(name: str, payee: str) -> None:
            try:
                while not ends.is_set():
                    sockets[name].sendall(f"pay {name} {payee} 1\n".encode())
                    reply = read_reply(sockets[name])
                    if not reply.startswith(b"paid "):
                        wrong.append(f"{name}: {reply!r}")
                        return
                    paid[name] += 1
            except (OSError, EOFError) as error:
                wrong.append(f"{name}: {error!r}")

        def have_paid(goal: int) -> bool:
            return bool(wrong) or sum(paid.values()) >= goal

        threads = [
            threading.Thread(target=pay, args=(name, names[number - 1]), daemon=True)
            for number, name in enumerate(names)
        ]
        for thread in threads:
            thread.start()
        while kills and not wrong:
            goal = sum(paid.values()) + drawn.randrange(1, 5)
            server.wait_until(partial(have_paid, goal), "payments")
            owners = sorted({each["owner"] for each in server.connections() if each["owner"]})
            if owners:
                with suppress(ProcessLookupError):
                    os.kill(drawn.choice(owners), signal.SIGKILL)
                    kills -= 1
        ends.set()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert server.status()["totals"]["lost"] == 0
        with connect(server.address) as peer:
            peer.sendall(b"total\n")
            assert read_reply(peer) == b"3000000"
            for number, name in enumerate(names):
                got = paid[names[(number + 1) % 3]]
                peer.sendall(f"balance {name}\n".encode())
                assert int(read_reply(peer)) == 1_000_000 - paid[name] + got
