"""Type checkers know the installed package as strictly as they can know anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.package.conftest import ROOT

EXAMPLE = Path(__file__).parent / "example"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, from which nothing leads to this checkout."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project"))


def mypy(project: Path, python: Path, file: str) -> list[str]:
    """Return the lines that it complains of, with the complaints."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), file],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return re.findall(r"^(.*:\d+: error: .*)$", done.stdout, re.MULTILINE)


def pyright(project: Path, python: Path, *arguments: str) -> dict[str, Any]:
    """Return what it has found."""
    (project / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *arguments],
        cwd=project,
        env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        pytest.fail(done.stdout + done.stderr)
    return found


def complaints(found: dict[str, Any]) -> list[str]:
    return [
        f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}: error: {each['message']}"
        for each in found["generalDiagnostics"]
        if each["severity"] == "error"
    ]


def lines(complaints: list[str]) -> set[int]:
    return {int(each.split(":")[1]) for each in complaints}


def mistakes() -> set[int]:
    text = (EXAMPLE / "mistakes.py").read_text().splitlines()
    return {number for number, line in enumerate(text, 1) if line.endswith("# mistake")}


def test_mypy(project: Path, python: Path) -> None:
    assert mypy(project, python, "gateway.py") == []
    assert lines(found := mypy(project, python, "mistakes.py")) == mistakes(), found


@pytest.mark.timeout(120)  # at its first run it installs itself
def test_pyright(project: Path, python: Path) -> None:
    assert complaints(pyright(project, python, "gateway.py")) == []
    found = complaints(pyright(project, python, "mistakes.py"))
    assert lines(found) == mistakes(), found


@pytest.mark.timeout(120)
def test_all_that_is_public_has_types(project: Path, python: Path) -> None:
    found = pyright(project, python, "--verifytypes", "socketkeep", "--ignoreexternal")
    complete = found["typeCompleteness"]
    counts = complete["exportedSymbolCounts"], complete["otherSymbolCounts"]
    assert [each["withUnknownType"] for each in counts] == [0, 0]
    # Without a written type it is what each checker makes of it: so only what is for the server.
    public = attributes()
    guessed = {
        ".".join(each["name"].split(".")[-2:])
        for each in complete["symbols"]
        if each["category"] == "variable" and not each["isTypeKnown"]
    }
    assert guessed & public == set()
    known = {".".join(each["name"].split(".")[-2:]) for each in complete["symbols"]}
    assert len(known & public) > 100


def attributes() -> set[str]:
    """Return the public attributes, each behind its class."""
    code = (
        "import json; from tests.surface.collected import collect; names = collect()['names'];"
        "print(json.dumps([n for n in names if names[n]['kind'] == 'attribute']))"
    )
    alone = ROOT / "build" / "alone" / "bin" / "python"
    done = subprocess.run([alone, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {".".join(name.split(".")[-2:]) for name in json.loads(done.stdout)}
