"""Options that will not do: one line that names the mistake, and exit code 2."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.server.support import (
    SOCKETKEEP,
    as_plain_user,
    complaint,
    plain_users_directory,
    run,
)


def _refused(directory: Path, *arguments: str, **environment: str) -> str:
    error = complaint(run(directory, "serve", *arguments, environment=environment), 2)
    assert "\n" not in error
    return error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--worker", "2"], "--workers"),
        (["-w", "two"], "--workers: expected a whole number, got 'two'"),
        (["--graceful-timeout", "-1"], "--graceful-timeout: a duration cannot be negative, got -1"),
        (["-b", "127.0.0.1"], "--bind: address '127.0.0.1': the port is missing"),
        (["-b", ":1,proxi=on"], "--bind: :1,proxi=on: a listener has no option proxi (did you"),
        (["-b", ":1,proxy=on,proxy=on"], "--bind: :1,proxy=on,proxy=on: proxy is given twice"),
        (["-b", ":1,proxy-from=::1"], "--bind: :1,proxy-from=::1: proxy-from means nothing there"),
        (["--proxy-from", "10.0.0.1/8"], "(did you mean 10.0.0.0/8?)"),
    ],
)
def test_mistake_on_the_command_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    """The rest of these stand with the command line's own tests; here a whole process says it."""
    assert said in _refused(tmp_path, "app:handle", *arguments)


def test_mistake_in_the_file(tmp_path: Path) -> None:
    """A key that there is not is refused by name, with its line and the nearest that there is."""
    (tmp_path / "a.toml").write_text('target = "app:handle"\n\ngracefull_timeout = 3\n')
    assert _refused(tmp_path, "-c", "a.toml") == (
        "a.toml, line 3: unknown key gracefull_timeout (did you mean graceful_timeout?)"
    )


def test_mistake_in_the_environment(tmp_path: Path) -> None:
    """A variable that there is not is refused by name, with the nearest that there is."""
    error = _refused(tmp_path, "app:handle", SOCKETKEEP_WORKER="3")
    assert error.startswith("SOCKETKEEP_WORKER: no option has this environment variable")
    assert "SOCKETKEEP_WORKERS" in error


def test_no_listener_in_the_file(tmp_path: Path) -> None:
    """An empty list of addresses is a mistake, not a server that nobody reaches."""
    (tmp_path / "a.toml").write_text('target = "app:handle"\nbind = []\n')
    assert "bind: expected at least one address" in _refused(tmp_path, "-c", "a.toml")


def test_no_listener_from_systemd(tmp_path: Path) -> None:
    """Socket activation that passes no socket, and no address."""
    # LISTEN_PID must be the server's own pid: it is set in its place and then executed.
    code = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
        f"os.execv(sys.executable, {[*SOCKETKEEP, 'serve', 'app:handle']!r})"
    )
    finished = run(
        tmp_path,
        prefix=[sys.executable, "-c", code],
        environment={"LISTEN_FDS": "0"},
    )
    assert "nothing to listen on" in complaint(finished, 2)


@pytest.mark.parametrize("kind", ["user", "group"])
def test_an_account_that_there_is_not(tmp_path: Path, kind: str) -> None:
    """The listener is named, and what was looked for."""
    bind = f"unix:{tmp_path}/s,{kind}=nobody-of-that-name"
    error = _refused(tmp_path, "app:handle", "-b", bind)
    assert error == f"--bind: {bind}: there is no {kind} 'nobody-of-that-name' on this system"


def test_a_socket_that_cannot_be_given_away(tmp_path: Path) -> None:
    """Only root gives a file away; nothing is left of it."""
    with plain_users_directory() as directory:
        bind = f"unix:{directory}/s,user=0"
        finished = run(
            directory,
            *("serve", "app:handle", "-b", bind, "--control", f"{directory}/c"),
            prefix=as_plain_user(),
        )
        error = complaint(finished, 1)
        assert error.startswith(f"cannot listen on unix:{directory}/s: the socket's file cannot be")
        assert "given to uid 0: Operation not permitted (root can" in error
        assert not (directory / "s").exists()


def test_too_few_descriptors(tmp_path: Path) -> None:
    """--max-connections beyond the hard limit: refused at the start, with both numbers."""
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    finished = run(
        tmp_path,
        *("serve", "app:handle", "--max-connections", "500"),
        prefix=["prlimit", "--nofile=256:256"],
    )
    error = complaint(finished, 2)
    assert error.startswith(
        "--max-connections 500 needs 564 file descriptors, but the limit is 256"
    )
    assert "ulimit -Hn" in error


@pytest.mark.parametrize("path", ["missing/server.log", "."], ids=["no directory", "a directory"])
def test_log_file_that_cannot_be_written(tmp_path: Path, path: str) -> None:
    """The file is named, and why."""
    error = _refused(tmp_path, "app:handle", "--log-file", path)
    assert error.startswith(f"--log-file: cannot append to {path}: ")
    assert os.strerror(0) not in error
