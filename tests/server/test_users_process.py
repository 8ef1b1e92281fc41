"""What the user's code does to its process does not end the server's own work."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect, read_reply, write_source
from tests.harness.processes import wait_exit
from tests.server.support import MODELS, complaint, run

_SERVE: Final = """
import os, signal, socket, sys, threading, time
from socketkeep import resumable
{head}
@resumable
{is_async}def handle(conn):
    count = conn.state or 0
    {is_async}for line in conn.lines():
        count += 1
        if line == b"do":
            {do}
        {wait}conn.send(b"%d %s\\n" % (count, line))
        conn.commit(count)
"""


def _write(directory: Path, model: str, head: str = "", do: str = "pass") -> str:
    is_async = model == "async"
    words = {"is_async": "async " if is_async else "", "wait": "await " if is_async else ""}
    return write_source(directory, _SERVE.format(head=head, do=do, **words))


def _ask(address: str, *lines: bytes) -> list[bytes]:
    with connect(address) as sock:
        replies = []
        for line in lines:
            sock.sendall(line + b"\n")
            replies.append(read_reply(sock))
        return replies


#: What code does when it is imported.  Together, for each is borne by a part of its own.
_HEADS: Final = {
    "one": """
socket.setdefaulttimeout(0.2)

def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

signal.signal(signal.SIGCHLD, reap)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.chdir("/")
sys.stdout = sys.stderr = sys.excepthook = None

import logging.config
logging.config.dictConfig({"version": 1})

class Proxied(socket.socket):
    pass

socket.socket = Proxied
""",
    "two": """
socket.setdefaulttimeout(0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.close(0)
os.close(1)
os.umask(0o777)
os.fork()
""",
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", _HEADS)
def test_what_the_code_sets_when_it_is_imported(tmp_path: Path, model: str, case: str) -> None:
    """A connection waits, is served, moved by a reload and served again; nothing dies."""
    target = _write(tmp_path, model, _HEADS[case])
    with Server(tmp_path, target, "-k", model, "-w", "2", "--access-log") as server:
        with connect(server.address) as sock:
            sock.sendall(b"one\n")
            assert read_reply(sock) == b"1 one"
            assert _ask(server.address, b"one") == [b"1 one"]
            server.wait_until(
                lambda: all(each["uptime"] > 0.4 for each in server.workers()),
                "workers that have waited for longer than the default timeout",
            )
            assert server.reload().exit_code == 0
            sock.sendall(b"two\n")
            assert read_reply(sock) == b"2 two"
        assert server.status()["totals"]["worker_deaths"] == 0
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert server.find("connection"), "the workers' own lines are in the log"
        assert not [event for event in server.events if event["level"] in ("warning", "error")]


def test_a_child_that_others_have_reaped_died_all_the_same(tmp_path: Path) -> None:
    """`fork`: how it ended is not known, but what became of its connection is."""
    target = _write(tmp_path, "fork", _HEADS["one"], "os.kill(os.getpid(), signal.SIGKILL)")
    with Server(tmp_path, target, "-k", "fork", "--keep", "crash", "--keep-after", "0") as server:
        with connect(server.address) as sock:
            sock.sendall(b"one\n")
            assert read_reply(sock) == b"1 one"
            sock.sendall(b"do\n")
            assert sock.recv(1) == b"", "something was uncommitted: it is closed"
        died = server.wait_event("process of a connection died")
        assert died["status"].startswith("not known")
        assert _ask(server.address, b"one", b"two") == [b"1 one", b"2 two"]
        assert server.status()["totals"]["worker_deaths"] == 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("end", ["return", "raise LookupError('in the child')", "later"])
def test_a_process_that_a_handler_forks_does_not_serve(
    tmp_path: Path, model: str, end: str
) -> None:
    """Its handler comes back to the worker's code in it: the process ends, and nothing else."""
    wait = "import asyncio; await asyncio.sleep(0)" if model == "async" else "return"
    do = f"""
            if os.fork() == 0:
                {wait if end == "later" else end}"""
    target = _write(tmp_path, model, do=do.strip())
    with Server(tmp_path, target, "-k", model) as server:
        with connect(server.address) as bystander, connect(server.address) as sock:
            bystander.sendall(b"one\n")
            assert read_reply(bystander) == b"1 one"
            sock.sendall(b"do\n")
            assert read_reply(sock) == b"1 do"
            failed = "LookupError" in end
            verb = "failed" if failed else "came back: ended"
            event = server.wait_event(f"process forked by a handler {verb}")
            assert wait_exit(event["pid"], 10)
            bystander.sendall(b"two\n")
            assert read_reply(bystander) == b"2 two"
            sock.sendall(b"more\n")
            assert read_reply(sock) == b"2 more"
        assert server.status()["totals"]["worker_deaths"] == 0
        server.wait_until(lambda: server.status()["connections"]["open"] == 0, "both ended")
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


_PATCH: Final = """
import select, sys, threading, types
sys.modules["gevent.monkey"] = types.ModuleType("gevent.monkey")

class Greenlet(threading.Thread): pass
class Poll: pass

def patch_all():
    threading.Thread = Greenlet
    select.poll = Poll
    del select.epoll
"""


def test_code_that_closes_the_servers_descriptors_is_refused(tmp_path: Path) -> None:
    """As libraries do that make a daemon of their process: one line says it, and no traceback."""
    target = _write(tmp_path, "fork", "os.closerange(3, 4096)")
    finished = run(tmp_path, "serve", target, "--bind", "127.0.0.1:0")
    assert finished.exit_code == 4
    assert "the code closes descriptors that it has not opened" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_code_that_replaces_what_workers_wait_with_is_refused(tmp_path: Path) -> None:
    """As gevent's and eventlet's patching does: one line that says so, and the exit code."""
    (tmp_path / "app.py").write_text(_PATCH + "patch_all()\ndef handle(conn): ...\n")
    finished = run(tmp_path, "serve", "app:handle", "-b", "127.0.0.1:0", "--log-level", "error")
    error = complaint(finished, 4)
    assert (
        "the code replaces select.poll, select.epoll, threading.Thread, by gevent.monkey" in error
    )
    assert "\n" not in error


@pytest.mark.parametrize("kind", ["", "async "])
def test_a_lifespan_that_replaces_it_is_refused(tmp_path: Path, kind: str) -> None:
    maker = "asynccontextmanager" if kind else "contextmanager"
    (tmp_path / "app.py").write_text(f"""{_PATCH}
from contextlib import {maker}
from socketkeep import Service

@{maker}
{kind}def lifespan():
    patch_all()
    yield

{kind}def handle(conn): ...

service = Service(handle, lifespan)
""")
    finished = run(tmp_path, "serve", "app:service", "-b", "127.0.0.1:0", "--log-level", "error")
    assert "the code replaces select.poll" in complaint(finished, 3)
