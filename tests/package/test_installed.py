"""The installed wheel, as a user has it: its commands, its server, its extras."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

ENVIRONMENT: Final = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("SOCKETKEEP_", "PYTHON", "VIRTUAL_ENV"))
}
APPLICATION: Final = """
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"by the installed one"})
"""
COUNTER: Final = """
from socketkeep import Connection, resumable

@resumable
def handle(conn: Connection) -> None:
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.send(b"%d %s {version}\\n" % (count, line))
        conn.commit(count)
"""


def command(python: Path, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `socketkeep` of that environment in a directory of its own."""
    return subprocess.run(
        [python.with_name("socketkeep"), *words],
        cwd=directory,
        env={**ENVIRONMENT, "SOCKETKEEP_RUNTIME_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def serving(python: Path, directory: Path, *words: str) -> Iterator[tuple[str, int]]:
    """Yield the address of a server of the installed package."""
    process = subprocess.Popen(
        [python.with_name("socketkeep"), "serve", *words, "-b", "127.0.0.1:0", "--name", "app"],
        cwd=directory,
        env={**ENVIRONMENT, "SOCKETKEEP_RUNTIME_DIR": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        deadline = time.monotonic() + 20.0
        while command(python, directory, "status", "--json").returncode:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
        (listener,) = json.loads(command(python, directory, "listeners", "--json").stdout)
        host, _, port = listener["address"].rpartition(":")
        yield host, int(port)
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20.0)
    assert process.returncode == 0, said


def test_it_says_its_version_and_its_core(
    python: Path, wheel: Path, version: str, tmp_path: Path
) -> None:
    core = "pure Python" if wheel.name.endswith("py3-none-any.whl") else "compiled core"
    done = command(python, tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"socketkeep {version} ({core})\n")


def test_what_it_needs_is_there(python: Path) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_command_has_help(python: Path, tmp_path: Path) -> None:
    listed = command(python, tmp_path, "--help").stdout
    names = re.findall(r"^  ([a-z]+)  +\S", listed, re.MULTILINE)
    assert {"serve", "status", "reload", "why"} <= set(names)
    for name in names:
        done = command(python, tmp_path, name, "--help")
        assert (done.returncode, done.stderr) == (0, ""), name
        assert done.stdout.startswith(f"Usage: socketkeep {name} ")


def test_a_connection_goes_through_a_reload(python: Path, tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(COUNTER.format(version="v1"))
    with (
        serving(python, tmp_path, "counter.py:handle") as address,
        socket.create_connection(address, 20.0) as peer,
        peer.makefile("rb") as replies,
    ):
        peer.sendall(b"a\n")
        assert replies.readline() == b"1 a v1\n"
        (tmp_path / "counter.py").write_text(COUNTER.format(version="v2"))
        done = command(python, tmp_path, "reload")
        assert done.returncode == 0, done.stderr
        peer.sendall(b"b\n")
        assert replies.readline() == b"2 b v2\n"


def test_all_extras_serve(python: Path, tmp_path: Path) -> None:
    """ASGI by uvloop, under a title, with the admin page."""
    (tmp_path / "web.py").write_text(APPLICATION)
    words = ("--asgi", "web.py:application", "--loop", "uvloop", "--admin", "127.0.0.1:0")
    with (
        serving(python, tmp_path, *words) as address,
        socket.create_connection(address, 20.0) as peer,
        peer.makefile("rb") as answer,
    ):
        peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.read().endswith(b"by the installed one")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The Python of an environment with the wheel and no extra."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True)
    return python


@pytest.mark.timeout(120)
def test_without_extras_it_serves_and_names_what_is_missing(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(COUNTER.format(version="v1"))
    (tmp_path / "web.py").write_text(APPLICATION)
    with (
        serving(bare, tmp_path, "counter.py:handle") as address,
        socket.create_connection(address, 20.0) as peer,
    ):
        peer.sendall(b"a\n")
        assert peer.recv(100) == b"1 a v1\n"
    for words, extra in (
        (("--asgi", "web.py:application"), "asgi"),
        (("counter.py:handle", "--admin", "127.0.0.1:0"), "admin"),
        (("counter.py:handle", "--reload"), "watchfiles"),
        (("counter.py:handle", "--cluster", "nats://127.0.0.1:4222"), "cluster"),
    ):
        done = command(bare, tmp_path, "serve", *words, "-b", "127.0.0.1:0", "--name", "app")
        assert done.returncode in (1, 2, 4), words
        (line,) = done.stderr.splitlines()[-1:]
        assert f"the extra {extra!r} of socketkeep" in line, line
        # Until it is published, an index may have another's package of that name.
        assert "install socketkeep" not in done.stderr
        assert "socketkeep[" not in done.stderr


def test_public_modules_import_without_extras(bare: Path, tmp_path: Path) -> None:
    code = "import socketkeep as s; [getattr(s, n) for n in s.__all__]\n" + "\n".join(
        f"import socketkeep.{module}" for module in ("adapters", "inspect", "proxy", "testing")
    )
    done = subprocess.run(
        [bare, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_leaves_nothing_behind(bare: Path) -> None:
    """The last of these tests, since it takes the package away."""
    subprocess.run([bare, "-m", "pip", "uninstall", "-q", "-y", "socketkeep"], check=True)
    left = list(bare.parents[1].rglob("*socketkeep*"))
    assert left == []
