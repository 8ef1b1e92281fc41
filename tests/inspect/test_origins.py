"""How a process came by a socket, told from its relatives."""

from __future__ import annotations

import pytest

from socketkeep._inspect._origins import Origin, origin_of
from socketkeep._inspect._processes import Process, is_keeper


def process(pid: int, parent: int, *, started: float = 0.0, keeper: bool = False) -> Process:
    return Process(pid, parent, "S", started, "app", "web", keeper)


SHELL = process(10, 1)
FORKING = process(20, 10, started=5)
CHILD = process(21, 20, started=9)
OTHER_CHILD = process(22, 20, started=9)
STRANGER = process(30, 11)
KEEPER = process(40, 10, keeper=True)
TEMPLATE = process(41, 40)
WORKER = process(42, 40)
SERVES = process(43, 42)
ALL = {
    each.pid: each
    for each in (SHELL, FORKING, CHILD, OTHER_CHILD, STRANGER, KEEPER, TEMPLATE, WORKER, SERVES)
}


@pytest.mark.parametrize(
    ("who", "holders", "made", "origin"),
    [
        pytest.param(CHILD, [CHILD], None, ("", 0), id="alone"),
        pytest.param(CHILD, [CHILD, FORKING], None, ("inherited", 20), id="of its parent"),
        pytest.param(FORKING, [CHILD, FORKING], None, ("", 0), id="the parent"),
        pytest.param(CHILD, [CHILD, OTHER_CHILD], None, ("inherited", 20), id="of both's parent"),
        pytest.param(CHILD, [CHILD, STRANGER], None, ("", 0), id="a stranger's too"),
        pytest.param(CHILD, [CHILD, FORKING], 8.0, ("inherited", 20), id="made before it"),
        pytest.param(CHILD, [CHILD, FORKING], 12.0, ("", 0), id="made after it was forked"),
        pytest.param(KEEPER, [KEEPER], None, ("kept", 0), id="parked"),
        pytest.param(KEEPER, [KEEPER, WORKER], None, ("kept", 0), id="kept"),
        pytest.param(WORKER, [KEEPER, WORKER], None, ("serves", 40), id="a worker"),
        pytest.param(SERVES, [KEEPER, SERVES], None, ("serves", 40), id="a worker's child"),
        pytest.param(SERVES, [SERVES, WORKER], None, ("inherited", 42), id="not kept"),
    ],
)
def test_origins(who: Process, holders: list[Process], made: float | None, origin: Origin) -> None:
    assert origin_of(who, holders, ALL.get, kept=True, made=made) == origin


def test_a_keepers_listener_is_not_kept() -> None:
    """It has a listener because it bound it."""
    assert origin_of(KEEPER, [KEEPER, WORKER], ALL.get, kept=False, made=None) == ("", 0)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("socketkeep: keeper [chat]", True),
        ("/usr/bin/python3 -m socketkeep serve app:handle", True),
        ("python3.12 -X dev -m socketkeep serve app:handle", True),
        ("/venv/bin/python /venv/bin/socketkeep serve app:handle", True),
        ("/venv/bin/socketkeep serve app:handle", True),
        ("/venv/bin/python -m socketkeep._admin._successor 7", True),
        ("socketkeep: worker 0 generation 1", False),
        ("python -m socketkeep._worker 4", False),
        ("python -m socketkeep holders :7000", False),
        ("vi socketkeep serve", False),
    ],
)
def test_keepers_are_told_by_their_command_line(command: str, expected: bool) -> None:
    assert is_keeper(command) is expected
