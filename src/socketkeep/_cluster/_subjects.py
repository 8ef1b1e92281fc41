"""The names of things at the brokers: subjects, buckets and their keys.

They stay: nodes of several versions meet there.
"""

from __future__ import annotations

import re
from typing import Final

#: What may stand in a subject's token, and in a key, as it is.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]")

#: The key of what the cluster serves.
CLUSTER_KEY: Final = "cluster"
#: The keys of names, as a filter.
NAME_KEYS: Final = "name.>"


def token(text: str) -> str:
    """Return a name as one token of a subject: what may not stand there is =XX, as UTF-8."""
    return "".join(
        each if _PLAIN.match(each) else "".join(f"={byte:02X}" for byte in each.encode())
        for each in text
    )


def name_key(name: str) -> str:
    """Return the key under which stands who has the name."""
    return f"name.{token(name)}"


class Subjects:
    """The subjects and buckets of one cluster."""

    def __init__(self, cluster: str) -> None:
        self._prefix = f"socketkeep.{cluster}"
        self.names_bucket: Final = f"socketkeep_{cluster}"
        self.nodes_bucket: Final = f"socketkeep_{cluster}_nodes"
        self.all_nodes: Final = f"{self._prefix}.all"

    def name(self, name: str) -> str:
        """Return where the node listens that has the name."""
        return f"{self._prefix}.name.{token(name)}"

    def group(self, group: str) -> str:
        """Return where the nodes listen that have somebody in the group."""
        return f"{self._prefix}.group.{token(group)}"

    def node(self, node: str) -> str:
        """Return where a node listens."""
        return f"{self._prefix}.node.{node}"
