"""Loading TARGET: what is found, and each failure in words a user can act on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from socketkeep._worker._target import (
    check_lifespan,
    choose_model,
    load_handler,
)
from tests.harness.configuration import Model, code_refused, configured
from tests.worker.fakes import inspected

HANDLER = "def handle(conn):\n    pass\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory to load from, and an interpreter that forgets what was loaded."""
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path_importer_cache.clear()


def load(target: str, **options: Any) -> Any:
    return load_handler(configured(target=target, **options))


def failure(target: str, **options: Any) -> str:
    with code_refused() as caught:
        load(target, **options)
    assert caught.value.exit_code == 4
    return caught.value.text


def test_a_module_of_the_working_directory(project: Path) -> None:
    (project / "app_here.py").write_text(HANDLER)
    assert load("app_here:handle").name == "app_here.handle"


def test_a_package_and_a_nested_attribute(project: Path) -> None:
    (project / "pack").mkdir()
    (project / "pack/__init__.py").write_text("")
    (project / "pack/app.py").write_text(
        "class Server:\n    def handle(self, conn):\n        pass\nserver = Server()\n"
    )
    assert load("pack.app:server.handle").name == "pack.app.Server.handle"


@pytest.mark.parametrize("path", ["sub/app_file.py", "./sub/app_file.py", "{}/sub/app_file.py"])
def test_a_file_and_what_stands_beside_it(project: Path, path: str) -> None:
    (project / "sub").mkdir()
    (project / "sub/beside_it.py").write_text(HANDLER)
    (project / "sub/app_file.py").write_text("from beside_it import handle\n")
    assert load(path.format(project) + ":handle").name == "beside_it.handle"


def test_a_file_is_read_as_it_is_now_though_cached_bytecode_looks_current(project: Path) -> None:
    path = project / "app_twice.py"
    path.write_text("def first(conn):\n    pass\n")
    stat = path.stat()
    load("app_twice.py:first")
    path.write_text("def other(conn):\n    pass\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    del sys.modules["app_twice"]
    assert load("app_twice.py:other").name == "app_twice.other"
    assert not list(project.rglob("*.pyc"))


def test_a_factory(project: Path) -> None:
    (project / "app_made.py").write_text(f"{HANDLER}def make():\n    return handle\n")
    assert load("app_made:make", factory=True).name == "app_made.handle"


def test_no_such_module(project: Path) -> None:
    text = failure("nowhere.app:handle")
    assert "no module named 'nowhere'" in text
    assert str(project) in text
    assert "\n" not in text


def test_no_such_module_in_a_package(project: Path) -> None:
    (project / "some_pack").mkdir()
    (project / "some_pack/__init__.py").write_text("")
    assert "no module named 'some_pack.app'" in failure("some_pack.app:handle")


def test_no_such_file(project: Path) -> None:
    assert failure("absent.py:handle") == f"no file absent.py, looked for from {project}"


def test_a_file_that_is_no_python(project: Path) -> None:
    (project / "dir").mkdir()
    (project / "dir/app.txt").write_text("")
    assert "not a Python file" in failure("dir/app.txt:handle")


def test_no_such_attribute(project: Path) -> None:
    (project / "app_near.py").write_text(HANDLER)
    assert failure("app_near:handel") == (
        "app_near has no attribute 'handel'; did you mean handle?"
    )
    assert failure("app_near:xyzzy") == "app_near has no attribute 'xyzzy'"


@pytest.mark.parametrize("target", ["app_bad:handle", "app_bad.py:handle"])
@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError: "),
        ("raise SystemExit('stop')\n", "SystemExit: stop"),
    ],
)
def test_code_that_cannot_be_imported(project: Path, target: str, source: str, last: str) -> None:
    (project / "app_bad.py").write_text(f"# first line\n{source}")
    text = failure(target)
    first, *lines = text.splitlines()
    place = target.partition(":")[0]
    assert first == f"{place} cannot be imported:"
    assert lines[-1].startswith(last)
    assert 'app_bad.py", line 2' in text
    assert "socketkeep/" not in text, "our own frames are cut off"
    assert "importlib" not in text


@pytest.mark.parametrize("target", ["app_bad:handle", "app_bad.py:handle"])
def test_a_module_that_is_not_installed(project: Path, target: str) -> None:
    (project / "app_bad.py").write_text("import json\nfrom absent.part import x\n")
    place = target.partition(":")[0]
    assert failure(target) == (
        f"{place} cannot be imported: {project}/app_bad.py:2 needs the module 'absent', which is"
        f" not installed for {sys.executable}: install it there, or serve by the Python that has it"
    )


