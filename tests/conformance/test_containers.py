"""A container is replaced under load: runc, the guard in a container beside it.

Both have mount and pid namespaces of their own, and one network namespace in common.  Their roots
have this machine's directories; /mnt is shared, with the guard's socket, and /media is the release.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.containers import ITS_OWN, Container, runtime_config
from tests.harness.network import Namespace, namespace

ADDRESS: Final = ("127.0.0.1", 7000)
CLIENTS: Final = 20
ROLLOUTS: Final = 10
#: Directories of the root that are a container's own, or not there.
_ITS_OWN: Final = (*ITS_OWN, "media", "mnt", "run", "sys")
HANDLER: Final = """
from socketkeep import AsyncConnection, resumable

@resumable(redeliver=True)
async def handle(conn: AsyncConnection) -> None:
    count = conn.state or 0
    async for line in conn.lines():
        count += 1
        await conn.reply(b"%d {version}\\n" % count, count)
"""


def bundle(
    directory: Path, network: Namespace, mounts: dict[str, Path], *command: str
) -> Container:
    """Return a container of a command of this interpreter."""
    directory.mkdir()
    root = directory / "root"
    config = runtime_config(
        root,
        [sys.executable, "-m", "socketkeep", *command],
        [f"PATH={os.environ['PATH']}", "PWD=/tmp"],
        binds={**_root(root), **mounts},
        network=network.path,
    )
    return Container(directory, config)


def _root(directory: Path) -> dict[str, Path]:
    """Make a root in `directory`; return the directories of this machine that are mounted there."""
    mounted = {}
    directory.mkdir()
    for each in Path("/").iterdir():
        if each.is_symlink():
            (directory / each.name).symlink_to(each.readlink())
        elif each.is_dir() and each.name not in _ITS_OWN:
            mounted[f"/{each.name}"] = each
    for name in (*(where.lstrip("/") for where in mounted), *_ITS_OWN):
        (directory / name).mkdir()
    return mounted


class Client:
    """Asks again and again on one connection, and checks each reply; in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = sock.makefile("rb")
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._ended = False
        self.replies = 0
        self.versions: set[bytes] = set()
        self.fault = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._sock.sendall(b"x\n")
                line = self._stream.readline()
                number, _, version = line.rstrip().partition(b" ")
                if number != b"%d" % (self.replies + 1):
                    self.fault = f"reply {self.replies + 1} was {line!r}"
                    return
                self.replies += 1
                with self._changed:
                    self.versions.add(version)
                    self._changed.notify_all()
                time.sleep(0.02)  # a load that a small machine can bear
        except OSError as error:
            self.fault = repr(error)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def wait_version(self, version: bytes) -> None:
        """Wait until it has had a reply of this version; what went wrong before is raised."""
        with self._changed:
            self._changed.wait_for(lambda: version in self.versions or self._ended, 30.0)
        assert not self.fault
        assert version in self.versions

    def close(self) -> None:
        self._over.set()
        self._thread.join(20.0)
        self._stream.close()
        self._sock.close()


def wait_versions(clients: list[Client], version: bytes) -> None:
    """Wait until each has had a reply of this version."""
    for client in clients:
        client.wait_version(version)


@pytest.mark.timeout(120)
def test_a_container_is_replaced_under_load(tmp_path: Path) -> None:
    """Again and again, by TERM and by KILL: no FIN, no RST, no reply lost, repeated or wrong."""
    if shutil.which("runc") is None:
        pytest.fail("runc is missing: apt-get install runc")
    keep = tmp_path / "keep"
    keep.mkdir()
    with ExitStack() as stack:
        net = stack.enter_context(namespace())
        listen = ("guard", "--listen", "unix:/mnt/guard.sock")
        shared = {"/mnt": keep}
        sidecar = stack.enter_context(bundle(tmp_path / "guard", net, shared, *listen))
        sidecar.output.wait_for("guarding")
        clients: list[Client] = []
        previous: Container | None = None
        for number in range(ROLLOUTS + 1):
            release = tmp_path / f"release{number}"
            release.mkdir()
            (release / "app.py").write_text(HANDLER.format(version=f"v{number}"))
            if previous is not None:
                previous.stop("TERM" if number % 2 else "KILL")
            container = bundle(
                *(tmp_path / f"app{number}", net, {**shared, "/media": release}),
                *("serve", "/media/app.py:handle", "--name", "app", "-k", "async", "-w", "1"),
                *("--bind", f"{ADDRESS[0]}:{ADDRESS[1]}", "--keep", "crash", "--keep-after", "0"),
                *("--guard", "unix:/mnt/guard.sock", "--control", "/tmp/control.sock"),
            )
            stack.enter_context(container)
            container.output.wait_for("ready generation")
            previous = container
            if not clients:
                clients = [Client(net.connect(ADDRESS)) for _ in range(CLIENTS)]
                for client in clients:
                    stack.callback(client.close)
            wait_versions(clients, b"v%d" % number)
        assert previous is not None
        assert not [client.fault for client in clients if client.fault]
