"""The machine, and what is installed on it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = (
    "socketkeep",
    "uvloop",
    "gevent",
    "trio",
    "anyio",
    "Twisted",
    "gunicorn",
    "uvicorn",
    "granian",
    "httptools",
    "websockets",
)
_COMMANDS: Final = {
    "nginx": ("nginx", "-v"),
    "HAProxy": ("haproxy", "-v"),
    "lsof": ("dpkg-query", "-W", "-f", "${Version}", "lsof"),
    "ucspi-tcp": ("dpkg-query", "-W", "-f", "${Version}", "ucspi-tcp"),
    "iproute2": ("ss", "-V"),
    "gcc": ("gcc", "-dumpfullversion"),
}
_VERSION: Final = re.compile(r"\d[\d:]*\.[\w.+~-]+")
ROOT: Final = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    for name, command in _COMMANDS.items():
        if (said := _said(*command)) is not None and (found := _VERSION.search(said)):
            versions[name] = found[0]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown",
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def cpus() -> tuple[int, int]:
    """Return the processors of the servers and of the clients; the same one if there is but one."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def find(command: str) -> str | None:
    """Return the path of a command; those of the system's administration are looked for too."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _said(*command: str) -> str | None:
    path = find(command[0])
    if path is None:
        return None
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)
    words = (done.stdout or done.stderr).splitlines()[:1]
    return words[0].strip() if words and done.returncode == 0 else None


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"