def test_the_traceback_keeps_causes_and_groups(project: Path) -> None:
    (project / "app_inner.py").write_text(
        "raise ExceptionGroup('several', [ValueError('inner')])\n"
    )
    (project / "app_chain.py").write_text(
        "import socketkeep\n"
        "try:\n"
        "    import app_inner\n"
        "except Exception:\n"
        "    try:\n"
        "        socketkeep.resumable(on_crash='wrong')\n"
        "    except Exception as error:\n"
        "        raise RuntimeError('outer') from error\n"
    )
    text = failure("app_chain:handle")
    for part in ("several", "ValueError: inner", "HandlerError", "RuntimeError: outer"):
        assert part in text
    assert "_handlers.py" not in text, "our own frames are cut off there, too"
    assert 'app_inner.py", line 1' in text
    assert "importlib" not in text


def test_no_handler(project: Path) -> None:
    (project / "app_no.py").write_text("handle = 7\ndef two(a, b):\n    pass\n")
    assert failure("app_no:handle").startswith("app_no:handle cannot be a handler: ")
    assert "not callable" in failure("app_no:handle")
    assert "one argument" in failure("app_no:two")


@pytest.mark.parametrize("name", ["Handler", "made", "server"])
def test_what_is_of_socketserver(project: Path, name: str) -> None:
    (project / "app_ss.py").write_text(
        "import socketserver\nfrom functools import partial\nimport socketkeep\n"
        "@socketkeep.resumable(state=int)\n"
        "class Handler(socketserver.StreamRequestHandler):\n    pass\n"
        "made = partial(Handler)\n"
        "server = socketserver.TCPServer(('', 0), Handler, bind_and_activate=False)\n"
    )
    handler = load(f"app_ss:{name}", socketserver=True)
    assert (handler.is_async, handler.resumable, handler.state_type) == (False, True, int)
    assert "app_ss.Handler" in handler.name
    text = failure(f"app_ss:{name}")
    assert text.startswith(f"app_ss:{name} cannot be a handler: give --socketserver to serve it; ")
    sys.modules["app_ss"].server.server_close()


def test_callbacks_of_asyncio(project: Path) -> None:
    (project / "app_aio.py").write_text(
        "import socketkeep\n"
        "@socketkeep.resumable(state=int)\n"
        "async def kept(reader, writer):\n    pass\n"
        "def plain(reader, writer):\n    pass\n"
        "async def one(conn):\n    pass\n"
        "@socketkeep.resumable(redeliver=True)\n"
        "async def again(reader, writer):\n    pass\n"
        "class Made:\n    def __init__(self, a, b):\n        pass\n"
    )
    for name, resumable in (("kept", True), ("plain", False)):
        handler = load(f"app_aio:{name}", asyncio=True)
        assert (handler.is_async, handler.resumable) == (True, resumable)
        assert "handler: give --asyncio to serve it; " in failure(f"app_aio:{name}")
    for name, reason in (
        ("one", "two arguments, the reader and the writer"),
        ("again", "redeliver=True"),
        ("Made", "it is no callback"),
    ):
        assert reason in failure(f"app_aio:{name}", asyncio=True)
    assert "--asyncio" not in failure("app_aio:Made")


def test_protocols_of_asyncio(project: Path) -> None:
    (project / "app_pro.py").write_text(
        "import asyncio\n"
        "class Plain(asyncio.Protocol):\n    pass\n"
        "class Kept(asyncio.BufferedProtocol):\n"
        "    def detach(self):\n        pass\n"
        "    def attach(self, state):\n        pass\n"
        "def make():\n    return Plain()\n"
    )
    for name, resumable in (("Plain", False), ("Kept", True), ("make", False)):
        handler = load(f"app_pro:{name}", protocol=True)
        assert (handler.is_async, handler.resumable) == (True, resumable)
    assert "handler: give --protocol to serve it; " in failure("app_pro:Plain")
    text = failure("app_pro:Plain", asyncio=True)
    assert "handler: give --protocol in place of --asyncio to serve it; " in text


def test_what_socketserver_does_not_serve(project: Path) -> None:
    (project / "app_us.py").write_text(
        "import socketserver as s\n"
        "def two(a, b):\n    pass\n"
        "async def three(a, b, c):\n    pass\n"
        "class Datagrams(s.DatagramRequestHandler):\n    pass\n"
        "udp = s.UDPServer(('', 0), Datagrams, bind_and_activate=False)\n"
        "bound = s.TCPServer(('127.0.0.1', 0), s.StreamRequestHandler)\n"
    )
    for name, reason in (
        ("two", "three arguments"),
        ("three", "it is async"),
        ("Datagrams", "datagrams"),
        ("udp", "datagrams"),
        ("bound", "bind_and_activate=False"),
        ("__name__", "no handler class"),
    ):
        assert reason in failure(f"app_us:{name}", socketserver=True)
    for name in ("udp", "bound"):
        getattr(sys.modules["app_us"], name).server_close()


