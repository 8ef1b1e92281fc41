"""Finding the server: one that is dead, another user's, none, several, two of one name."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.harness import Server, connect, read_reply, write_handler
from tests.server.support import OTHER_UID, as_other_user, complaint, run


class NamedServer(Server):
    """A server whose control socket is where its name puts it, in ``run`` of its directory."""

    def __init__(self, directory: Path, target: str, name: str, *options: str) -> None:
        super().__init__(
            directory,
            target,
            *options,
            environment={"SOCKETKEEP_RUNTIME_DIR": str(directory / "run")},
        )
        at = self._command.index("--control")
        self._command[at : at + 2] = ["--name", name] if name else []
        self.control = directory / "run" / f"{name or 'handlers'}.sock"


@contextmanager
def killed(server: Server) -> Iterator[Server]:
    """Start a server and kill its keeper, so that its control socket stays behind."""
    with server:
        server.signal(signal.SIGKILL)
        server.wait_exit()
        yield server


def test_dead_server(tmp_path: Path) -> None:
    """Said by every command that asks it; a new server takes the socket's place without a word."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with killed(NamedServer(tmp_path, target, "shop", "--orphan-timeout", "0")) as dead:
        assert dead.control.exists()
        for command in ("status", "reload"):
            error = complaint(run(tmp_path, command, "--name", "shop"), 1)
            assert error == (
                f"the server of {dead.control} is dead: start it again (it replaces the socket),"
                " or remove the file"
            )
        error = complaint(run(tmp_path, "status"), 1)
        assert error.startswith("no server is running")
        assert "what dead ones left there: shop.sock" in error
    with NamedServer(tmp_path, target, "shop") as server:
        assert run(tmp_path, "status", "--name", "shop").exit_code == 0
        assert not [event for event in server.events if event["level"] != "info"]


def test_file_in_the_place_of_the_control_socket(tmp_path: Path) -> None:
    """What is no socket is never removed, and a server removes no socket but its own."""
    target = write_handler(tmp_path, "v0", is_async=False)
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    arguments = ("serve", target, "--bind", "127.0.0.1:0", "--control")
    error = complaint(run(tmp_path, *arguments, str(precious)), 1)
    assert f"unix:{precious}" in error
    assert precious.read_text() == "keep me"
    error = complaint(run(tmp_path, *arguments, str(tmp_path / "missing" / "control")), 1)
    assert error.startswith("control socket: cannot listen on unix:")
    with Server(tmp_path, target) as server:
        server.control.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(server.control))
            server.signal(signal.SIGTERM)
            assert server.wait_exit() == 0
            assert server.control.is_socket()


def test_workers_end_with_their_keeper(tmp_path: Path) -> None:
    """They serve what is open to its end, and then nothing of the server is left."""
    target = write_handler(tmp_path, "v0", is_async=False)
    options = ("--orphan-timeout", "0")
    with Server(tmp_path, target, *options) as server, connect(server.address) as peer:
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"1 1 v0"
        server.signal(signal.SIGKILL)
        server.process.wait(10.0)
        server.wait_event("the keeper is gone: serving what is open, then ending")
        peer.sendall(b"2\n")
        assert read_reply(peer) == b"2 2 v0"
        peer.close()
        assert not server.processes(timeout=10.0)


def test_no_server(tmp_path: Path) -> None:
    """None at all, and none of that name."""
    error = complaint(run(tmp_path, "status"), 1)
    assert error.startswith(f"no server is running: none has its control socket in {tmp_path}/run")
    error = complaint(run(tmp_path, "status", "--name", "shop"), 1)
    assert error == f"no server is running at {tmp_path}/run/shop.sock"


def test_two_servers_of_one_name(tmp_path: Path) -> None:
    """The second is refused, says of whom the name is, and leaves the first alone."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with NamedServer(tmp_path, target, "shop") as first:
        arguments = ("serve", target, "--name", "shop", "--bind", "127.0.0.1:0")
        error = complaint(run(tmp_path, *arguments), 1)
        assert error.startswith("a server named 'shop' is already running")
        assert str(first.control) in error
        assert run(tmp_path, "status", "--name", "shop").exit_code == 0


def test_two_servers_of_one_target(tmp_path: Path) -> None:
    """Without names they get two; which is meant must then be said."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(NamedServer(tmp_path, target, ""))
        error = complaint(run(tmp_path, "status"), 2)
        assert error.splitlines() == [
            "several servers are running, say which one:",
            "  --name handlers",
            "  --name handlers-2",
        ]
        assert run(tmp_path, "stop", "--name", "handlers-2").exit_code == 0
        assert '"name": "handlers"' in run(tmp_path, "status", "--json").stdout


def test_server_of_another_user(tmp_path: Path) -> None:
    """Its socket lets nobody else in; and if it did, the server would not listen."""
    other = as_other_user()
    target = write_handler(tmp_path, "v0", is_async=False)
    with NamedServer(tmp_path, target, "shop") as server:
        assert server.control.stat().st_mode & 0o777 == 0o600
        assert server.control.parent.stat().st_mode & 0o777 == 0o700
        for arguments in (("status", "--name", "shop"), ("status",)):
            error = complaint(run(tmp_path, *arguments, prefix=other), 1)
            assert error == f"{server.control} belongs to root: run the command as that user"
        os.chmod(server.control, 0o666)
        error = complaint(run(tmp_path, "stop", "--name", "shop", prefix=other), 1)
        assert error == f"the server is another user's (uid 0), and you are uid {OTHER_UID}"
        assert server.status()["state"] == "running"
