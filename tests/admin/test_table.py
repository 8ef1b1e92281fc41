"""The table of connections: sorted, filtered and paged, without a keeper or a browser."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from socketkeep._admin._http._table import Query, ShownTable, Window
from tests.admin.test_pages import status_of
from tests.admin.web import LIVE, FakeSource, connection, exchange, get, pages

ROWS = [
    connection("1-1-1", 71, 0, peer="10.0.0.1:9", name="Pump", age=5.0, bytes_in=300),
    connection("1-1-2", 72, 1, peer="10.0.0.2:9", labels={"firmware": "2.1"}, age=9.0, busy=True),
    connection("1-1-3", None, None, state="parked", peer="[::1]:9", groups=["all"], idle=700.0),
    connection("1-1-4", 72, 1, peer="10.0.0.1:8", name="valve", age=7.0, bytes_in=200),
]


def table(rows: list[Any], at: float = 100.0) -> ShownTable:
    made = ShownTable()
    fill(made, rows, at)
    return made


def fill(made: ShownTable, rows: list[Any], at: float = 100.0) -> None:
    made.plan(len(rows))
    for part in made.wanted:
        made.put(part, [each for each in rows if number_of(each.id) % made.parts == part], at)


def number_of(name: str) -> int:
    return int(name.rpartition("-")[2], 16)


def seen(query: str, rows: list[Any] = ROWS) -> str:
    """Return the last digits of the ids that a view has, in its order."""
    window = table(rows).window(Query.parse(query), 100.0)
    return "".join(each.id[-1] for each in window.connections)


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("", "2413"),
        ("sort=age&order=ascending", "3142"),
        ("sort=peer", "4123"),
        ("sort=peer&order=descending", "3214"),
        ("sort=bytes_in&order=descending", "1423"),
        ("sort=name", "1423"),
        ("sort=name&order=descending", "4123"),
        ("sort=worker", "1243"),
        ("sort=slot&order=descending", "2413"),
        ("sort=labels", "2134"),
        ("sort=groups&order=descending", "3124"),
        ("sort=busy&order=descending", "2134"),
    ],
)
def test_order(query: str, order: str) -> None:
    """By each field and both ways; what has nothing there comes last, what is equal by id."""
    assert seen(query) == order


@pytest.mark.parametrize(
    ("words", "those"),
    [
        ("", "1234"),
        ("pump", "1"),
        ("10.0.0.1", "14"),
        ("10.0.0.1 valve", "4"),
        ("72", "24"),
        ("firmware=2.1", "2"),
        ("firmware=3", ""),
        ("state=parked", "3"),
        ("state=", "1234"),
        ("worker=72", "24"),
        ("slot=0", "1"),
        ("slot<5 name=v", "4"),
        ("idle>600", "3"),
        ("bytes_in>250", "1"),
        ("bytes_in<250 bytes_in>100", "4"),
        ("busy=YES", "2"),
        ("busy=no groups=all", "3"),
        ("name=PUMP", "1"),
        ("[::1]:9", "3"),
    ],
)
def test_filter(words: str, those: str) -> None:
    """Words are looked for in all that a connection is called by; a field is named."""
    assert seen(f"sort=id&filter={quote(words)}") == those


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sort=colour", "sort is one of id, peer, listener,"),
        ("order=up", "order is ascending or descending, not 'up'"),
        ("first=-1", "first is a number from 0 to 1000000000, not '-1'"),
        ("rows=201", "rows is a number from 0 to 200, not '201'"),
        ("rows=many", "rows is a number from 0 to 200, not 'many'"),
        ("limit=3", "no parameter 'limit': there are sort, order, filter, first, rows"),
        ("filter=idle%3Elong", "filter: idle is a number, not 'long'"),
        ("filter=busy%3Dperhaps", "filter: busy is yes or no, not 'perhaps'"),
        ("filter=peer%3E10", "filter: peer is no number: peer=, and not peer>"),
        (f"filter={'x' * 201}", "filter has at most 200 characters, not 201"),
    ],
)
def test_query_that_is_none(query: str, said: str) -> None:
    """It is refused in one line that says what was expected, and the keeper is not asked."""
    with pytest.raises(ValueError, match=re.escape(said)):
        Query.parse(query)


def test_pages_of_many() -> None:
    """Each connection is on one page; beyond the end is the last page."""
    many = [connection(f"1-1-{n:x}", 71, 0, age=float(n)) for n in range(1, 3001)]
    made = table(many)
    assert made.parts == 8
    found: list[str] = []
    for first in range(0, 3000, 70):
        page = made.window(Query(sort="age", first=first, rows=70), 100.0)
        assert (page.matching, page.read, page.complete, page.first) == (3000, 3000, True, first)
        found += [each.id for each in page.connections]
    assert found == [each.id for each in reversed(many)]
    last = made.window(Query(sort="age", first=9999, rows=70), 100.0)
    assert (last.first, len(last.connections)) == (2940, 60)
    assert made.window(Query(rows=0), 100.0).connections == []


def test_more_and_fewer() -> None:
    """A row that was read stays when the parts become more or fewer, and is never there twice."""
    many = [connection(f"1-1-{n:x}", 71, 0) for n in range(1, 5001)]
    made = table(many[:100], at=0.0)
    before = 100
    for now, count in enumerate((2000, 5000, 900, 50, 0, 700), 1):
        made.plan(count)
        kept = made.window(Query(), now)
        assert (kept.read, kept.complete) == (before, True)
        fill(made, many[:count], now)
        there = made.window(Query(rows=200), now + 0.9)
        ids = {each.id for each in there.connections}
        assert (there.read, there.matching, len(ids)) == (count, count, min(count, 200))
        before = count


def test_more_than_it_takes() -> None:
    """It has the same part of them each time, says how many are left out, and takes all again."""
    made = ShownTable()
    made.plan(150_000)
    assert len(made.wanted) * 2 == made.parts
    for part in made.wanted:
        made.put(part, [connection(f"1-1-{part or made.parts:x}", 71, 0)], 0.0)
    window = made.window(Query(), 0.0)
    assert (window.complete, window.read, window.left_out) == (True, 256, 149_744)
    made.plan(150_300)
    assert made.complete
    made.plan(99_000)
    assert len(made.wanted) == made.parts
    window = made.window(Query(), 1.0)
    assert (window.complete, window.read, window.left_out) == (False, 256, 0)


def test_ages_read_at_different_times() -> None:
    """They are told as of now, and the older one comes first whenever it was read."""
    made = ShownTable()
    made.plan(1500)
    assert made.parts == 4
    for part, rows, at in (
        (0, [connection("1-1-4", 71, 0, age=10.0)], 100.0),
        (1, [connection("1-1-5", 71, 0, age=12.0)], 103.0),
    ):
        made.put(part, rows, at)
    window = made.window(Query(), 104.0)
    assert [(each.id, each.age) for each in window.connections] == [
        ("1-1-4", 14.0),
        ("1-1-5", 13.0),
    ]
    assert (window.oldest, window.complete) == (4.0, False)


def test_order_is_made_anew_when_something_has_come() -> None:
    """Not at each look of each view: twice a second at the most."""
    made = table(ROWS, 100.0)

    def looked(at: float) -> Window:
        return made.window(Query(sort="id"), at)

    assert looked(100.0).matching == 4
    fill(made, ROWS[:2], 100.1)
    assert looked(100.2).matching == 4
    assert looked(100.6).matching == 2
    for number in range(20):
        made.window(Query(filter=f"x{number}"), 101.0)
    assert looked(101.0).matching == 2


def answered(path: str, source: FakeSource) -> tuple[int, Any]:
    async def asked() -> str:
        async with pages(source) as port:
            return await exchange(port, get(path))

    answer = asyncio.run(asked())
    head, _, body = answer.partition("\r\n\r\n")
    return status_of(head), json.loads(body) if "application/json" in head else body


def test_over_http() -> None:
    """Rows are as the commands print them in JSON; a text of a peer's is made plain."""
    evil = connection("1-1-5", 71, 0, name="a\x1b[2J")
    source = FakeSource(replace(LIVE, connections=[*ROWS, evil]))
    status, answer = answered("/connections?sort=name&rows=1&filter=name%3Da", source)
    assert status == 200
    (row,) = answer.pop("connections")
    assert row["name"] == "a\\x1b[2J"
    assert list(row) == list(evil.__struct_fields__)
    assert answer.pop("oldest") < 5
    there = {"open": 5, "read": 5, "complete": True, "left_out": 0}
    assert answer == {**there, "matching": 2, "first": 0}
    assert answered("/connections?sort=none", source)[0] == 400
    assert answered("/connections", FakeSource(None)) == (503, "the keeper does not answer\n")


def test_keeper_that_comes_back() -> None:
    """The table says that it does not answer, and then what it says."""
    source = FakeSource(None)

    async def asked() -> list[str]:
        async with pages(source) as port:
            first = await exchange(port, get("/connections"))
            source.report = replace(LIVE, connections=ROWS)
            async with asyncio.timeout(10):
                second = first
                while status_of(second) != 200:
                    second = await exchange(port, get("/connections"))
            return [first, second]

    first, second = asyncio.run(asked())
    assert status_of(first) == 503
    assert '"matching":4' in second