def test_a_factory_that_fails(project: Path) -> None:
    (project / "app_fails.py").write_text("def make():\n    raise OSError('no database')\nx = 3\n")
    text = failure("app_fails:make", factory=True)
    assert text.startswith("the factory app_fails:make failed:\n")
    assert text.endswith("OSError: no database")
    assert "socketkeep/" not in text
    assert "--factory" in failure("app_fails:x", factory=True)


def sync_handler(conn: object) -> None: ...
async def async_handler(conn: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "wanted", "model"),
    [
        (sync_handler, "auto", "fork"),
        (async_handler, "auto", "async"),
        (sync_handler, "fork", "fork"),
        (sync_handler, "prefork", "prefork"),
        (sync_handler, "thread", "thread"),
        (async_handler, "async", "async"),
    ],
)
def test_the_model_of_a_handler(
    handler: Callable[[object], object], wanted: str, model: str
) -> None:
    assert choose_model(inspected(handler), wanted) == model


@pytest.mark.parametrize(
    ("handler", "wanted"),
    [
        (async_handler, "fork"),
        (async_handler, "prefork"),
        (async_handler, "thread"),
        (sync_handler, "async"),
    ],
)
def test_a_model_that_does_not_fit(handler: Callable[[object], object], wanted: str) -> None:
    with code_refused("use -k") as caught:
        choose_model(inspected(handler), wanted)
    assert caught.value.exit_code == 2
    assert wanted in caught.value.text


class AsyncLifespan:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *args: object) -> None: ...


@contextmanager
def sync_lifespan() -> Iterator[None]:
    yield


@pytest.mark.parametrize("model", ["fork", "prefork", "thread"])
def test_an_async_lifespan_needs_the_async_model(model: Model) -> None:
    check_lifespan(AsyncLifespan(), "async")
    check_lifespan(sync_lifespan(), model)
    check_lifespan(nullcontext(), model)
    with pytest.raises(TypeError, match=model):
        check_lifespan(AsyncLifespan(), model)


ASYNC_HANDLER = "async def handle(conn):\n    pass\n"
APPLICATION = "async def app(scope, receive, send):\n    pass\n"


@pytest.mark.parametrize(
    ("target", "options", "served", "needed"),
    [
        (
            "handle",
            {"ws_resume": "on"},
            "served by the async model",
            "an ASGI application (--asgi)",
        ),
        ("handle", {"spare": 2}, "served by the async model", "--model fork"),
        ("plain", {"loop": "asyncio"}, "served by the fork model", "--model async"),
        ("app", {"child_requests": 9}, "an ASGI application", "--model fork"),
    ],
)
def test_an_option_that_does_nothing_for_the_code(
    project: Path, target: str, options: dict[str, Any], served: str, needed: str
) -> None:
    (project / "app_idle.py").write_text(
        ASYNC_HANDLER + APPLICATION + HANDLER.replace("handle", "plain")
    )
    with code_refused() as caught:
        load(f"app_idle:{target}", **options)
    (key,) = options
    assert caught.value.exit_code == 2
    assert caught.value.text == (
        f"--{key.replace('_', '-')} does nothing for app_idle:{target}, which is {served}:"
        f" it needs {needed}; leave it out"
    )


def test_threads_and_an_async_handler(project: Path) -> None:
    """The model of threads may be of --threads' choosing, and then that is what to mend."""
    (project / "app_threads.py").write_text(ASYNC_HANDLER)
    with code_refused() as caught:
        load("app_threads:handle", model="thread", threads=4)
    assert caught.value.exit_code == 2
    assert caught.value.text == (
        "app_threads.handle is async, and the thread model calls sync handlers: use -k async"
        " without --threads, or a plain function"
    )


def test_options_that_do_something_for_the_code(project: Path) -> None:
    (project / "app_busy.py").write_text(
        ASYNC_HANDLER + APPLICATION + HANDLER.replace("handle", "plain")
    )
    assert load("app_busy:app", ws_resume="on", loop="asyncio").is_async
    assert load("app_busy:handle", loop="asyncio", keep="crash", keep_after=1.0).is_async
    assert not load("app_busy:plain", spare=2, child_requests=9).is_async
