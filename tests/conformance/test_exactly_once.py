"""Real clients, through kills of those who answer them: nothing is lost, and nothing is twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.storm_of_kills import storms

SEED = 20261129


@pytest.mark.parametrize("model", ["fork", "prefork", "thread", "async"])
def test_redis_py_counts_through_kills(model: str, tmp_path: Path) -> None:
    result = storms(tmp_path, model, 100, SEED)
    assert not result.wrong
    assert result.lost == 0
    assert result.crashes > 50


def test_redis_py_counts_through_kills_over_tls(tmp_path: Path) -> None:
    """That the edge has: it tells how much has passed."""
    result = storms(tmp_path, "async", 100, SEED, tls=True)
    assert not result.wrong
    assert result.lost == 0
    assert result.crashes > 50


def test_redis_py_counts_through_kills_over_a_bad_link() -> None:
    storm = ("tests.conformance.storm_of_kills", "async", "60", "--lossy", "--seed", str(SEED))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", *storm],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=58,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
