"""Where a server's control socket is, and what a server without a name is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from socketkeep._admin._protocol import default_name, make_runtime_dir, runtime_dir


def test_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that is set: our own variable, the session's, the system's."""
    monkeypatch.setenv("SOCKETKEEP_RUNTIME_DIR", "/a")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert runtime_dir() == "/a"
    monkeypatch.delenv("SOCKETKEEP_RUNTIME_DIR")
    assert runtime_dir() == "/run/user/7/socketkeep"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_dir() == "/run/socketkeep"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runtime_dir() == "/tmp/socketkeep-1000"


def test_making_the_runtime_directory(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is private when made, kept when there, refused when it is another user's or a file."""
    assert make_runtime_dir() == str(runtime)
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert make_runtime_dir() == str(runtime)
    owner = runtime.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match=f"belongs to uid {owner}"):
        make_runtime_dir()
    runtime.rmdir()
    runtime.touch()
    with pytest.raises(NotADirectoryError, match="not a directory"):
        make_runtime_dir()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("chat:handle", "chat"),
        ("shop.chat:handle", "chat"),
        ("examples/chat.py:handle", "chat"),
        ("./my app.py:handle", "my_app"),
        ("../x/.py:handle", "server"),
    ],
)
def test_default_names(target: str, name: str) -> None:
    """A server without a name is called after its module or file."""
    assert default_name(target) == name
