"""The filter of the table of connections: words, all of which a connection must match.

A word is looked for in all that a connection is called by, or is a field and what it is to be:
``state=parked``, ``idle>600``.  No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from socketkeep._admin._reports import ConnectionReport

#: Characters of a filter: nobody types more, and each word is looked for in many rows.
MOST: Final = 200

Match = Callable[[ConnectionReport, str], bool]

FIELDS: Final = ConnectionReport.__struct_fields__
_YES: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_FLAGS: Final = frozenset(("busy", "stored", "committed"))
_NUMBERS: Final = frozenset(
    (
        *("owner", "generation", "epoch", "age", "idle", "bytes_in", "bytes_out"),
        *("worker", "slot"),
    )
)
_ABOUT_FIELD: Final = re.compile(rf"({'|'.join(FIELDS)})([=<>])(.*)")


def text_of(report: ConnectionReport, field: str) -> str:
    """Return a field as the commands print it, where it is no number."""
    value = getattr(report, field)
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list):
        return " ".join(value)
    return str(value)


def searched_text(report: ConnectionReport) -> str:
    """Return what a word without a field is looked for in: made once, and kept with the row."""
    words = [
        *(report.id, report.peer, report.listener, report.state, report.name),
        *report.groups,
        *(f"{key}={value}" for key, value in report.labels.items()),
    ]
    return "\n".join(words).casefold()


def parse_filter(text: str) -> list[Match]:
    """Return what a connection and its `searched_text` must meet.

    Raises ValueError.
    """
    if len(text) > MOST:
        raise ValueError(f"filter has at most {MOST} characters, not {len(text)}")
    return [match for word in text.split() if (match := _match(word)) is not None]


def _match(word: str) -> Match | None:
    about = _ABOUT_FIELD.fullmatch(word)
    if about is None:
        return _anywhere(word.casefold())
    field, sign, value = about.groups()
    if not value:
        return None  # it is being typed
    if field in _NUMBERS:
        return _compared(field, sign, value)
    if sign != "=":
        raise ValueError(f"filter: {field} is no number: {field}=, and not {field}{sign}")
    if field in _FLAGS:
        if value.lower() not in _YES:
            raise ValueError(f"filter: {field} is yes or no, not {value!r}")
        wanted = _YES[value.lower()]
        return lambda report, _text: getattr(report, field) is wanted
    part = value.casefold()
    return lambda report, _text: part in text_of(report, field).casefold()


def _anywhere(word: str) -> Match:
    if not word.isdecimal():
        return lambda _report, text: word in text
    number = int(word)
    return lambda report, text: word in text or number in (report.worker, report.owner)


def _compared(field: str, sign: str, value: str) -> Match:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"filter: {field} is a number, not {value!r}") from None

    def match(report: ConnectionReport, _text: str) -> bool:
        there = getattr(report, field)
        if there is None:
            return False
        if sign == "=":
            return bool(there == number)
        return bool(there > number if sign == ">" else there < number)

    return match
