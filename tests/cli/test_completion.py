"""What bash completes, asked of bash itself."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.cli.fake_server import FakeServer

PROGRAM = f"{sysconfig.get_path('scripts')}/socketkeep"
# `complete` tells bash what to call; a script calls it as bash would, and prints what it answers.
SCRIPT = """
eval "$(_SOCKETKEEP_COMPLETE=bash_source "$1")" || exit 1
compopt() { COMPREPLY=("files"); }
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
_socketkeep_completion "$1" || exit 1
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "bash", PROGRAM, "socketkeep", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("serve", "--mod"), ["--model"]),
        (("serve", "--model", "f"), ["fork"]),
        (("serve", "--log-file", "x"), ["files"]),
        (("serve", "app"), ["files"]),
        (("doc",), ["doctor"]),
    ],
)
def test_a_command_an_option_a_value(words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_the_name_of_a_server_that_runs(runtime: Path) -> None:
    os.makedirs(runtime, mode=0o700)
    with FakeServer(runtime / "shop.sock"), FakeServer(runtime / "chat.sock"):
        assert completed("reload", "--name", "s") == ["shop"]
        assert completed("reload", "--name", "") == ["chat", "shop"]
    assert completed("reload", "--name", "s") == []
