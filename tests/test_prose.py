"""The style of the documentation: what each rule finds, and that no more is found than was."""

from __future__ import annotations

import pytest
from scripts.prose import (
    BOUNDS,
    NOTES,
    RULES,
    WORDS,
    Finding,
    findings,
    helps,
    main,
    sentences,
    too_many,
)

LONG = "The server " + "moves and " * 20 + "stops."


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("What is sent goes out.", "headless"),
        ("Whoever connects is served.", "headless"),
        ("What is a commit?", None),
        ("[What a commit is] says more.", None),
        ("The server sends what is queued.", None),
        (LONG, "long"),
        (LONG.replace("moves and moves and ", ""), None),
        ("It is kept, was moved, and is then parked.", "passive"),
        ("It is kept and was moved.", None),
        ("The server simply goes on.", "word"),
        ("The server goes on.", None),
    ],
)
def test_rules(sentence: str, rule: str | None) -> None:
    assert [name for name, breaks in RULES.items() if breaks(sentence)] == ([rule] if rule else [])


def test_each_word_is_found() -> None:
    for word in WORDS:
        assert [each.rule for each in findings(f"It is {word} so.", "page")] == ["word"]
    assert not findings("A robustly-made thing, robust-looking.", "page")


def test_the_text_is_what_a_reader_sees() -> None:
    """No code, no headings; a sentence has the line of its paragraph; a table's cells are text."""
    page = (
        "# What it is\n\nOne. Two `What. x` here;\nthree of 1.5 s.\n\n"
        "```text\nWhat it says.\n```\n\n| a | b |\n|---|---|\n| What | four |\n"
    )
    assert list(sentences(page)) == [
        (3, "One."),
        (3, "Two `code` here; three of 1.5 s."),
        (10, "a"),
        (10, "b"),
        (12, "What"),
        (12, "four"),
    ]
    assert [each.place for each in findings(page, "p.md")] == ["p.md:12"]


@pytest.mark.parametrize("page", ["docs/performance.md", "docs/how-to/deploy.md"])
@pytest.mark.parametrize("rule", BOUNDS)
def test_more_than_the_bound_is_refused(page: str, rule: str) -> None:
    """The notes of those who work on the project have a bound of their own."""
    bound = BOUNDS[rule].in_notes if page in NOTES else BOUNDS[rule].elsewhere
    found = [Finding(f"{page}:{line}", rule, "") for line in range(bound + 1)]
    assert too_many(found) == found
    assert too_many(found[:-1]) == []


def test_the_documentation_keeps_the_style(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prose.py", "--check"])
    assert main() == 0
    assert capsys.readouterr() == ("", "")


def test_the_help_of_each_command_and_option_is_looked_at() -> None:
    told = dict(helps())
    assert {"serve", "holders", "--threads", "--bind allow=", "disconnect --force"} <= told.keys()
    assert all(told.values())
