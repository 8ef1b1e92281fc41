"""What would keep a server from working and can be known before it starts."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import resource
import sys
from typing import Final

from socketkeep._admin._settings import check_admin
from socketkeep._cli._exit import FAILED, USAGE, Failure
from socketkeep._config import ServeConfig

# Beside connections a process holds listeners, channels, a log, the scoreboard, an event loop.
_OTHER_DESCRIPTORS: Final = 64
_KERNEL: Final = (5, 10)


def preflight(config: ServeConfig) -> None:
    """Raise Failure, with a line that says what to mend, when the server could not work."""
    _check_system()
    _check_extras(config)
    check_admin(config)
    _check_log_file(config.log_file)
    _check_descriptors(config.max_connections)


def _check_system() -> None:
    if sys.platform != "linux":
        raise Failure(
            f"the server needs Linux 5.10 or newer (pidfd, memfd, EPOLLEXCLUSIVE), this is"
            f" {sys.platform}; the library works here",
            FAILED,
        )
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if found is not None and (int(found[1]), int(found[2])) < _KERNEL:
        raise Failure(f"the server needs Linux 5.10 or newer, this is {os.uname().release}", FAILED)


def _check_extras(config: ServeConfig) -> None:
    for flag, wanted, extra, packages in (
        ("--loop uvloop", config.loop == "uvloop", "uvloop", ("uvloop",)),
        ("--reload", config.reload, "watchfiles", ("watchfiles",)),
        ("--admin", bool(config.admin), "admin", ("h11", "prometheus_client")),
    ):
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if wanted and missing:
            named = missing[0].replace("_", "-")
            raise Failure(
                f"{flag} needs the package {named}: install the extra {extra!r} of socketkeep",
                USAGE,
            )


def _check_log_file(path: str) -> None:
    if not path:
        return
    try:
        # Without waiting: a named pipe that nobody reads yet would be waited for.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return  # such a pipe: lines are dropped, and counted, until somebody reads it
        raise Failure(
            f"--log-file: cannot append to {path}: {os.strerror(error.errno or 0)}", USAGE
        ) from None


def _check_descriptors(max_connections: int) -> None:
    """Check the hard limit; the soft one is the server's to raise."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = max_connections + _OTHER_DESCRIPTORS
    if max_connections and hard != resource.RLIM_INFINITY and hard < needed:
        raise Failure(
            f"--max-connections {max_connections} needs {needed} file descriptors, but the limit"
            f" is {hard}: raise it (ulimit -Hn, or LimitNOFILE= in a systemd unit) or serve fewer",
            USAGE,
        )
