"""The style of the documentation and the help: what each rule finds, and that nothing is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.prose import RULES, WORDS, findings, helps, main, sentences

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


def test_a_finding_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("What is sent goes out.\n")
    monkeypatch.setattr("scripts.prose.ROOT", tmp_path)
    monkeypatch.setattr("scripts.prose.pages", lambda: [page])
    monkeypatch.setattr("sys.argv", ["prose.py", "--check"])
    assert main() == 1
    assert capsys.readouterr() == (
        "page.md:1: headless: What is sent goes out.\n",
        "headless: 1 sentences\n",
    )
    monkeypatch.setattr("sys.argv", ["prose.py"])
    assert main() == 0


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
