"""The number of connections that a server can hold, by how many descriptors it may have."""

from __future__ import annotations

import resource
from typing import Final

from socketkeep._base._mistakes import OptionError

#: Beside its connections a process holds listeners, channels, logs and what the user's code opens.
OTHER_DESCRIPTORS: Final = 64


def check_descriptors(max_connections: int) -> None:
    """Raise OptionError where so many connections cannot be; the soft limit is ours to raise."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = max_connections + OTHER_DESCRIPTORS
    if max_connections and hard != resource.RLIM_INFINITY and hard < needed:
        raise OptionError(
            f"--max-connections {max_connections} needs {needed} file descriptors, but the limit"
            f" is {hard}: raise it (ulimit -Hn, or LimitNOFILE= in a systemd unit) or serve fewer"
        )


def soft_limit(soft: int, max_connections: int) -> int:
    """Return the soft limit of a process that has `soft`, raised to what it needs, if it may be."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if soft == resource.RLIM_INFINITY:
        return soft
    wanted = max(soft, max_connections + OTHER_DESCRIPTORS)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
