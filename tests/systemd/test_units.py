"""The units in ``contrib/systemd``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.harness.configuration import option

UNITS: Final = Path(__file__).parents[2] / "contrib" / "systemd"
SERVICE: Final = UNITS / "socketkeep@.service"


def settings(unit: Path) -> dict[str, list[str]]:
    """Return what a unit sets."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def installed(directory: Path) -> None:
    """Write the units with the command where this Python's environment has it."""
    here = shutil.which("socketkeep", path=str(Path(sys.executable).parent))
    assert here is not None
    for each in UNITS.iterdir():
        text = each.read_text().replace("/usr/bin/socketkeep", here)
        (directory / each.name).write_text(text)


@pytest.mark.parametrize("unit", sorted(UNITS.iterdir()), ids=lambda unit: unit.name)
def test_systemd_verifies_it(unit: Path, tmp_path: Path) -> None:
    """Without a word."""
    installed(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        timeout=30.0,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_it_safe(tmp_path: Path) -> None:
    """Its exposure is at most 2.0, of 10."""
    installed(tmp_path)
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20"),
            str(tmp_path / SERVICE.name),
        ],
        capture_output=True,
        text=True,
        timeout=30.0,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stores_size_is_said_twice_the_same() -> None:
    """Once to systemd, and once to the server of a systemd that does not say it."""
    found = settings(SERVICE)
    assert f"FDSTORE={found['FileDescriptorStoreMax'][0]}" in found["Environment"]


def test_a_stop_has_time() -> None:
    """The service manager waits for longer than the server gives its connections."""
    (seconds,) = re.findall(r"^(\d+)s$", settings(SERVICE)["TimeoutStopSec"][0])
    assert float(seconds) > option("graceful_timeout").default + 10
