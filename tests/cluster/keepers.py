"""The keeper's side of a node: what is called something here, and what becomes of pushes."""

from __future__ import annotations

from typing import Any

from socketkeep._cluster._process import ClusterProcess
from tests.harness.configuration import configured
from tests.keeper.fakes import Clock, FakeSystem, SteppedReactor, make_post, named


class KeeperSide:
    """A post, and its way to other nodes.

    parked: the connections, all of which wait with the keeper.  told: what became of pushes, by
    their numbers.
    """

    def __init__(
        self, clock: Clock, system: FakeSystem, parked: Any, label: str, **options: Any
    ) -> None:
        self.reactor = SteppedReactor(clock)
        self.post = make_post(self.reactor, parked)
        self.told: dict[int, Any] = {}
        self._options = options
        self._system = system
        self._label = label

    def join(self) -> ClusterProcess:
        """Return the process that is in the cluster, with this keeper's names."""
        config = configured(**self._options)
        return ClusterProcess(self.reactor, self._system, config, self.post, self._label)

    def call(self, connection: str, name: str, groups: frozenset[str] = frozenset()) -> None:
        """Have a connection called so, and in these groups."""
        known = self.post.names.get(connection) or named(connection, 1, None)
        self.post.names.put(known, name, groups, {})

    def tell(self, answer: Any) -> None:
        """Note what became of a push."""
        self.told[answer.number] = answer
