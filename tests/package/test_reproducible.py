"""The same commit gives the same bytes, in whichever directory and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.package.conftest import ROOT


@pytest.mark.timeout(240)
def test_they_are_built_again_as_they_were(tmp_path: Path, wheel: Path, sources: Path) -> None:
    clone = tmp_path / "elsewhere"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    build = "from scripts import release; release.build(release.ROOT / 'out')"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    for path in (sources, wheel):
        assert (clone / "out" / path.name).read_bytes() == path.read_bytes(), path.name
