"""Listening: each form of address, what is inherited, and what is refused in one line."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from socketkeep import Listener, ListenError, OutOfResources, WouldBlock
from socketkeep._net import _listener


def connects(address: str | tuple[str, int], family: int = socket.AF_INET) -> bool:
    with socket.socket(family) as client:
        client.settimeout(5)
        try:
            client.connect(address)
        except ConnectionRefusedError:
            return False
        return True


def port_of(listener: Listener) -> int:
    port: int = listener.sock.getsockname()[1]
    return port


def test_port_zero_gets_a_port_that_is_named() -> None:
    with Listener.bind("127.0.0.1:0") as listener:
        assert listener.text == f"127.0.0.1:{port_of(listener)}"
        assert port_of(listener) > 0
        assert connects(("127.0.0.1", port_of(listener)))


def test_accept_gives_a_non_blocking_socket_or_says_there_is_none() -> None:
    with Listener.bind("127.0.0.1:0") as listener:
        with pytest.raises(WouldBlock, match=f"^accept on {listener.text} would block$"):
            listener.accept_socket()
        with socket.create_connection(listener.sock.getsockname()) as client:
            accepted, raw = listener.accept_socket()
            assert raw == client.getsockname()
            assert not accepted.getblocking()
            assert not accepted.get_inheritable()
            accepted.close()


@pytest.mark.parametrize("text", ["[::]:0", ":0"])
def test_every_interface_is_dual_stack_and_says_so(text: str) -> None:
    with Listener.bind(text) as listener:
        assert listener.describe() == f"[::]:{port_of(listener)} (IPv6 and IPv4)"
        assert connects(("127.0.0.1", port_of(listener)))
        assert connects(("::1", port_of(listener)), socket.AF_INET6)


def test_one_ipv6_address_is_not_dual_stack() -> None:
    with Listener.bind("[::1]:0") as listener:
        assert listener.describe() == f"[::1]:{port_of(listener)}"
        assert not connects(("127.0.0.1", port_of(listener)))


def test_a_unix_socket_has_its_mode_and_goes_with_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener.bind(f"unix:{path}", unix_mode=0o640) as listener:
        assert listener.text == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert connects(str(path), socket.AF_UNIX)
    assert not path.exists()


def test_an_abstract_name_leaves_no_file() -> None:
    with Listener.bind(f"unix:@socketkeep-test-{os.getpid()}") as listener:
        assert listener.text == f"unix:@socketkeep-test-{os.getpid()}"
        assert connects(f"\0socketkeep-test-{os.getpid()}", socket.AF_UNIX)


def test_the_file_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with Listener.bind(f"unix:{path}"):
        assert connects(str(path), socket.AF_UNIX)


def test_the_socket_of_a_live_server_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener.bind(f"unix:{path}") as first:
        with pytest.raises(ListenError, match=r"a server is listening there$") as caught:
            Listener.bind(f"unix:{path}")
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.address == f"unix:{path}"
        assert connects(str(path), socket.AF_UNIX)
        first.accept_socket()[0].close()  # the probe of the second
        first.accept_socket()[0].close()


def test_a_live_server_with_a_full_queue_is_live(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener.bind(f"unix:{path}", backlog=0):
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(str(path))
        with waiting, pytest.raises(ListenError, match="a server is listening there"):
            Listener.bind(f"unix:{path}")


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError, match="a file that is not a socket is in the way"):
        Listener.bind(f"unix:{path}")
    assert path.read_text() == "precious"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=f"the directory {tmp_path}/no does not exist"):
        Listener.bind(f"unix:{tmp_path}/no/s")


def test_of_many_who_find_a_dead_socket_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(20):
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(path))
        dead.close()
        made: list[Listener] = []
        refused: list[ListenError] = []

        def try_to_listen(
            made: list[Listener] = made, refused: list[ListenError] = refused
        ) -> None:
            try:
                made.append(Listener.bind(f"unix:{path}"))
            except ListenError as error:
                refused.append(error)

        threads = [threading.Thread(target=try_to_listen) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(made), len(refused)) == (1, 3)
        assert connects(str(path), socket.AF_UNIX)
        made[0].close()


def test_a_successor_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Listener.bind(f"unix:{path}")
    path.unlink()
    with Listener.bind(f"unix:{path}"):
        first.close()
        assert connects(str(path), socket.AF_UNIX)


@pytest.mark.process
def test_a_forked_child_that_closes_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener.bind(f"unix:{path}") as listener:
        pid = os.fork()
        if pid == 0:
            listener.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert connects(str(path), socket.AF_UNIX)


def test_a_port_in_use_is_named() -> None:
    with Listener.bind("127.0.0.1:0") as first:
        text = f"cannot listen on {first.text}: the address is in use"
        with pytest.raises(ListenError, match=f"^{text}$") as caught:
            Listener.bind(first.text)
        assert (caught.value.errno, caught.value.address) == (errno.EADDRINUSE, first.text)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1:0", "no interface of this machine has that address"),
        (f"{'x' * 64}:0", "the host name cannot be resolved"),
        ("fd://999", "no such descriptor is open in this process"),
    ],
)
def test_refusals_name_the_address(address: str, reason: str) -> None:
    with pytest.raises(ListenError, match=reason) as caught:
        Listener.bind(address)
    assert f"cannot listen on {address}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_inherited_descriptor_must_be_a_listening_stream_socket(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file, pytest.raises(ListenError, match="is not a socket"):
        Listener.bind(f"fd://{file.fileno()}")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", 0))
            with pytest.raises(ListenError, match="does not listen for streams"):
                Listener.bind(f"fd://{sock.fileno()}")
            assert sock.getsockname()  # it is still open


def test_an_inherited_listener_serves() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as outer,
        Listener.bind(f"fd://{os.dup(outer.fileno())}") as listener,
    ):
        assert listener.text == f"127.0.0.1:{outer.getsockname()[1]}"
        assert connects(outer.getsockname())
        listener.accept_socket()[0].close()


PASSES = """
import os, sys
from socketkeep._net._listener import inherited_listeners
os.environ["LISTEN_PID"] = sys.argv[1].replace("me", str(os.getpid()))
found = inherited_listeners()
print([(l.text, l.name, os.get_inheritable(l.fileno())) for l in found])
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


