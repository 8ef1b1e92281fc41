"""What the soak sees of a process."""

from __future__ import annotations

import os
import select
import socket

import pytest

from tests.soak.looking import clients_of, descriptors, processes


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


def test_a_session_has_processes() -> None:
    assert processes(os.getsid(0)) >= 1
    assert processes(-1) == 0


def test_the_clients_of_a_process_are_those_that_it_has_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        port = peer.getsockname()[1]
        assert port not in clients_of(os.getpid())
        listener.accept()[0].close()
        served = socket.create_connection(listener.getsockname())
        accepted, (_, later) = listener.accept()
        with peer, served, accepted:
            assert later in clients_of(os.getpid())
