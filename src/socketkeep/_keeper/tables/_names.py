"""The names of connections, and who owns each of those: a store, no decisions.

By owner, since a message to a group goes once to each worker that has somebody in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec


class SavedName(msgspec.Struct):
    """The names of one connection, for the next version of the keeper."""

    id: str
    epoch: int
    owner: int | None
    name: str
    groups: list[str]
    labels: dict[str, str]
    version: int = 1


@dataclass(slots=True, eq=False)
class NamedConnection:
    """A connection that is called something.

    owner: the serial number of the worker that has it, or that it was sent to; None: it waits with
    the keeper.  epoch: of the owner's, or the last one's, lease.  given_at: the number of the
    last letter before that, for the post.  version: of what it is called, higher with each change.
    """

    id: str
    epoch: int
    owner: int | None
    name: str = ""
    groups: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    given_at: int = 0
    version: int = 0

    @property
    def saved(self) -> SavedName:
        """Return what another keeper goes on from."""
        return SavedName(
            *(self.id, self.epoch, self.owner, self.name),
            *(sorted(self.groups), dict(self.labels), self.version),
        )

    @property
    def has_any(self) -> bool:
        """Return whether it is called anything."""
        return bool(self.name or self.groups or self.labels)


#: The members of one group, by owner and id.
Members = dict[int | None, dict[str, NamedConnection]]
_NOBODY: Final[Mapping[int | None, dict[str, NamedConnection]]] = {}


class NameTable:
    """All connections that are called something."""

    def __init__(self) -> None:
        self.by_id: Final[dict[str, NamedConnection]] = {}
        self._by_name: dict[str, NamedConnection] = {}
        self._groups: dict[str, Members] = {}
        self._by_owner: Members = {}
        self._counted: dict[str, None] = {}  # values of a label, those that were seen first
        self._on_news: Callable[[str, str], None] | None = None

    def watch(self, on_news: Callable[[str, str], None] | None) -> None:
        """Call it with a name, or a group, when who has it changes, or whether anybody is in it."""
        self._on_news = on_news

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[NamedConnection]:
        return iter(tuple(self.by_id.values()))

    @property
    def groups(self) -> int:
        """Return how many groups there are."""
        return len(self._groups)

    def count_label(self, key: str, most: int) -> dict[str, int]:
        """Return how many connections have each value of a label.

        At most so many values are told apart, always the same ones; others are counted as "".
        """
        counts = dict.fromkeys((*self._counted, ""), 0)
        for each in self.by_id.values():
            value = each.labels.get(key)
            if value is None:
                continue
            if value not in self._counted and len(self._counted) < most:
                self._counted[value] = None
                counts[value] = 0
            counts[value if value in self._counted else ""] += 1
        return counts

    def get(self, name: str) -> NamedConnection | None:
        """Return the connection of that id."""
        return self.by_id.get(name)

    def named(self, name: str) -> NamedConnection | None:
        """Return the connection that has that name."""
        return self._by_name.get(name)

    def members(self, group: str) -> Mapping[int | None, dict[str, NamedConnection]]:
        """Return who is in a group, by owner and id."""
        return self._groups.get(group, _NOBODY)

    def all_names(self) -> list[str]:
        """Return all names that connections have."""
        return list(self._by_name)

    def all_groups(self) -> list[str]:
        """Return all groups that somebody is in."""
        return list(self._groups)

    def owned_by(self, owner: int) -> list[NamedConnection]:
        """Return what a worker has."""
        return list(self._by_owner.get(owner, {}).values())

    def count_of(self, owner: int) -> int:
        """Return how many a worker has."""
        return len(self._by_owner.get(owner, ()))

    def put(
        self,
        known: NamedConnection,
        name: str,
        groups: frozenset[str],
        labels: Mapping[str, str],
    ) -> NamedConnection | None:
        """Note what a connection is called from here on; return who had that name before."""
        if known.id not in self.by_id:
            self.by_id[known.id] = known
            self._by_owner.setdefault(known.owner, {})[known.id] = known
        for group in known.groups - groups:
            self._leave(group, known)
        for group in groups - known.groups:
            self._enter(group, known.owner, known)
        known.groups = groups
        known.labels = labels
        known.version += 1
        if name == known.name:
            return None
        if known.name:
            del self._by_name[known.name]
            self._tell(known.name, "")
        if name:
            self._tell(name, "")
        known.name = name
        before = self._by_name.get(name)
        if before is not None:
            before.name = ""
            before.version += 1
        if name:
            self._by_name[name] = known
        return before

    def move(self, known: NamedConnection, owner: int | None, epoch: int) -> None:
        """Note that a connection has another owner."""
        if owner != known.owner:
            for group in known.groups:
                self._leave(group, known)
                self._enter(group, owner, known)
            self._disown(known)
            self._by_owner.setdefault(owner, {})[known.id] = known
            known.owner = owner
        known.epoch = epoch

    def forget(self, known: NamedConnection) -> None:
        """A connection has ended, or is called nothing any more."""
        for group in known.groups:
            self._leave(group, known)
        if known.name:
            del self._by_name[known.name]
            self._tell(known.name, "")
        self._disown(known)
        del self.by_id[known.id]

    def _enter(self, group: str, owner: int | None, known: NamedConnection) -> None:
        if group not in self._groups:
            self._groups[group] = {}
            self._tell("", group)
        self._groups[group].setdefault(owner, {})[known.id] = known

    def _leave(self, group: str, known: NamedConnection) -> None:
        members = self._groups[group]
        _take_out(members, known)
        if not members:
            del self._groups[group]
            self._tell("", group)

    def _tell(self, name: str, group: str) -> None:
        if self._on_news is not None:
            self._on_news(name, group)

    def _disown(self, known: NamedConnection) -> None:
        _take_out(self._by_owner, known)

    def snapshot(self) -> list[SavedName]:
        """Return what the next version of the keeper goes on from."""
        return [each.saved for each in self]

    def restore(self, saved: list[SavedName]) -> None:
        """Go on from what an earlier version knew."""
        for each in saved:
            known = NamedConnection(each.id, each.epoch, each.owner)
            self.put(known, each.name, frozenset(each.groups), each.labels)
            known.version = each.version


def _take_out(members: Members, known: NamedConnection) -> None:
    theirs = members[known.owner]
    del theirs[known.id]
    if not theirs:
        del members[known.owner]