@pytest.mark.process
@pytest.mark.parametrize("pid", ["me", "1"])
def test_systemd_passes_listeners_by_name(pid: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        # As systemd has it, the descriptor is number 3 in the program.
        line = f'exec 3<&{one.fileno()}; exec "$0" -c "$1" "$2"'
        done = subprocess.run(
            ["bash", "-c", line, sys.executable, PASSES, pid],
            env=os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"},
            pass_fds=[one.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        text = f"127.0.0.1:{one.getsockname()[1]}"
    expected = [(text, "web", False)] if pid == "me" else []
    assert done.stdout.splitlines() == [str(expected), "[]"]


def test_a_count_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    with pytest.raises(ListenError, match="LISTEN_FDS is 'many'"):
        _listener.inherited_listeners()


@pytest.fixture
def fd() -> Iterator[int]:
    """A descriptor."""
    found = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    yield found
    os.close(found)


@pytest.mark.parametrize("given", [[], ["http"]])
def test_names_that_are_in_a_descriptor(
    monkeypatch: pytest.MonkeyPatch, given: list[str], fd: int
) -> None:
    """They are of those behind it, and a store's alone are no listeners."""
    stored = [f"socketkeep.connection.a-1-{n}.1" for n in range(5000)]
    memfd = os.memfd_create("names")
    os.write(memfd, "\0".join(stored).encode())
    # In a row, where nobody has a number.
    before = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 900)
    names = fcntl.fcntl(memfd, fcntl.F_DUPFD_CLOEXEC, before + 1)
    os.close(memfd)
    assert names == before + 1
    monkeypatch.setattr(_listener, "_FIRST_INHERITED", names - len(given))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(len(given) + 1 + len(stored)))
    monkeypatch.setenv("LISTEN_FDNAMES", ":".join([*given, "socketkeep.names"]))
    assert _listener.listeners_are_passed() == bool(given)
    passed = _listener.passed_descriptors()
    assert [name for name, _ in passed] == given + stored
    assert [fd for _, fd in passed[len(given) :]] == list(range(names + 1, names + 5001))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(names)
    os.close(before)


def test_who_looks_what_is_passed_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "http")
    assert _listener.listeners_passed() == [("http", 3)]
    assert _listener.listeners_passed() == _listener.passed_descriptors()
    assert _listener.passed_descriptors() == []


def test_out_of_descriptors_is_an_error_of_its_own_and_the_connection_waits() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        Listener.bind("127.0.0.1:0") as listener,
        socket.create_connection(listener.sock.getsockname()),
    ):
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            with pytest.raises(OutOfResources, match="out of file descriptors"):
                listener.accept_socket()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        listener.accept_socket()[0].close()
