"""A deprecated function works as before, and warns at the line that calls it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from socketkeep._base._deprecating import deprecated
from tests.surface.collected import fact_of

USE_NEW = "use new(); version 2 no longer has it"


@deprecated(USE_NEW)
def old(first: int, *, second: int = 2) -> int:
    """Return the sum."""
    return first + second


@deprecated(USE_NEW)
async def old_coroutine() -> int:
    return 1


class Thing:
    @deprecated(USE_NEW)
    def __init__(self, value: int = 3) -> None:
        self._value = value

    @property
    @deprecated(USE_NEW)
    def value(self) -> int:
        return self._value

    @deprecated(USE_NEW)
    def method(self) -> int:
        return self._value


@pytest.mark.parametrize(
    ("call", "returned"),
    [
        (lambda: old(1), 3),
        (lambda: old(1, second=3), 4),
        (lambda: asyncio.run(old_coroutine()), 1),
        (lambda: silent(Thing).method(), 3),
        (lambda: silent(Thing).value, 3),
        (lambda: Thing(4)._value, 4),
    ],
)
def test_it_warns_of_the_line_that_calls(call: Callable[[], Any], returned: int) -> None:
    with pytest.warns(DeprecationWarning, match="use new") as seen:
        assert call() == returned
    assert [(str(each.message), each.filename) for each in seen] == [(USE_NEW, __file__)]


def silent(make: Callable[[], Thing]) -> Thing:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def test_it_is_what_it_was_but_for_the_mark() -> None:
    assert old.__doc__ == "Return the sum."
    assert fact_of(old) == {
        "kind": "function",
        "parameters": [["first", "either", None], ["second", "keyword", "2"]],
        "deprecated": USE_NEW,
    }
    assert fact_of(old_coroutine)["kind"] == "coroutine function"
