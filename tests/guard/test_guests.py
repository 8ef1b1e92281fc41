"""The sidecar's table: who may have what, and what a server's own guard makes of it."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from socketkeep._guard import _sidecar
from socketkeep._guard._program import ServerRefused, Sidecar


class Scene:
    """A sidecar whose loop is here, and its guests."""

    def __init__(self, path: str, most: int = 3) -> None:
        self.path = path
        self.listener = _sidecar.listen(path)
        self.server = _sidecar.GuardServer(self.listener, most)

    def meet(self, name: str = "app") -> tuple[Sidecar, dict[str, int] | Exception]:
        """Have a server's guard open it; return that, and what it was given or how it was not."""
        client = Sidecar(self.path, name)
        found: list[dict[str, int] | Exception] = []

        def run() -> None:
            try:
                found.append(client.open())
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert select.select([self.listener], [], [], 10.0)[0], "it does not come"
        guest = self.server._accept()
        self.server._guests[guest.sock.fileno()] = guest
        self.hear()
        thread.join(10.0)
        return client, found[0]

    def hear(self) -> None:
        """Take a word of the guest that came last."""
        fd, guest = list(self.server._guests.items())[-1]
        if not self.server._hear(guest):
            self.server._end(self.server._guests.pop(fd))

    def close(self) -> None:
        for fd, guest in tuple(self.server._guests.items()):
            self.server._end(self.server._guests.pop(fd))
            assert guest.sock.fileno() == -1
        for held in self.server.stored.values():
            for fd in held.values():
                os.close(fd)
        self.listener.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def scene(**options: int) -> Scene:
        scenes.append(Scene(str(tmp_path / f"{len(scenes)}.sock"), **options))
        return scenes[-1]

    yield scene
    for each in scenes:
        each.close()


def test_what_is_stored_is_given_to_the_next(make: Callable[..., Scene]) -> None:
    scene = make()
    client, found = scene.meet()
    assert found == {}
    memory = os.memfd_create("stored")
    os.write(memory, b"text")
    for name in ("a", "b"):
        client.tell(f"FDSTORE=1\nFDNAME={name}", memory)
        scene.hear()
    client.tell("FDSTOREREMOVE=1\nFDNAME=b")
    scene.hear()
    os.close(memory)
    assert not client.pending
    client.close("the end of the test")
    scene.hear()
    assert list(scene.server.stored) == ["app"]
    other, nothing = scene.meet("other")
    assert nothing == {}
    again, given = scene.meet()
    assert isinstance(given, dict)
    assert os.pread(given["a"], 10, 0) == b"text"
    assert list(given) == ["a"]
    os.close(given["a"])
    again.close("")
    other.close("")


def test_there_is_one_server_of_a_name(make: Callable[..., Scene]) -> None:
    scene = make()
    client, _ = scene.meet()
    _, refused = scene.meet()
    assert isinstance(refused, ServerRefused)
    assert "a server named 'app' is connected" in str(refused)
    client.close("")
    scene.hear()
    client, found = scene.meet()
    assert found == {}
    client.close("")


def test_it_has_a_bound(make: Callable[..., Scene]) -> None:
    scene = make(most=1)
    client, _ = scene.meet()
    for name in ("a", "b"):
        client.tell(f"FDSTORE=1\nFDNAME={name}", 0)
        scene.hear()
    assert list(scene.server.stored["app"]) == ["a"]
    client.close("")


def test_another_user_is_refused(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make()
    uid = os.geteuid()
    monkeypatch.setattr(_sidecar, "_UCRED", _Ucred(uid + 1))
    _, refused = scene.meet()
    assert isinstance(refused, ServerRefused)
    assert f"it is of user {uid + 1}" in str(refused)


class _Ucred:
    """What the kernel would say of a process of another user."""

    size = 12

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def unpack(self, _data: bytes) -> tuple[int, int, int]:
        return 1, self._uid, 1


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (b"HELLO=9\nSERVER=b", b"it speaks version '9', and the guard 1"),
        (b"HELLO=1\nSERVER=", b"a server has a name of 1 to 255 characters"),
        (b"\xff\xfe", b"it speaks version None, and the guard 1"),
    ],
)
def test_what_is_no_server_is_refused(make: Callable[..., Scene], hello: bytes, why: bytes) -> None:
    scene = make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.connect(scene.path)
        other.send(hello)
        guest = scene.server._accept()
        scene.server._guests[guest.sock.fileno()] = guest
        scene.hear()
        assert other.recv(1000) == b"REFUSED=" + why
        assert other.recv(1000) == b""
    assert not scene.server._guests


def test_a_path_is_taken_from_the_dead_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "guard.sock")
    _sidecar.listen(path).close()
    with _sidecar.listen(path), pytest.raises(OSError, match="in use"):
        _sidecar.listen(path)
