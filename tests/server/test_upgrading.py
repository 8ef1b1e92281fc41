"""Upgrades to other versions of the package, good and bad, and what comes in the middle of one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import (
    Server,
    Versions,
    connect,
    read_reply,
    read_to_end,
    write_handler,
    write_source,
)
from tests.harness.versions import PACKAGE


def _format() -> int:
    """Return the format in which this version writes a keeper's tables."""
    source = (PACKAGE / "_keeper/tables/_state.py").read_text()
    (said,) = re.findall(r"^FORMAT: Final = (\d+)$", source, re.MULTILINE)
    return int(said)


FORMAT: Final = _format()


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """Two versions, 1.0 and 2.0, of which the first is installed."""
    made = Versions(tmp_path / "versions")
    made.directory.mkdir()
    made.add("1.0")
    made.add("2.0")
    made.install("1.0")
    return made


@pytest.fixture
def server(versions: Versions, tmp_path: Path) -> Iterator[Server]:
    """A server of two async workers that was started from version 1.0."""
    target = write_handler(tmp_path, "v0", is_async=True)
    made = Server(
        tmp_path,
        target,
        *("-w", "2"),
        environment={"PYTHONPATH": versions.path},
    )
    with made:
        assert made.status()["version"] == "1.0"
        yield made


def edit(path: Path, old: str, new: str) -> None:
    """Replace the one place where `old` stands in the file."""
    source = path.read_text()
    assert source.count(old) == 1, (path, old)
    path.write_text(source.replace(old, new))


def ask(peer: socket.socket, text: str) -> str:
    """Send a line; return the reply."""
    peer.sendall(f"{text}\n".encode())
    return read_reply(peer).decode()


def test_to_a_version_with_added_fields_and_back(server: Server, versions: Versions) -> None:
    """A connection goes through both; workers of either version talk to keepers of either."""
    messages = versions.package("2.0") / "_wire" / "_messages.py"
    source = messages.read_text()
    for kind in ("Load", "Loaded", "Ready", "Seats", "Detached", "Acknowledged", "Attach"):
        end = source.index("\n\n\n", source.index(f', tag="{kind}"'))
        source = source[:end] + '\n    added: str = "by 2.0"' + source[end:]
    messages.write_text(source)
    edit(
        versions.package("2.0") / "_keeper" / "tables" / "_state.py",
        "    watcher: int = 0\n",
        '    watcher: int = 0\n    added: str = "by 2.0"\n',
    )
    with connect(server.address) as peer:
        assert ask(peer, "a") == "1 a v0"
        for number, version in enumerate(("2.0", "1.0", "2.0"), 2):
            versions.install(version)
            done = server.cli("upgrade", "--json")
            assert done.exit_code == 0, done
            assert json.loads(done.stdout) == {
                "generation": number,
                "version": version,
                "changed": [],
                "restart": [],
            }
            status = server.status()
            assert (status["version"], status["pid"]) == (version, server.pid)
            assert ask(peer, "b") == f"{number} b v0"
        assert status["totals"]["upgrades"] == 3


def test_by_signal(server: Server, versions: Versions) -> None:
    versions.install("2.0")
    os.kill(server.pid, signal.SIGUSR2)
    server.wait_event("reload done")
    assert server.status()["version"] == "2.0"
    # Each listener's file is still this server's to remove.
    assert server.cli("stop").exit_code == 0
    assert not server.control.exists()


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_keeper/loop/_closer.py", "def (:\n", "SyntaxError"),
        ("_worker/_thread.py", "def (:\n", "SyntaxError"),
        ("_cli/demo.py", "def (:\n", "SyntaxError"),
        ("__init__.py", "raise RuntimeError('not today')\n", "RuntimeError: not today"),
        (
            "_worker/_fork.py",
            "import a_package_that_is_missing\n",
            "ModuleNotFoundError: No module named 'a_package_that_is_missing'",
        ),
        (
            "_keeper/tables/_state.py",
            f"OLDEST_READ = FORMAT = {FORMAT + 1}\n",
            f"in format {FORMAT}, and this version reads {FORMAT + 1}",
        ),
    ],
)
def test_a_version_that_cannot_take_over(
    server: Server, versions: Versions, module: str, source: str, complaint: str
) -> None:
    """It is refused in a line that says why, and nothing has changed."""
    with (versions.package("2.0") / module).open("a") as file:
        file.write(source)
    with connect(server.address) as peer:
        assert ask(peer, "a") == "1 a v0"
        workers = server.workers()
        versions.install("2.0")
        done = server.cli("upgrade")
        assert done.exit_code == 1
        assert done.stderr.splitlines()[1].startswith(
            "socketkeep: error: the new version cannot take over: "
        )
        assert complaint in done.stderr.splitlines()[1]
        status = server.status()
        assert (status["version"], status["generation"], status["state"]) == ("1.0", 1, "running")
        assert [each["pid"] for each in server.workers()] == [each["pid"] for each in workers]
        assert ask(peer, "b") == "2 b v0"
    server.wait_event("upgrade refused")


