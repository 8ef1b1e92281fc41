"""What the soak sees of a process."""

from __future__ import annotations

import os
import select

import pytest

from tests.soak.looking import descriptors


def test_descriptors_and_what_epolls_watch() -> None:
    before, watched = descriptors(os.getpid())
    with select.epoll() as epoll:
        read, write = os.pipe()
        epoll.register(read, select.EPOLLIN)
        assert descriptors(os.getpid()) == (before + 3, watched + 1)
        os.close(read)
        os.close(write)


def test_one_that_is_closed_meanwhile_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    before = descriptors(os.getpid())
    seen = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*seen(path), "1000000"])
    assert descriptors(os.getpid()) == before
    os.close(read)
    os.close(write)


def test_a_process_that_has_ended() -> None:
    with pytest.raises(FileNotFoundError):
        descriptors(2**22 + 1)
