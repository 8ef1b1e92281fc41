"""The right that is missing, and how to get it, as one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from socketkeep._inspect import _rights


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("1", "kernel.yama.ptrace_scope is 1, so that only ancestors may: run this as root"),
        ("2", "kernel.yama.ptrace_scope is 2, so that only root may: run this as root"),
        ("3", "nobody may until the system is booted"),
        ("0", "it has changed its user or runs a program with rights of its own"),
        (None, "it has changed its user or runs a program with rights of its own"),
    ],
)
def test_of_ones_own_process(
    scope: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rights, "has_capability", lambda: True)
    yama = tmp_path / "ptrace_scope"
    if scope is not None:
        yama.write_text(f"{scope}\n")
    told = _rights.missing_right(os.getpid(), yama)
    assert told.startswith(f"no right to trace process {os.getpid()} (")
    assert expected in told
    assert "\n" not in told


def test_of_another_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 61234)
    told = _rights.missing_right(os.getpid(), tmp_path / "none")
    assert "run this as root (sudo), which has CAP_SYS_PTRACE, or as user " in told


def test_of_root_without_the_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(_rights, "has_capability", lambda: False)
    assert "docker run --cap-add SYS_PTRACE" in _rights.missing_right(os.getpid())


def test_of_one_that_has_ended() -> None:
    assert _rights.missing_right(4194303) == "there is no process 4194303 any more"


@pytest.mark.parametrize(
    ("euid", "capable", "reason"),
    [
        (0, True, "refused though this has CAP_SYS_PTRACE: a security module"),
        (0, False, "this is root without CAP_SYS_PTRACE, as in a container"),
        (61234, False, "it is of user root: run this as that user, or as root"),
    ],
)
def test_which_and_why(
    euid: int, capable: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root is not told to run it as root."""
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(_rights, "has_capability", lambda: capable)
    line = _rights.why_unreadable([1, os.getpid()] if os.getuid() == 0 else [1])
    assert line.startswith("process")
    assert " 1 (" in line
    assert reason in line
    assert "\n" not in line
