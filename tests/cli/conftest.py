"""Fixtures of the command line's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.harness.server import Finished

Cli: TypeAlias = Callable[..., Finished]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runtime directory, and none of the user's own settings."""
    for variable in list(os.environ):
        if variable.startswith("SOCKETKEEP_") and variable != "SOCKETKEEP_PURE":
            monkeypatch.delenv(variable)
    path = tmp_path / "run"
    monkeypatch.setenv("SOCKETKEEP_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the command line in a process of its own."""

    def run(*arguments: str, **environment: str) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "socketkeep", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
