"""Code that cannot be served: one clear line, the user's own traceback, and the exit code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.server.support import complaint, run

_GOOD: Final = """
from contextlib import asynccontextmanager, contextmanager
from socketkeep import Service

def handle(conn): ...
async def handle_async(conn): ...

number = 3
def two(conn, more): ...
def none(): ...
def endless(conn): yield conn
class Handler:
    def __init__(self, conn): ...
class Four:
    def __call__(self, a, b, c, d): ...
four = Four()
class Application:
    __module__ = "aiohttp.web_app"
application = Application()

def broken_factory(): raise LookupError("no settings")
def wrong_factory(): return 7
def needy_factory(settings): return handle

@contextmanager
def bare():
    raise LookupError("no database")
    yield

@asynccontextmanager
async def bare_async():
    raise LookupError("no database")
    yield

service = Service(handle, lifespan=bare)
service_async = Service(handle_async, lifespan=bare_async)
misfit = Service(handle, lifespan=bare_async)
"""


def _refused(directory: Path, exit_code: int, *arguments: str) -> str:
    finished = run(directory, "serve", *arguments, "--bind", "127.0.0.1:0", "--log-level", "error")
    return complaint(finished, exit_code)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("missing:handle", "no module named 'missing': expected package.module:attribute"),
        ("good.missing:handle", "no module named 'good.missing'"),
        ("missing.py:handle", "no file missing.py, looked for from "),
        ("good:hande", "good has no attribute 'hande'; did you mean handle?"),
        ("./good.py:hande", "./good.py has no attribute 'hande'; did you mean handle?"),
        ("good:handle.inner", "good has no attribute 'inner'"),
        ("good:number", "good:number cannot be a handler: an object of type int is not callable"),
        ("good:two", "good.two(conn, more) cannot be called with one argument, the connection"),
        ("good:none", "good.none() cannot be called with one argument, the connection"),
        ("good:endless", "good.endless has a yield"),
        ("good:Handler", "good.Handler is a class"),
        ("good:four", "an object of type Four cannot be called with one argument, the connection"),
        ("good:application", "aiohttp has a server of its own for it; give an ASGI application"),
    ],
)
def test_not_a_handler(tmp_path: Path, target: str, said: str) -> None:
    """What is named is not there, or cannot be called for a connection: exit 4 and one line."""
    (tmp_path / "good.py").write_text(_GOOD)
    error = _refused(tmp_path, 4, target)
    assert said in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("target", "source", "frames", "last"),
    [
        ("broken:handle", "def handle(conn:\n", 1, "SyntaxError: "),
        ("broken.py:handle", "def handle(conn:\n", 1, "SyntaxError: "),
        ("broken.py:handle", "def f():\n    return 1 / 0\nf()\n", 2, "ZeroDivisionError: "),
        ("broken:handle", "import sys\nsys.exit(3)", 1, "SystemExit: 3"),
    ],
)
def test_code_that_fails_at_import(
    tmp_path: Path, target: str, source: str, frames: int, last: str
) -> None:
    """The user's traceback is shown, with no frame of another's, and the exit code is 4."""
    (tmp_path / "broken.py").write_text(source)
    lines = _refused(tmp_path, 4, target).splitlines()
    assert lines[0] == f"{target.partition(':')[0]} cannot be imported:"
    files = [line.strip() for line in lines if line.startswith("  File ")]
    assert len(files) == frames
    assert all(line.startswith(f'File "{tmp_path}/broken.py", line ') for line in files)
    assert lines[-1].startswith(last)


@pytest.mark.parametrize("source", ["import no_such", "import json\nfrom no_such.part import x"])
def test_code_that_needs_what_is_not_installed(tmp_path: Path, source: str) -> None:
    """One line says which module, where it is imported, and for which Python it is missing."""
    (tmp_path / "broken.py").write_text(source)
    line = source.count("\n") + 1
    assert _refused(tmp_path, 4, "broken:handle") == (
        f"broken cannot be imported: {tmp_path}/broken.py:{line} needs the module 'no_such', which"
        f" is not installed for {sys.executable}: install it there, or serve by the Python that has"
        " it"
    )


def test_a_traceback_of_many_lines(tmp_path: Path) -> None:
    """It fits on a screen: the frames where it begins, and those where it ends."""
    source = "".join(f"def f{n}():\n    f{n + 1}()\n" for n in range(20))
    (tmp_path / "broken.py").write_text(f"{source}def f20():\n    raise OSError('no')\nf0()\n")
    refused = _refused(tmp_path, 4, "broken:handle").splitlines()
    lines = [line for line in refused if line.strip(" ~^")]  # CPython 3.13 marks each call
    assert lines[2].endswith("line 43, in <module>")
    assert lines[6] == "  ... 16 frames more ..."
    assert sum(line.startswith("  File ") for line in lines) == 6
    assert lines[-1] == "OSError: no"


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("broken_factory", "the factory good:broken_factory failed:\nTraceback"),
        ("needy_factory", "the factory good:needy_factory failed:\n"),
        ("wrong_factory", "good:wrong_factory cannot be a handler: an object of type int"),
        ("number", "good:number is not callable, so it is no factory"),
    ],
)
def test_factory_that_fails(tmp_path: Path, factory: str, said: str) -> None:
    """A factory that raises, that takes arguments, or whose product is no handler."""
    (tmp_path / "good.py").write_text(_GOOD)
    error = _refused(tmp_path, 4, f"good:{factory}", "--factory")
    assert error.startswith(said)
    if factory == "broken_factory":
        assert error.endswith("LookupError: no settings")


@pytest.mark.parametrize("model", ["fork", "prefork", "thread"])
def test_async_handler_in_a_sync_model(tmp_path: Path, model: str) -> None:
    """The reason is told, and what would fit."""
    (tmp_path / "good.py").write_text(_GOOD)
    error = _refused(tmp_path, 2, "good:handle_async", "-k", model)
    assert error.startswith(f"good.handle_async is async, and the {model} model calls sync")
    assert "-k async" in error
    assert "\n" not in error


def test_sync_handler_in_the_async_model(tmp_path: Path) -> None:
    """The reason is told, and what would fit."""
    (tmp_path / "good.py").write_text(_GOOD)
    error = _refused(tmp_path, 2, "good:handle", "-k", "async")
    assert error.startswith("good.handle is sync, and would stop the event loop")
    assert "-k thread" in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("service", "model"),
    [("service", "fork"), ("service", "prefork"), ("service_async", "async")],
)
def test_lifespan_that_fails(tmp_path: Path, service: str, model: str) -> None:
    """The worker cannot start: exit code 3, with the traceback of the lifespan."""
    (tmp_path / "good.py").write_text(_GOOD)
    error = _refused(tmp_path, 3, f"good:{service}", "-k", model)
    assert re.match(r"worker \d: the lifespan failed:\nTraceback", error)
    assert f'File "{tmp_path}/good.py"' in error
    assert error.endswith("LookupError: no database")


def test_async_lifespan_in_a_sync_model(tmp_path: Path) -> None:
    """It could not be entered, and that is said."""
    (tmp_path / "good.py").write_text(_GOOD)
    error = _refused(tmp_path, 3, "good:misfit", "-k", "thread")
    assert "the lifespan is async, and the thread model is not: make it sync" in error


def test_worker_that_dies_before_it_is_ready(tmp_path: Path) -> None:
    """After some attempts the server gives up, with exit code 3 and how the worker ended."""
    (tmp_path / "dies.py").write_text(
        "import os\n"
        "from contextlib import contextmanager\n"
        "from socketkeep import Service\n"
        "@contextmanager\n"
        "def lifespan():\n"
        "    os._exit(9)\n"
        "    yield\n"
        "def handle(conn): ...\n"
        "service = Service(handle, lifespan=lifespan)\n"
    )
    assert "worker 0: ended before it was ready: exit code 9" in _refused(
        tmp_path, 3, "dies:service"
    )


def test_start_that_takes_too_long(tmp_path: Path) -> None:
    """Code that does not load, and workers that are not ready, within --start-timeout."""
    (tmp_path / "slow.py").write_text("import threading\nthreading.Event().wait()\n")
    error = _refused(tmp_path, 4, "slow:handle", "--start-timeout", "0.3")
    assert error == "its code was not loaded within 0.3 s (--start-timeout)"
