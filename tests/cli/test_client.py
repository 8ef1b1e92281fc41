"""The client: which server is meant, what it says, and what goes wrong on the way."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from socketkeep._admin import _client
from tests.cli.fake_server import FakeServer, done, progress


def dead_socket(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
    return path


def test_the_result_and_the_progress(runtime: Path) -> None:
    """Progress is told as it comes, then the result is returned; the request is the contract's."""
    told: list[str] = []
    pieces = [progress("one"), progress("two"), done({"generation": 2})]
    with FakeServer(runtime / "a.sock", pieces) as server:
        answer = _client.ask(str(server.path), "scale", {"workers": 3}, on_progress=told.append)
    assert server.requests == [{"command": "scale", "arguments": {"workers": 3}}]
    assert told == ["one", "two"]
    assert (answer.exit, answer.result, answer.error) == (0, {"generation": 2}, None)


def test_answers_in_fragments(runtime: Path) -> None:
    """Lines are put together from whatever pieces they arrive in."""
    whole = progress("é") + done([1])
    pieces = [whole[place : place + 1] for place in range(len(whole))]
    told: list[str] = []
    with FakeServer(runtime / "a.sock", pieces) as server:
        assert _client.ask(str(server.path), "status", on_progress=told.append).result == [1]
    assert told == ["é"]


def test_fields_and_results_of_a_newer_server(runtime: Path) -> None:
    """A field that this version does not know is no error."""
    line = b'{"event":"done","exit":0,"result":null,"error":null,"new":1}\n'
    with FakeServer(runtime / "a.sock", [line]) as server:
        assert _client.ask(str(server.path), "status").exit == 0


def test_a_failed_command_is_an_answer(runtime: Path) -> None:
    """The exit code and the text of a failure come back as they are."""
    with FakeServer(runtime / "a.sock", [done(None, 4, "SyntaxError: x\n  line")]) as server:
        answer = _client.ask(str(server.path), "reload")
    assert (answer.exit, answer.error) == (4, "SyntaxError: x\n  line")


@pytest.mark.parametrize("command", ["stop", "drain"])
def test_the_end_of_a_server_that_was_told_to_end(runtime: Path, command: str) -> None:
    """For stop and drain the end of the connection is the answer."""
    with FakeServer(runtime / "a.sock", [progress("stopping")]) as server:
        assert _client.ask(str(server.path), command).exit == 0


@pytest.mark.parametrize("pieces", [[], [progress("loading")], [done()[:-5]]])
def test_the_end_of_a_server_without_an_answer(runtime: Path, pieces: list[bytes]) -> None:
    """For other commands it is an error, also after progress or in the middle of a line."""
    with (
        FakeServer(runtime / "a.sock", pieces) as server,
        pytest.raises(_client.ControlError, match="ended before it had answered") as caught,
    ):
        _client.ask(str(server.path), "reload")
    assert caught.value.code == 1


@pytest.mark.parametrize("line", [b"HTTP/1.1 400 Bad Request\r\n", b"{}\n", b'{"event":"x"}\n'])
def test_something_else_that_listens(runtime: Path, line: bytes) -> None:
    """An answer that is none of ours is told as such, without a traceback."""
    with (
        FakeServer(runtime / "a.sock", [line]) as server,
        pytest.raises(_client.ControlError, match="is not a Socketkeep server"),
    ):
        _client.ask(str(server.path), "status")


def test_a_server_that_is_stuck(runtime: Path) -> None:
    """A silent server is waited for no longer than the timeout."""
    with (
        FakeServer(runtime / "a.sock", hangs=True) as server,
        pytest.raises(_client.ControlError, match="stopped or stuck"),
    ):
        _client.ask(str(server.path), "status", timeout=0.1)


def test_no_server(runtime: Path) -> None:
    """Nothing runs: the line says where was looked, with exit code 1."""
    with pytest.raises(_client.ControlError, match="no server is running") as caught:
        _client.find_control()
    assert caught.value.code == 1
    assert str(runtime) in caught.value.message
    with pytest.raises(_client.ControlError, match=r"no server is running at .*/chat\.sock"):
        _client.ask(_client.find_control(name="chat"), "status")


def test_a_wrong_name_lists_the_servers(runtime: Path) -> None:
    """Who mistypes a name is told the names."""
    with (
        FakeServer(runtime / "chat.sock"),
        pytest.raises(_client.ControlError, match="running: chat"),
    ):
        _client.ask(_client.find_control(name="chta"), "status")


def test_the_only_server(runtime: Path) -> None:
    """One server needs no name; the socket of a dead one and other files do not count."""
    dead_socket(runtime / "dead.sock")
    (runtime / "notes.txt").touch()
    with FakeServer(runtime / "chat.sock") as server:
        assert _client.find_control() == str(server.path)
        assert server.requests == []


def test_several_servers(runtime: Path) -> None:
    """Several are listed, each as the option that chooses it; exit code 2."""
    with (
        FakeServer(runtime / "chat.sock"),
        FakeServer(runtime / "game.sock"),
        pytest.raises(_client.ControlError) as caught,
    ):
        _client.find_control()
    assert caught.value.code == 2
    assert caught.value.message.splitlines()[1:] == ["  --name chat", "  --name game"]


def test_a_dead_server(runtime: Path) -> None:
    """A socket that nobody listens on says that its server is dead and what to do."""
    path = dead_socket(runtime / "chat.sock")
    with pytest.raises(_client.ControlError, match="is dead: start it again"):
        _client.ask(str(path), "status")
    with pytest.raises(_client.ControlError, match=r"dead ones left there: chat\.sock"):
        _client.find_control()


def test_which_option_finds_it(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--control, else --name; the variables only without both; not two options."""
    monkeypatch.setenv("SOCKETKEEP_NAME", "env")
    assert _client.find_control() == str(runtime / "env.sock")
    assert _client.find_control(name="flag") == str(runtime / "flag.sock")
    monkeypatch.setenv("SOCKETKEEP_CONTROL", "/run/env")
    assert _client.find_control() == "/run/env"
    assert _client.find_control(name="flag") == str(runtime / "flag.sock")
    assert _client.find_control(control="/run/flag") == "/run/flag"
    with pytest.raises(_client.ControlError) as caught:
        _client.find_control("a", "b")
    assert caught.value.code == 2


def test_a_socket_of_another_user(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not connect is told whose server it is."""

    def refused(path: str, **_: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, who is refused nothing.
    monkeypatch.setattr(_client, "_connect", refused)
    dead_socket(runtime / "chat.sock")
    with pytest.raises(
        _client.ControlError, match=r"chat\.sock belongs to .+: run the command as that user"
    ):
        _client.ask(_client.find_control(name="chat"), "status")
    with pytest.raises(_client.ControlError, match="belongs to"):
        _client.find_control()


def test_a_path_that_is_no_socket(tmp_path: Path) -> None:
    """A file, or a path too long for a socket, is one line too."""
    (tmp_path / "file").touch()
    with pytest.raises(_client.ControlError, match="is not a socket"):
        _client.ask(str(tmp_path / "file"), "status")
    with pytest.raises(_client.ControlError, match="cannot reach a server"):
        _client.ask(str(tmp_path / ("x" * 120)), "status")


def test_is_live(runtime: Path) -> None:
    """A server that starts can tell a live control socket from a dead one."""
    assert not _client.is_live(str(runtime / "none.sock"))
    assert not _client.is_live(str(dead_socket(runtime / "dead.sock")))
    with FakeServer(runtime / "live.sock") as server:
        assert _client.is_live(str(server.path))
