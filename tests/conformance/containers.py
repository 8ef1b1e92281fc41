"""Containers by runc, without an engine: a bundle is a root and its configuration."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final, Self

from tests.harness.output import Output

#: Directories of a root that are a container's own.
ITS_OWN: Final = ("dev", "proc", "tmp")


class Container:
    """``runc run`` of a bundle, as a context manager; `config` is what `runtime_config` returns."""

    def __init__(self, bundle: Path, config: dict[str, Any]) -> None:
        self.name = f"socketkeep-{os.getpid()}-{bundle.name}"
        self._bundle = bundle
        (bundle / "config.json").write_text(json.dumps(config))

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            ["runc", "run", "--bundle", str(self._bundle), self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        self.output = Output(self.process.stdout)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop("KILL")
        subprocess.run(["runc", "delete", "--force", self.name], capture_output=True, check=False)
        self.output.close()

    def stop(self, signal: str) -> int:
        """Send its first process a signal; return its exit code."""
        subprocess.run(["runc", "kill", self.name, signal], check=True, capture_output=True)
        return self.process.wait(30.0)


def runtime_config(
    root: Path,
    args: list[str],
    env: list[str],
    *,
    user: int = 0,
    cwd: str = "/tmp",
    binds: dict[str, Path],
    network: Path | None = None,
) -> dict[str, Any]:
    """Return what runc reads; see the runtime specification of the Open Container Initiative.

    binds: what is to be seen of this machine, by where.  network: of a namespace; None: this
    machine's.
    """
    bind = ["rbind", "rprivate"]
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    if network is not None:
        namespaces.append({"type": "network", "path": str(network)})
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": user},
            "args": args,
            "env": env,
            "cwd": cwd,
            "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}],
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            *(
                {"destination": where, "type": "bind", "source": str(what), "options": bind}
                for where, what in sorted(binds.items())
            ),
        ],
        "linux": {"namespaces": namespaces},
    }
