"""A minute of the soak, and one of a server that leaks on purpose, which it has to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

SEED: Final = 20261130


def soak(directory: Path, *arguments: str) -> tuple[int, Any, str]:
    """Run it; return its exit code, what it has written, and what it has said."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.soak", "--seed", str(SEED)),
            *("--report", str(directory), *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=140,
        check=False,
    )
    return done.returncode, json.loads((directory / "soak.json").read_text()), done.stdout


@pytest.mark.timeout(150)
def test_a_minute(tmp_path: Path) -> None:
    """Nothing is lost, and nothing rises."""
    code, written, said = soak(tmp_path, "--seconds", "35", "--every", "1.5")
    assert code == 0, said[-6000:]
    assert written["faults"] == []
    assert len(written["events"]) >= 8
    assert {each["role"] for each in written["trends"]} >= {"keeper", "guard", "edge", "admin"}
    assert sum(t["answers"] for of in written["tallies"].values() for t in of.values()) > 1000


@pytest.mark.timeout(150)
def test_a_leak_is_found(tmp_path: Path) -> None:
    """Of a descriptor, a registration, and of memory, at each reload."""
    code, written, said = soak(
        *(tmp_path, "--leaky", "--seconds", "12", "--every", "0.3"),
        *("--sites", "thread", "--events", "reload"),
    )
    assert code == 1, said[-6000:]
    rising = {fault.split(" rise")[0] for fault in written["faults"]}
    assert rising == {
        f"thread: keeper: {what}" for what in ("descriptors", "registrations", "memory")
    }
