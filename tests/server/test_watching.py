"""`--reload`: the code is loaded anew when its files change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_handler

pytest.importorskip("watchfiles")


def test_changed_file(tmp_path: Path) -> None:
    """A change brings the new code to the connections; a broken file leaves the old in place."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with Server(tmp_path, target, "--reload") as server, connect(server.address) as peer:
        server.wait_event("watching")
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"1 1 v0"
        write_handler(tmp_path, "v1", is_async=True)
        event = server.wait_event("changed")
        assert event["path"] == str(tmp_path / "handlers.py")
        server.wait_event("reload done")
        peer.sendall(b"2\n")
        assert read_reply(peer) == b"2 2 v1"
        mark = server.mark()
        write_handler(tmp_path, "v2", is_async=True, tail="\ndef (:\n")
        failed = server.wait_event("reload failed", since=mark)
        assert "SyntaxError" in failed["error_text"]
        peer.sendall(b"3\n")
        assert read_reply(peer) == b"3 3 v1"
        mark = server.mark()
        write_handler(tmp_path, "v3", is_async=True)
        server.wait_event("reload done", since=mark)
        peer.sendall(b"4\n")
        assert read_reply(peer) == b"4 4 v3"


def test_module_that_the_handler_imports(tmp_path: Path) -> None:
    """A module beside it counts too, named by path from another directory."""
    (tmp_path / "code").mkdir()
    (tmp_path / "elsewhere").mkdir()
    helper = tmp_path / "code" / "helper.py"
    helper.write_text("WORD = b'old'\n")
    (tmp_path / "code" / "app.py").write_text(
        "import helper\ndef handle(conn):\n    conn.send(helper.WORD + b'\\n')\n"
    )
    with Server(tmp_path / "elsewhere", "../code/app.py:handle", "--reload") as server:
        server.wait_event("watching")
        with connect(server.address) as peer:
            assert read_reply(peer) == b"old"
        helper.write_text("WORD = b'new'\n")
        server.wait_event("reload done")
        with connect(server.address) as peer:
            assert read_reply(peer) == b"new"


def test_other_files_do_not_count(tmp_path: Path) -> None:
    """What is not Python, and what Python itself writes, is not looked at."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Server(tmp_path, target, "--reload") as server:
        server.wait_event("watching")
        (tmp_path / "notes.txt").write_text("x")
        (tmp_path / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / "__pycache__" / "handlers.pyc").write_text("x")
        (tmp_path / "handlers.py").touch()  # afterwards: by then the others have been passed over
        assert server.wait_event("changed")["path"] == str(tmp_path / "handlers.py")
        server.wait_event("reload done")
        assert len(server.find("changed")) == 1
