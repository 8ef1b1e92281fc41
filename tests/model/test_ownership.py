"""The model of who serves a connection and who holds it: it holds, and the check can fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from docs._ext.declared import PAGES

from tests.model.checking import MODEL, Model

#: Two workers at a time, and a keeper that dies with one of them, are enough for every mutant.
_BOUNDS: Final = {
    "WORKERS": 2,
    "KEEPERS": 2,
    "WORKER_DEATHS": 1,
    "GUARD_DEATHS": 0,
    "LAST_EPOCH": 3,
}
#: The guard may die, too, of a connection that moves less often.
_WITH_GUARD: Final = {**_BOUNDS, "GUARD_DEATHS": 1, "LAST_EPOCH": 2}
_MUTANTS: Final = re.findall(r"^#define ([A-Z_]+) \d+ +/\*", MODEL.read_text(), re.MULTILINE)


def test_the_model_has_the_table_of_the_code() -> None:
    text = MODEL.read_text()
    rows = re.findall(r":: state == (\w+) && event == (\w+) -> state = (\w+)", text)
    _head, *code = re.findall(r"^\| (.*) \| (.*) \| (.*) \|$", PAGES["ownership"](), re.MULTILINE)
    assert len(rows) == len(code)
    assert set(rows) == {(old, event.upper().replace(" ", "_"), new) for old, event, new in code}


def test_there_are_never_two_owners_and_it_is_never_lost(tmp_path: Path) -> None:
    checked = Model(tmp_path, **_BOUNDS).check()
    assert not checked.failed
    assert checked.states > 100_000, "it has been searched"


def test_the_guard_may_die_as_well(tmp_path: Path) -> None:
    checked = Model(tmp_path, **_WITH_GUARD).check()
    assert not checked.failed
    assert checked.states > 100_000, "it has been searched"


def test_the_check_can_fail(tmp_path: Path) -> None:
    model = Model(tmp_path, **_BOUNDS)
    missed = [name for n, name in enumerate(_MUTANTS, 1) if not model.check(n).failed]
    assert len(_MUTANTS) == 13
    assert not missed
