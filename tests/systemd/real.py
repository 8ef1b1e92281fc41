"""The real systemd, as a manager of user units of its own: nothing of this machine's is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_CGROUPS: Final = Path("/sys/fs/cgroup")
# In a mount namespace of its own: systemd wants to have booted the machine, and there it has.  What
# it lays over what a unit may not see it has made then, too.
_RUN: Final = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/systemd/inaccessible/dir
cd /run/systemd/inaccessible
touch reg
mkfifo fifo
mknod chr c 0 0
mknod blk b 0 0
chmod 000 *
cd /
echo $$ > "$0/cgroup.procs"
exec /lib/systemd/systemd --user --unit=basic.target
"""


class RealManager:
    """``systemd --user`` in a control group and a directory of its own, as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.runtime = directory / "runtime"
        self.units = directory / "home" / ".config" / "systemd" / "user"
        self._cgroup = _hierarchy() / f"socketkeep-test-{os.getpid()}"
        self._log = directory / "systemd.log"
        self._environment = {
            **os.environ,
            "HOME": str(directory / "home"),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }

    @staticmethod
    def missing() -> str:
        """Return why this machine cannot have one, empty if it can."""
        if os.geteuid() != 0:
            return "systemd's control group and namespace need root"
        if not Path("/lib/systemd/systemd").exists() or shutil.which("unshare") is None:
            return "systemd or unshare is not installed"
        if not os.access(_hierarchy(), os.W_OK):
            return "no control groups can be made here"
        return ""

    def __enter__(self) -> Self:
        self.runtime.mkdir(mode=0o700)
        self.units.mkdir(parents=True)
        self._cgroup.mkdir()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "bash", "-c", _RUN, str(self._cgroup)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20.0
        while self.ctl("is-system-running")[1] not in ("running", "degraded"):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise TimeoutError(f"systemd does not run: {self._log.read_text()}")
            time.sleep(0.1)  # between two questions
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # systemd has made the same group in the older hierarchy, where both are mounted.
        for group in {self._cgroup, *_CGROUPS.glob(f"*/{self._cgroup.name}")}:
            for path in (*sorted(group.rglob("*"), reverse=True), group):
                if path.is_dir():
                    with contextlib.suppress(OSError):
                        path.rmdir()
        if error is not None:
            error.add_note(self._log.read_text())

    def ctl(self, *arguments: str) -> tuple[int, str]:
        """Run ``systemctl --user``; return its exit code and what it says."""
        command = ["systemctl", "--user", *arguments]
        done = subprocess.run(
            # Where systemd has booted the machine: elsewhere it would not even ask.
            ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", *command],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60.0,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.ctl("show", "--value", "-p", name, unit)[1]

    def wait(self, unit: str, name: str, wanted: str) -> None:
        """Wait until a property has a value.  Raises TimeoutError."""
        deadline = time.monotonic() + 20.0
        while (found := self.show(unit, name)) != wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} of {unit} is {found}, not {wanted}")
            time.sleep(0.05)  # between two questions


def _hierarchy() -> Path:
    """Return where systemd's control groups are: of their own where both versions are mounted.

    In another one it would take the root for its own, and end what other tests have started there.
    """
    for own in (_CGROUPS / "unified", _CGROUPS / "systemd"):
        if own.is_dir():
            return own
    return _CGROUPS
