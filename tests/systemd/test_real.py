"""The unit of ``contrib/systemd``, started, killed, reloaded, upgraded and stopped by systemd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.harness import connect, read_reply, write_source
from tests.harness.control import ask as ask_control
from tests.systemd.real import RealManager
from tests.systemd.test_units import SERVICE

UNIT: Final = "socketkeep@shop"
_HANDLER: Final = """
from socketkeep import resumable

@resumable
def handle(conn):
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.send(b"%d %s %s\\n" % (count, line, conn.attached.encode()))
        conn.commit(count)
"""


def _in_async(source: str) -> str:
    return (
        source.replace("def handle", "async def handle")
        .replace("for line", "async for line")
        .replace("conn.send", "await conn.send")
    )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[RealManager]:
    """A systemd."""
    if RealManager.missing():
        pytest.skip(RealManager.missing())
    with RealManager(tmp_path) as running:
        yield running


def install(manager: RealManager, directory: Path, model: str) -> Path:
    """Install the unit for a server of `model`; return the path of its control socket."""
    handler = _in_async(_HANDLER) if model == "async" else _HANDLER
    target = write_source(directory, handler)
    (directory / "shop.toml").write_text(
        f'target = "{target}"\nbind = ["127.0.0.1:0"]\nmodel = "{model}"\nworkers = 4\n'
        'keep = "crash"\nkeep_after = 0\npark_after = "off"\n'
    )
    command = shutil.which("socketkeep", path=str(Path(sys.executable).parent))
    assert command is not None
    text = SERVICE.read_text().replace("/usr/bin/socketkeep", command)
    text = text.replace("/etc/socketkeep", str(directory))
    # Users have no other users' accounts, and not every limit.
    text = text.replace("User=socketkeep\n", "").replace("LimitNOFILE=65536\n", "")
    # The tests' own files are there, and the Python that runs them may be.
    text = text.replace("PrivateTmp=yes\n", "").replace("ProtectHome=yes", "ProtectHome=read-only")
    (manager.units / SERVICE.name).write_text(text)
    assert manager.ctl("daemon-reload") == (0, "")
    return manager.runtime / "socketkeep" / "shop.sock"


@pytest.mark.parametrize("model", ["fork", "async"])
@pytest.mark.timeout(120)
def test_a_life_of_the_unit(manager: RealManager, tmp_path: Path, model: str) -> None:
    """Connections outlive kills of the keeper, a reload and an upgrade, and end at the stop."""
    control = install(manager, tmp_path, model)
    assert manager.ctl("start", UNIT) == (0, "")
    (listener,) = ask_control(control, "listeners", 30.0)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(listener["address"])) for _ in range(3)]
        ask_all(clients, b"1 x accepted")
        for worker in ask_control(control, "workers", 30.0):
            status = Path(f"/proc/{worker['pid']}/status").read_text()
            assert "CapBnd:\t0000000000000000\n" in status
            assert "NoNewPrivs:\t1\n" in status
            assert "Seccomp:\t2\n" in status
        for number in (2, 3):
            # The settings, one listener, four scoreboards, three connections.
            manager.wait(UNIT, "NFileDescriptorStore", "9")
            os.kill(int(manager.show(UNIT, "MainPID")), signal.SIGKILL)
            manager.wait(UNIT, "NRestarts", str(number - 1))
            manager.wait(UNIT, "ActiveState", "active")
            ask_all(clients, b"%d x crash" % number)
        assert manager.ctl("reload", UNIT) == (0, "")
        ask_all(clients, b"4 x reload")
        assert manager.ctl("kill", "--kill-who=main", "--signal=USR2", UNIT) == (0, "")
        manager.wait(UNIT, "StatusText", "running: generation 3, 4 workers, 3 connections")
        ask_all(clients, b"5 x upgrade")
        assert manager.ctl("stop", UNIT) == (0, "")
        assert [client.recv(1) for client in clients] == [b""] * 3
    assert manager.show(UNIT, "Result") == "success"
    assert manager.show(UNIT, "NFileDescriptorStore") == "0"


def ask_all(clients: list[socket.socket], wanted: bytes) -> None:
    for client in clients:
        client.sendall(b"x\n")
    assert [read_reply(client) for client in clients] == [wanted] * len(clients)
