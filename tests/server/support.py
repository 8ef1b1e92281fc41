"""What the tests of a real server share: running the command, other users, resource limits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Finished, Server, connect

MODELS: Final = ("fork", "prefork", "thread", "async")
SOCKETKEEP: Final = (sys.executable, "-m", "socketkeep")
# No account has it, so that what it may start is counted for one test alone.
OTHER_UID: Final = 61234
_COMPLAINT: Final = "socketkeep: error: "


def run(
    directory: Path,
    *arguments: str,
    prefix: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    timeout: float = 30.0,
) -> Finished:
    """Run ``socketkeep ARGUMENTS`` in `directory`; `prefix` is a command that runs it.

    Its control sockets are in ``run`` of that directory unless the environment says otherwise.
    """
    inherited = {
        key: text
        for key, text in os.environ.items()
        if key == "SOCKETKEEP_PURE" or not key.startswith("SOCKETKEEP_")
    }
    done = subprocess.run(
        [*prefix, *SOCKETKEEP, *arguments],
        cwd=directory,
        env={
            **inherited,
            "SOCKETKEEP_RUNTIME_DIR": str(directory / "run"),
            **(environment or {}),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def complaint(finished: Finished, exit_code: int) -> str:
    """Return what `finished` complains of, after checking that it failed as a command should.

    One error, the last thing that is said; a traceback only inside of it, and without a frame of
    ours.
    """
    assert finished.exit_code == exit_code, finished
    before, mark, text = finished.stderr.partition(_COMPLAINT)
    assert mark, finished
    assert "Traceback" not in before, finished.stderr
    assert _COMPLAINT not in text, finished.stderr
    assert f"{os.sep}socketkeep{os.sep}_" not in text, finished.stderr
    return text.rstrip("\n")


def accepts(address: str) -> bool:
    """Return whether somebody listens at `address`, by a connection of no use."""
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def as_other_user() -> list[str]:
    """Return a command that runs another as a user without any privilege but to read files.

    Reading is left to it, so that it can run a Python that stands in a private directory.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    only = "-all,+dac_read_search"
    return [
        *("setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups"),
        *(f"--inh-caps={only}", f"--ambient-caps={only}", "--"),
    ]


def as_plain_user() -> list[str]:
    """Return a command that runs another as a user who is not root; nothing if this one is not."""
    return as_other_user() if os.geteuid() == 0 else []


@contextmanager
def plain_users_directory() -> Iterator[Path]:
    """Yield an empty directory of the user of `as_plain_user`."""
    with tempfile.TemporaryDirectory(prefix="socketkeep-test-") as name:
        path = Path(name)
        if os.geteuid() == 0:
            os.chown(path, OTHER_UID, OTHER_UID)
        yield path


class PrefixedServer(Server):
    """A server that is run by another command, `prefix`."""

    def __init__(
        self,
        prefix: Sequence[str],
        directory: Path,
        target: str,
        *options: str,
        bind: Sequence[str] | None = None,
        wait_ready: bool = True,
    ) -> None:
        super().__init__(directory, target, *options, bind=bind, wait_ready=wait_ready)
        self._command = [*prefix, *self._command]


@contextmanager
def soft_limit(pid: int, name: str, limit: int, prefix: Sequence[str] = ()) -> Iterator[None]:
    """Lower a soft resource limit of a running process, and put it back at the end.

    name: as prlimit(1) has it.  prefix: what becomes the process's user, if it is another's.
    """
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")

    def prlimit(*arguments: str, check: bool = True) -> str:
        command = [*prefix, "prlimit", "--pid", str(pid), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=check).stdout.strip()

    before = prlimit(f"--{name}", "--output=SOFT", "--noheadings", "--raw")
    prlimit(f"--{name}={limit}:")
    try:
        yield
    finally:
        prlimit(f"--{name}={before}:", check=False)  # it may have ended


def seats(model: str, number: int) -> list[str]:
    """Return the options for a server of `model` that has at least so many seats, in one worker.

    In `prefork` it takes as many workers.
    """
    by_model = {
        "prefork": ["-w", str(number)],
        "thread": ["-w", "1", "--threads", str(number)],
    }
    return ["-k", model, *by_model.get(model, ["-w", "1"])]


def at_its_descriptor_limit(pid: int, spare: int = 0) -> AbstractContextManager[None]:
    """Leave a running process no descriptor beyond those that it has, but for `spare`."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = [number for number in range(len(used) + spare + 1) if number not in used]
    return soft_limit(pid, "nofile", free[spare])


def processor_time(pid: int) -> float:
    """Return the seconds that a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
