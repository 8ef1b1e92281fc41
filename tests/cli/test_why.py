"""`socketkeep why`, as a user meets it."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import msgspec
import pytest

from socketkeep.inspect import Diagnosis, Explanation
from tests.cli.conftest import Cli
from tests.inspect.support import HOST


def test_the_fields_of_the_json() -> None:
    """What is promised to users: exactly these names."""
    assert Explanation.__struct_fields__ == ("what", "diagnoses", "incomplete")
    assert Diagnosis.__struct_fields__ == ("code", "subject", "sentence", "evidence", "remedy")


def test_a_sentence_its_evidence_and_what_to_do(cli: Cli) -> None:
    left, right = socket.create_server((HOST, 0)), socket.socket()
    with left, right:
        right.connect(left.getsockname())
        conn, _ = left.accept()
        with conn:
            right.close()
            finished = cli("why", f"{os.getpid()}:{conn.fileno()}")
            assert (finished.exit_code, finished.stderr) == (0, "")
            sentence, *evidence = finished.stdout.splitlines()
            assert ": The peer has closed, and this side has not: " in sentence
            assert evidence[0] == "  - state CLOSE_WAIT: the peer's FIN has arrived"
            assert f"  - held by {os.getpid()}:{conn.fileno()} " in evidence[1]
            assert evidence[2].startswith("  => the program must close it")
            finished = cli("why", f"{os.getpid()}:{conn.fileno()}", "--json")
            explanation = msgspec.json.decode(finished.stdout, type=Explanation)
            assert [each.code for each in explanation.diagnoses] == ["not-closed-here"]


def test_many_of_a_kind_are_cut(cli: Cli) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        for _ in range(5):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        finished = cli("why", "{}:{}".format(*listener.getsockname()))
        assert finished.stdout.count("No process has accepted the connection") == 3
        assert "and 2 more of the kind not-accepted (--json has them all)" in finished.stdout


@pytest.mark.parametrize(("what", "code"), [("nonsense", 2), ("4194303", 1)])
def test_mistakes(cli: Cli, what: str, code: int) -> None:
    finished = cli("why", what)
    assert (finished.exit_code, finished.stdout) == (code, "")
    assert finished.stderr.startswith("socketkeep: error: ")
    assert len(finished.stderr.splitlines()) == 1
