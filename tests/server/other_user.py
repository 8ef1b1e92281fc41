"""A server that is started as root and serves as a user of its own, in a namespace of mounts.

There the user has an account, with a supplementary group, and can read the Python that runs the
tests, wherever that is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import socketkeep
from tests.server.support import OTHER_UID, PrefixedServer

USER: Final = "shopkeeper"
GROUPS: Final = (OTHER_UID, OTHER_UID + 1)
_CLOSED: Final = 0o005  # what others need of a directory, to find something in it


@dataclass(frozen=True, slots=True)
class World:
    """A directory that everybody may read, and the command that runs another in the namespace."""

    directory: Path
    prefix: list[str]

    def server(self, target: str, *options: str, **more: object) -> PrefixedServer:
        """Return a server that serves as `USER`; its control socket is where root alone may go."""
        control = self.directory.parent / "run" / "control.sock"
        server = PrefixedServer(
            self.prefix,
            self.directory,
            target,
            *("--user", USER, "--control", str(control), *options),
            **more,  # type: ignore[arg-type]
        )
        server.control = control
        return server


@contextmanager
def another_users_world() -> Iterator[World]:
    """Yield one; skips the test where there can be none."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    with tempfile.TemporaryDirectory(prefix="socketkeep-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        inside = directory / "app"
        inside.mkdir(mode=0o755)
        (directory / "run").mkdir(mode=0o700)
        script = directory / "enter.sh"
        script.write_text("\n".join(["set -e", *_mounts(directory), 'exec "$@"', ""]))
        yield World(inside, ["unshare", "--mount", "--propagation", "private", "sh", str(script)])


def _mounts(directory: Path) -> Iterator[str]:
    """Yield the commands that make the namespace what it is to be."""
    for name, line in (
        ("passwd", f"{USER}:x:{OTHER_UID}:{OTHER_UID}::/nonexistent:/bin/false\n"),
        ("group", f"{USER}:x:{OTHER_UID}:\ntill:x:{GROUPS[1]}:{USER}\n"),
    ):
        own = directory / name
        own.write_text(Path("/etc", name).read_text() + line)
        yield f"mount --bind {shlex.quote(str(own))} /etc/{name}"
    package = Path(socketkeep.__file__).parents[1]
    needed = {Path(sys.base_prefix), Path(sys.prefix), package}
    closed = {found: path for path in needed if (found := _closed(path)) is not None}
    for number, place in enumerate(set(closed)):
        there = [path for path in needed if place in (path, *path.parents)]
        for index, path in enumerate(there):
            kept = directory / f"kept-{number}-{index}"
            kept.mkdir()
            yield f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(kept))}"
        yield f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(place))}"
        for index, path in enumerate(there):
            kept = directory / f"kept-{number}-{index}"
            yield f"mkdir -p {shlex.quote(str(path))}"
            yield f"mount --bind {shlex.quote(str(kept))} {shlex.quote(str(path))}"


def _closed(path: Path) -> Path | None:
    """Return the directory on the way to a path into which others may not go."""
    for each in (*reversed(path.parents), path):
        if each.stat().st_mode & _CLOSED != _CLOSED:
            return each
    return None


def rights(pid: int) -> dict[str, list[str]]:
    """Return what /proc says of a process's users, groups and capabilities."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = (line.partition(":")[::2] for line in lines)
    wanted = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "Umask")
    return {key: text.split() for key, text in words if key in wanted}