def test_when_the_reload_fails_the_old_workers_serve_on(server: Server, versions: Versions) -> None:
    with connect(server.address) as peer:
        assert ask(peer, "a") == "1 a v0"
        write_source(server.directory, "raise RuntimeError('not today')\n")
        versions.install("2.0")
        done = server.cli("upgrade")
        assert done.exit_code == 4
        assert (
            "the keeper is upgraded to 2.0, but its workers are not, and serve on:" in done.stderr
        )
        assert "RuntimeError: not today" in done.stderr
        assert ask(peer, "b") == "2 b v0"
        status = server.status()
        assert (status["version"], status["generation"]) == ("2.0", 1)
        write_handler(server.directory, "v1", is_async=True)
        server.reload()
        assert ask(peer, "c") == "3 c v1"


class InTheMiddle:
    """An upgrade to 2.0 that stays between the end of the old keeper and the begin of the new."""

    def __init__(self, server: Server, versions: Versions) -> None:
        self._paused = versions.directory / "paused"
        self._go = versions.directory / "go"
        edit(
            versions.package("2.0") / "_admin" / "_successor.py",
            "import sys\n",
            f"""import sys
import time

if "--check" not in sys.argv:
    os.close(os.open({str(self._paused)!r}, os.O_CREAT))
    while not os.path.exists({str(self._go)!r}):
        time.sleep(0.01)
""",
        )
        versions.install("2.0")
        os.kill(server.pid, signal.SIGUSR2)
        server.wait_until(self._paused.exists, "the new version begins")

    def go_on(self) -> None:
        self._go.touch()


def test_a_term_in_the_middle_stops_the_server_after_it(server: Server, versions: Versions) -> None:
    with connect(server.address) as peer:
        assert ask(peer, "a") == "1 a v0"
        middle = InTheMiddle(server, versions)
        os.kill(server.pid, signal.SIGTERM)
        assert ask(peer, "b") == "2 b v0", "workers serve on meanwhile"
        middle.go_on()
        server.wait_event("upgraded")
        server.wait_event("stopped")
        assert read_to_end(peer) == b""
    assert server.wait_exit() == 0


def test_a_worker_that_dies_in_the_middle_is_replaced(server: Server, versions: Versions) -> None:
    with connect(server.address) as peer:
        assert ask(peer, "a") == "1 a v0"
        (owner,) = (each["pid"] for each in server.workers() if each["connections"])
        (other,) = (each["pid"] for each in server.workers() if each["pid"] != owner)
        middle = InTheMiddle(server, versions)
        os.kill(other, signal.SIGKILL)
        middle.go_on()
        died = server.wait_event("worker exited", pid=other)
        assert died["status"] == "killed by SIGKILL"
        server.wait_event("reload done")
        assert ask(peer, "b") == "2 b v0"
        assert server.status()["totals"]["worker_deaths"] == 1


def test_commands_in_the_middle_are_answered_after_it(server: Server, versions: Versions) -> None:
    """A reload is the one that follows, for who had connected before as well."""
    with (
        socket.socket(socket.AF_UNIX) as early,
        socket.socket(socket.AF_UNIX) as late,
    ):
        early.connect(str(server.control))
        server.status()  # so it has been accepted
        middle = InTheMiddle(server, versions)
        late.connect(str(server.control))
        for client in (early, late):
            client.settimeout(20)
            client.sendall(b'{"command": "status"}\n')
        middle.go_on()
        for client in (early, late):
            done = json.loads(read_to_end(client))
            assert done["result"]["version"] == "2.0"


def test_files_are_watched_on(versions: Versions, tmp_path: Path) -> None:
    target = write_handler(tmp_path, "v0", is_async=True)
    environment = {"PYTHONPATH": versions.path}
    with Server(tmp_path, target, "--reload", environment=environment) as server:
        server.wait_event("watching")
        mark = server.mark()
        assert server.cli("upgrade").exit_code == 0
        server.wait_event("watching", since=mark)
        mark = server.mark()
        write_handler(tmp_path, "v1", is_async=True)
        server.wait_event("changed", since=mark)
        server.wait_event("reload done", since=mark)
        with connect(server.address) as peer:
            assert ask(peer, "a") == "1 a v1"
