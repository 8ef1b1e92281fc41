"""The model of who serves a connection and who holds it: it holds, and the check can fail."""

from __future__ import annotations

import re
from typing import Final

import pytest
from docs._ext.declared import PAGES

from tests.model.checking import MODEL, Model

#: Two workers at a time, and a keeper that dies with one of them, are enough for every mutant.
_TWO: Final = {"WORKERS": 2, "KEEPERS": 2}
_MUTATED: Final = {"WORKER_DEATHS": 1, "GUARD_DEATHS": 1, "LAST_EPOCH": 3}
_WITHOUT_GUARD: Final = {"WORKER_DEATHS": 2, "GUARD_DEATHS": 0, "LAST_EPOCH": 3}
#: The guard may die, too, and have a successor, of a connection that moves less often.
_WITH_GUARD: Final = {"WORKER_DEATHS": 1, "GUARD_DEATHS": 1, "LAST_EPOCH": 2}
_MUTANTS: Final = re.findall(r"^#define ([A-Z_]+) \d+ +/\*", MODEL.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The model of two workers and two keepers, built once."""
    return Model(tmp_path_factory.mktemp("model"), **_TWO)


def test_the_model_has_the_table_of_the_code() -> None:
    text = MODEL.read_text()
    rows = re.findall(r":: state == (\w+) && event == (\w+) -> state = (\w+)", text)
    _head, *code = re.findall(r"^\| (.*) \| (.*) \| (.*) \|$", PAGES["ownership"](), re.MULTILINE)
    assert len(rows) == len(code)
    assert set(rows) == {(old, event.upper().replace(" ", "_"), new) for old, event, new in code}


def test_there_are_never_two_owners_and_it_is_never_lost(model: Model) -> None:
    checked = model.check(**_WITHOUT_GUARD)
    assert not checked.failed
    assert checked.states > 1_000_000, "it has been searched"


def test_the_guard_may_die_as_well(model: Model) -> None:
    checked = model.check(**_WITH_GUARD)
    assert not checked.failed
    assert checked.states > 1_000_000, "it has been searched"


def test_the_check_can_fail(model: Model) -> None:
    missed = [n for n in range(1, len(_MUTANTS) + 1) if not model.check(n, **_MUTATED).failed]
    assert len(_MUTANTS) == 15
    assert not missed, _MUTANTS
