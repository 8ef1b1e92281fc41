"""Man pages and completion scripts, made from the commands as they are declared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripts import shell_files

from tests.cli.shells import need
from tests.harness.command import COMMANDS
from tests.harness.configuration import LISTENER_OPTIONS, OPTIONS


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["shell_files.py", str(tmp_path)])
    shell_files.main()
    return tmp_path


def test_each_command_has_a_page(made: Path) -> None:
    pages = {path.name for path in (made / "share/man/man1").iterdir()}
    assert pages == {"socketkeep.1", *(f"socketkeep-{name}.1" for name in COMMANDS)}
    program = (made / "share/man/man1/socketkeep.1").read_text()
    assert all(shell_files.roff(f"socketkeep-{name}(1)") in program for name in COMMANDS)


def test_the_page_of_serve_has_every_option(made: Path) -> None:
    page = (made / "share/man/man1/socketkeep-serve.1").read_text()
    for declared in OPTIONS:
        for word in (*declared.flags, declared.variable if declared.flags else ""):
            assert shell_files.roff(word) in page
    assert page.index(".SS Log\n") < page.index(shell_files.roff("--log-level"))
    for each in LISTENER_OPTIONS:
        assert f".B {shell_files.roff(each.name)}=\n" in page


def test_the_scripts_are_where_shells_look(made: Path) -> None:
    for shell, path in shell_files.SCRIPTS.items():
        assert f"_SOCKETKEEP_COMPLETE={shell}_complete" in (made / path).read_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".rst files", "\\&.rst files"),
        ("'tis", "\\&'tis"),
        ("a  b\n c", "a b c"),
        ("C:\\new --x", "C:\\enew \\-\\-x"),
        ("as `--x` has it", "as \\fB\\-\\-x\\fR has it"),
    ],
)
def test_text_in_roff(text: str, shown: str) -> None:
    assert shell_files.roff(text) == shown


@pytest.mark.process
def test_the_pages_are_rendered_without_a_complaint(made: Path) -> None:
    """By man and by mandoc, whose rules are stricter."""
    pages = sorted(map(str, (made / "share/man/man1").iterdir()))
    for name in ("man", "mandoc"):
        need(name)
    linted = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in linted.stdout.splitlines() if "missing date" not in line]
    assert complaints == []
    shown = subprocess.run(
        ["man", "--warnings", "--local-file", *pages],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stderr == ""
    text = " ".join(shown.stdout.split())
    for name in COMMANDS:
        assert f"NAME socketkeep-{name} - " in text
    assert "-k, --model auto|fork|prefork|thread|async" in text
