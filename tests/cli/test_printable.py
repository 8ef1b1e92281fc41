"""Names that others chose steer no terminal: in tables, sentences, errors, JSON and logs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._base._printable import printable, printable_lines
from tests.cli.conftest import Cli
from tests.harness import Server, connect, read_to_end, write_source

#: ESC, BEL, CR, LF, a bell of C1, a switch of direction, and a byte that is no UTF-8.
HOSTILE = b"\0a\x1b[2J\x07\r\nb\xc2\x9b31m\xe2\x80\xae\xff"
_BLANK = "\n\t"


def steers(text: str) -> set[str]:
    """Return what is in a text that a terminal, or a reader, would obey."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


@given(st.text(st.characters(codec=None)))
def test_nothing_is_obeyed(text: str) -> None:
    assert printable(text).isprintable()
    assert all(c.isprintable() or c in _BLANK for c in printable_lines(text))
    assert printable_lines(text).count("\n") == text.count("\n")
    if text.isprintable():
        assert printable(text) == printable_lines(text) == text


@pytest.mark.parametrize("command", ["holders", "why"])
def test_a_socket_of_that_name(cli: Cli, command: str) -> None:
    """The Unix socket's own name, and the command line of who holds it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(HOSTILE)
        sock.listen()
        code = "import sys; sys.stdin.read()"
        keeps = [sys.executable, "-c", code, "\x1b[31m\u202eevil\n\x9b"]
        with subprocess.Popen(keeps, stdin=subprocess.PIPE, pass_fds=[sock.fileno()]) as holder:
            for options in ([], ["--json"]):
                finished = cli(command, f"{os.getpid()}:{sock.fileno()}", *options)
                assert finished.exit_code == 0
                assert not steers(finished.stdout), finished.stdout
                assert "\\x1b[2J" in finished.stdout or "\\u001b[2J" in finished.stdout
                assert "2 handles" in finished.stdout or f"{holder.pid}" in finished.stdout
            assert holder.stdin is not None
            holder.stdin.close()
    json.loads(finished.stdout)


def test_errors(cli: Cli, tmp_path: Path) -> None:
    """A mistake is told in one line that is no other."""
    finished = cli("why", "\x1b]0;title\x07\nnonsense")
    assert finished.exit_code == 2
    assert not steers(finished.stderr)
    path = os.fsencode(tmp_path) + b"/caf\xe9.py:handle"
    finished = cli("serve", os.fsdecode(path), "-b", "127.0.0.1:0")
    assert finished.exit_code == 2
    assert len(finished.stderr.splitlines()) == 1
    assert "no UTF-8" in finished.stderr


_FORGES = """
def handle(conn):
    raise RuntimeError("\\x1b[2J\\r\\u202e\\n2026-01-01T00:00:00.000Z error   forged a=b\\x7f")
"""


@pytest.mark.parametrize("form", ["human", "json"])
def test_the_log(tmp_path: Path, form: str) -> None:
    """What an exception says is neither obeyed nor taken for a line of the server's."""
    target = write_source(tmp_path, _FORGES)
    log = tmp_path / "log"
    options = ("-k", "thread", "--log-file", str(log), "--log-format", form)
    bind = f"unix:{tmp_path}/listener"
    with Server(tmp_path, target, *options, bind=[bind], wait_ready=False) as server:
        server.wait_until(lambda: log.exists() and " ready" in log.read_text(), "ready")
        with connect(bind) as peer:
            assert read_to_end(peer) == b""
        server.wait_until(lambda: "forged" in log.read_text(), "the traceback")
    text = log.read_text()
    assert not steers(text), text
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())
    if form == "json":
        assert all(msgspec.json.decode(line) for line in text.splitlines())
