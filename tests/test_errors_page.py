"""The page of errors has every public error, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs._ext.declared import PAGES

import socketkeep
from socketkeep import SocketkeepError

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"
PUBLIC = [
    value
    for name in socketkeep.__all__
    if isinstance(value := getattr(socketkeep, name), type)
    and issubclass(value, SocketkeepError)
    and value is not SocketkeepError
]


def test_the_page_is_made_from_the_code() -> None:
    for name in ("errors", "errno"):
        assert f"{{{{ declared: {name} }}}}" in PAGE.read_text()


@pytest.mark.parametrize("kind", PUBLIC)
def test_every_public_error_is_on_it_with_cause_and_remedy(kind: type[SocketkeepError]) -> None:
    (section,) = [
        part for part in PAGES["errors"]().split("### ") if part.partition("\n")[0] == kind.__name__
    ]
    assert "*Also:* `" in section, "it is no exception of the standard library besides"
    assert kind.__doc__
    assert " ".join(kind.__doc__.split()) in section
    assert "remedy" in vars(kind), "say in its class what to do about it"
    assert kind.remedy in section


def test_the_standard_exceptions_are_named_as_one_writes_them() -> None:
    page = PAGES["errors"]()
    for also in ("`TimeoutError`, `OSError`", "`socket.gaierror`, `OSError`", "`ssl.SSLError`"):
        assert f"*Also:* {also}" in page
