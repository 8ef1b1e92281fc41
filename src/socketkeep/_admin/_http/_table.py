"""The table of a server's connections: all that were read, of which a view asks for a few.

Sorted, filtered and paged here and not in the browser: 50,000 connections are 14 MB of JSON.  No
I/O: reading them from the keeper is the caller's (`_reader.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from socketkeep._admin._http._filter import FIELDS, parse_filter, searched_text, text_of
from socketkeep._admin._reports import ConnectionReport
from socketkeep._wire._scoreboard import parse_connection_id

MOST_ROWS: Final = 200
_ROWS: Final = 50
#: The largest part that is wanted of the keeper at a time, and when they are made larger.
_PART: Final = 512
_SMALL_PART: Final = 128
#: Connections in the table; where there are more it has a part of them, always the same ones.
_MOST: Final = 100_000
#: How long an order goes unrenewed, in seconds, and how many of them are kept.
_STALE: Final = 0.5
_ORDERS: Final = 8
_ORDER: Final = {"ascending": False, "descending": True}
_KNOWN: Final = ("sort", "order", "filter", "first", "rows")
_TEXTS: Final = frozenset(("groups", "labels"))


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A view of the table: which rows, in which order.

    The oldest come first by default: in that order nothing moves when others come.
    """

    sort: str = "age"
    descending: bool = True
    filter: str = ""
    first: int = 0
    rows: int = _ROWS

    @classmethod
    def parse(cls, query: str) -> Query:
        """Return what the query of a URL asks for; a token in it is passed over.

        Raises ValueError.
        """
        given = {name: value for name, value in parse_qsl(query) if name != "token"}
        unknown = next((name for name in given if name not in _KNOWN), None)
        if unknown is not None:
            raise ValueError(f"no parameter {unknown!r}: there are {', '.join(_KNOWN)}")
        sort, order = given.get("sort", "age"), given.get("order", "")
        if sort not in FIELDS:
            raise ValueError(f"sort is one of {', '.join(FIELDS)}, not {sort!r}")
        if order and order not in _ORDER:
            raise ValueError(f"order is ascending or descending, not {order!r}")
        words = given.get("filter", "")
        parse_filter(words)
        return cls(
            sort=sort,
            descending=_ORDER[order] if order else sort == "age",
            filter=words,
            first=_number(given, "first", 0, 10**9),
            rows=_number(given, "rows", _ROWS, MOST_ROWS),
        )


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows of the table, from the `first` of those that match on.

    open: how many connections the server has.  read: how many of them are in the table.  complete:
    whether all of them are that the table is to have.  left_out: how many it is not to have, where
    there are too many.  matching: how many of those that were read the filter lets through.
    oldest: the age in seconds of what was read first.
    """

    open: int
    read: int
    complete: bool
    left_out: int
    matching: int
    first: int
    oldest: float
    connections: list[ConnectionReport]


class _ShownRow(NamedTuple):
    """A connection as it was read.

    began: when it was accepted, by the clock of this process.
    """

    report: ConnectionReport
    began: float
    text: str


class _Order(NamedTuple):
    """The rows that match, in an order, and what there was when it was made.

    since: when the part was read that was not for longest.
    """

    at: float
    version: int
    read: int
    complete: bool
    since: float
    rows: list[_ShownRow]


class _Part(NamedTuple):
    """The connections of one part, and when they were read."""

    at: float
    rows: list[_ShownRow]


class ShownTable:
    """The connections in the parts that the keeper tells of, a power of two of them.

    One thread may look while another puts: what is put replaces what was there whole.
    """

    def __init__(self) -> None:
        self.parts = 1
        self.open = 0
        self._skip = 1
        self._there: dict[int, _Part] = {}
        self._version = 0
        self._orders: OrderedDict[tuple[str, bool, str], _Order] = OrderedDict()

    @property
    def wanted(self) -> range:
        """Return which of the parts are to be read."""
        return range(0, self.parts, self._skip)

    @property
    def complete(self) -> bool:
        """Return whether all that are to be read have been."""
        return len(self._there) == len(self.wanted)

    def plan(self, count: int) -> None:
        """Go by so many connections: how many parts there are, and which of them are wanted."""
        self.open = count
        parts, skip = self.parts, 1
        while count > parts * _PART:
            parts *= 2
        while parts > 1 and count < parts * _SMALL_PART:
            parts //= 2
        while count > skip * _MOST:
            skip *= 2
        if (parts, skip) != (self.parts, self._skip):
            self._divide(parts, skip)

    def _divide(self, parts: int, skip: int) -> None:
        """Put what was read where it belongs from now on: a part is there when all of it is."""
        before, step = self._there, min(parts, self.parts)
        there = {}
        for part in range(0, parts, skip):
            sources = [before.get(each) for each in range(part % step, self.parts, step)]
            known = [each for each in sources if each is not None]
            if len(known) == len(sources):
                rows = [row for row in _rows(known) if _number_of(row.report) % parts == part]
                there[part] = _Part(min(each.at for each in known), rows)
        self.parts, self._skip, self._there = parts, skip, there
        self._version += 1

    def put(self, part: int, reports: Iterable[ConnectionReport], at: float) -> None:
        """Have a part be as it was read at the time `at`, in seconds."""
        rows = [_ShownRow(each, at - each.age, searched_text(each)) for each in reports]
        self._there = {**self._there, part: _Part(at, rows)}
        self._version += 1

    def window(self, query: Query, now: float) -> Window:
        """Return the rows that a query asks for; the last ones where it asks for later ones."""
        order = self._order(query, now)
        rows, last = order.rows, max(0, len(order.rows) - 1)
        first = query.first
        if first > last:
            first = last - last % max(1, query.rows)
        return Window(
            open=self.open,
            read=order.read,
            complete=order.complete,
            left_out=max(0, self.open - order.read) if order.complete and self._skip > 1 else 0,
            matching=len(rows),
            first=first,
            oldest=max(0.0, now - order.since),
            connections=[
                msgspec.structs.replace(row.report, age=max(0.0, now - row.began))
                for row in rows[first : first + query.rows]
            ],
        )

    def _order(self, query: Query, now: float) -> _Order:
        key = query.sort, query.descending, query.filter
        known = self._orders.get(key)
        if known is not None and (known.version == self._version or now - known.at < _STALE):
            return known
        # The version first: what is put meanwhile makes another.
        version, complete, there = self._version, self.complete, list(self._there.values())
        rows = list(_rows(there))
        read = len(rows)
        for match in parse_filter(query.filter):
            rows = [row for row in rows if match(row.report, row.text)]
        rows = _sorted(rows, query.sort, descending=query.descending)
        since = min((each.at for each in there), default=now)
        made = self._orders[key] = _Order(now, version, read, complete, since, rows)
        self._orders.move_to_end(key)
        while len(self._orders) > _ORDERS:
            self._orders.popitem(last=False)
        return made


def _rows(parts: Iterable[_Part]) -> Iterator[_ShownRow]:
    return (row for part in parts for row in part.rows)


def _number_of(report: ConnectionReport) -> int:
    return parse_connection_id(report.id)[2]


def _sorted(rows: list[_ShownRow], field: str, *, descending: bool) -> list[_ShownRow]:
    """Return the rows by a field; those that have nothing in it come last either way."""
    rows.sort(key=lambda row: row.report.id)  # what is equal keeps its place at each look
    if field == "age":
        # By when it began: their ages were read at different times.
        return sorted(rows, key=lambda row: row.began, reverse=not descending)
    value = text_of if field in _TEXTS else getattr
    valued, without = [], []
    for row in rows:
        there = value(row.report, field)
        if there is None or there == "":
            without.append(row)
        else:
            valued.append((there, row))
    valued.sort(key=lambda pair: pair[0], reverse=descending)
    return [row for _, row in valued] + without


def _number(given: dict[str, str], name: str, usual: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return usual
    if not (text.isascii() and text.isdecimal()) or len(text) > 10 or int(text) > most:
        raise ValueError(f"{name} is a number from 0 to {most}, not {text!r}")
    return int(text)
