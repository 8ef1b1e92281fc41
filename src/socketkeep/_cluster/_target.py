"""The target of a server, and the name of its cluster, wherever its files are."""

from __future__ import annotations

import os
import re

from socketkeep._config._server_options import ServeConfig


def served(target: str) -> str:
    """Return a target without the place of its file: ``/srv/chat.py:handle`` is chat:handle."""
    module, _, attribute = target.rpartition(":")
    if module.endswith(".py") or "/" in module:
        module = os.path.basename(module).removesuffix(".py")
    return f"{module}:{attribute}"


def cluster_name(config: ServeConfig) -> str:
    """Return the cluster's name: the one that was given, or one made of the target."""
    if config.cluster_name:
        return config.cluster_name
    module = served(config.target).rpartition(":")[0].rpartition(".")[2]
    return re.sub(r"[^A-Za-z0-9_-]", "_", module)[:64] or "server"
