"""The place where workers without a keeper, and a keeper that takes them over, meet."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from socketkeep._wire import _rendezvous as rendezvous
from tests._processes import open_sockets


def test_each_finds_the_other(tmp_path: Path) -> None:
    place = str(tmp_path / "shop.d")
    with rendezvous.listen(place, "17.sock") as listener:
        assert os.stat(place).st_mode & 0o777 == 0o700
        assert rendezvous.worker_sockets(place) == ["17.sock"]
        assert rendezvous.accept(listener) is None
        near = rendezvous.connect(place, "17.sock")
        far = rendezvous.accept(listener)
        assert near is not None
        assert far is not None
        with near, far:
            assert rendezvous.peer_pid(near) == rendezvous.peer_pid(far) == os.getpid()
            near.send(b"whole")
            assert far.recv(100) == b"whole"


def test_a_path_too_long_for_an_address(tmp_path: Path) -> None:
    place = str(tmp_path / ("x" * 200) / "shop.d")
    with rendezvous.listen(place, rendezvous.KEEPER):
        found = rendezvous.connect(place, rendezvous.KEEPER)
        assert found is not None
        found.close()


def test_nobody(tmp_path: Path) -> None:
    place = str(tmp_path / "shop.d")
    before = open_sockets()
    assert rendezvous.worker_sockets(place) == []
    assert rendezvous.connect(place, "17.sock") is None
    rendezvous.listen(place, "17.sock").close()
    assert rendezvous.worker_sockets(place) == ["17.sock"], "what a dead one left"
    assert rendezvous.connect(place, "17.sock") is None
    rendezvous.leave(place, "17.sock")
    assert not os.path.exists(place)
    assert open_sockets() == before


def test_the_place_of_one_that_has_died_is_taken(tmp_path: Path) -> None:
    place = str(tmp_path / "shop.d")
    rendezvous.listen(place, rendezvous.KEEPER).close()
    with rendezvous.listen(place, rendezvous.KEEPER):
        found = rendezvous.connect(place, rendezvous.KEEPER)
        assert found is not None
        found.close()
    rendezvous.leave(place, "17.sock")
    assert os.listdir(place) == [rendezvous.KEEPER], "another's is left"


def test_a_place_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError):
        rendezvous.listen(str(file), "17.sock")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError):
        rendezvous.listen(str(tmp_path / "link"), "17.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_the_place_of_another_users_workers(tmp_path: Path) -> None:
    """It is theirs, and root's socket in it is one that they can connect to."""
    place = tmp_path / "shop.d"
    os.close(rendezvous.open_directory(str(place), 61234))
    assert (place.stat().st_uid, place.stat().st_mode & 0o777) == (61234, 0o700)
    with rendezvous.listen(str(place), rendezvous.KEEPER, 61234):
        assert (place / rendezvous.KEEPER).stat().st_mode & 0o777 == 0o666
        with pytest.raises(PermissionError, match="belongs to uid 61234"):
            rendezvous.open_directory(str(place), 61235)
        with pytest.raises(PermissionError, match="belongs to uid 61234"):
            rendezvous.listen(str(place), "17.sock")
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(OSError, match="link"):
        rendezvous.open_directory(str(tmp_path / "link"), 61234)


def test_another_users_process_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "shop.d")
    before = open_sockets()
    with rendezvous.listen(place, "17.sock") as listener:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(f"{place}/17.sock")
            monkeypatch.setattr(rendezvous, "credentials_of", lambda _: (1, 12345))
            assert rendezvous.accept(listener) is None
        assert rendezvous.connect(place, "17.sock") is None
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as worker:
            worker.connect(f"{place}/17.sock")
            found = rendezvous.accept(listener, 12345)
            assert found is not None
            found.close()
    assert open_sockets() == before
