"""A log file that this process may not open anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from socketkeep._base import _log_file


def test_what_may_not_be_opened_anew_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rotated file gets the lines until another one may be opened; asked for, it is told."""
    path, rotated = tmp_path / "server.log", tmp_path / "server.log.1"
    file = _log_file.LogFile(str(path))
    file.current().write(b"one\n")
    path.rename(rotated)
    with monkeypatch.context() as patch:
        patch.setattr(_log_file, "file_sink", _not_permitted)
        file.current().write(b"two\n")
        with pytest.raises(PermissionError):
            file.renewed()
        file.current().write(b"three\n")
    file.current().write(b"four\n")
    assert rotated.read_text() == "one\ntwo\nthree\n"
    assert path.read_text() == "four\n"
    file.close()


def test_without_any_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log_file, "file_sink", _not_permitted)
    with pytest.raises(PermissionError):
        _log_file.LogFile(str(tmp_path / "server.log")).current()


def _not_permitted(path: str) -> None:
    raise PermissionError(1, path)
