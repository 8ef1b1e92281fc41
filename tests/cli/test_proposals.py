"""What is proposed to who gave no attribute, or an option of another server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from socketkeep._config._other_servers import COMMANDS, HERE, WORKER_CLASSES
from tests.harness import command
from tests.harness.command import main
from tests.harness.configuration import LISTENER_OPTIONS, OPTIONS, option

FLAGS = {flag for declared in OPTIONS for flag in declared.flags}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def other(conn): ...\n@resumable\ndef talk(conn): ...", "did you mean app.py:talk?"),
        (
            "@socketkeep.resumable(state=int)\nasync def talk(conn): ...",
            "did you mean app.py:talk?",
        ),
        ("def helper(x): ...\ndef handle(conn): ...", "did you mean app.py:handle?"),
        ("def f(conn): ...\nchat: Service = Service(f)", "did you mean app.py:chat?"),
        ("def _own(x): ...\ndef nothing(): ...", "app.py has no function that takes a connection"),
        ("def f(conn:", "got 'app.py': app.py is no Python: line 1: '(' was never closed"),
        ("app = make(); other = make()", "did you mean app.py:app?"),
        ("raise SystemExit('it was run')\ndef f(conn): ...", "did you mean app.py:f?"),
        (
            "app = FastAPI()\n@app.get('/')\nasync def root(item): ...",
            "did you mean --asgi app.py:app?",
        ),
        ("application = django.get_asgi_application()", "did you mean --asgi app.py:application?"),
        ("async def app(scope, receive, send): ...", "did you mean --asgi app.py:app?"),
        (
            "app = Flask(__name__)",
            "wrap it, as in app = a2wsgi.WSGIMiddleware(app), and give --asgi",
        ),
        ("async def talk(reader, writer): ...", "did you mean --asyncio app.py:talk?"),
        ("class Echo(asyncio.Protocol): ...", "did you mean --protocol app.py:Echo?"),
        (
            "class Web(http.server.BaseHTTPRequestHandler): ...",
            "did you mean --socketserver app.py:Web?",
        ),
        ("def two(a, b): ...\ndef keyed(a, *, b): ...", "has no function that takes a connection"),
    ],
)
def test_a_target_without_its_attribute(
    code: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file is read, and not run."""
    monkeypatch.chdir(tmp_path)
    Path("app.py").write_text(code)
    assert main(["serve", "app.py"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_of_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop").mkdir()
    Path("shop/chat.py").write_text("async def handle(conn): ...")
    assert main(["serve", "shop.chat"]) == 2
    assert "did you mean shop.chat:handle?" in capsys.readouterr().err
    assert main(["serve", "shop.none"]) == 2
    assert capsys.readouterr().err.endswith("got 'shop.none'\n")
    for target, said in (
        ("shop/chat", "did you mean shop/chat.py:handle?"),
        ("shop/", "shop/ is a directory"),
        ("shop/none.py", "there is no file shop/none.py"),
    ):
        assert main(["serve", target]) == 2
        assert capsys.readouterr().err.endswith(f": {said}\n")
    Path("shop/__init__.py").write_text("async def handle(conn): ...")
    assert main(["serve", "shop"]) == 2
    assert "did you mean shop:handle?" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["app:create()", "app:create('prod')", "app:create(x=a.b)"])
def test_a_call_for_a_target(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", call]) == 2
    error = capsys.readouterr().err
    assert "--factory calls it" in error
    assert "give app:create --factory" in error
    assert ("(without arguments)" in error) == (not call.endswith("()"))


@pytest.mark.parametrize("option", ["--host", "-p", "--certfile", "--worker-class", "--daemon"])
def test_an_option_of_another_server(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "app:handle", option, "one"]) == 2
    said = f"socketkeep: error: there is no option {option}: {HERE[option]}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("options", "bind"),
    [
        (["--host", "0.0.0.0", "--port", "80"], "-b 0.0.0.0:80"),
        (["--port=8000"], "-b 127.0.0.1:8000"),
        (["-p", "8000", "--host=::"], "-b [::]:8000"),
        (["-p8000"], "-b 127.0.0.1:8000"),
    ],
)
def test_a_host_and_a_port(
    options: list[str], bind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are put together as -b has them."""
    assert main(["serve", *options, "app:handle"]) == 2
    assert capsys.readouterr().err.endswith(f": {bind} listens there\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("uvicorn.workers.UvicornWorker", "leave it out: --asgi TARGET serves an ASGI application"),
        ("gthread", "thread serves each connection by a thread"),
        ("asinc", "got 'asinc' (did you mean async?)"),
    ],
)
def test_a_worker_class(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "app:handle", "-k", name]) == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "app:app"], "there is no command 'run': socketkeep serve TARGET starts a server"),
        (["app:app"], "there is no command 'app:app': socketkeep serve app:app serves it"),
        (["app.py"], "there is no command 'app.py': socketkeep serve app.py serves it"),
        (["serv"], "there is no command 'serv' (did you mean serve?); see socketkeep --help"),
        (["--bind", ":80", "a:b"], "there is no option --bind before a command; an option of a"),
    ],
)
def test_no_command(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_what_is_proposed_is_there() -> None:
    """An option that is here, too, is none of another server's; what a text names exists."""
    assert not FLAGS & HERE.keys()
    assert not COMMANDS.keys() & command.COMMANDS.keys()
    of_listeners = {declared.name for declared in LISTENER_OPTIONS}
    words = command.COMMANDS.keys() | option("model").choices
    for text in (*HERE.values(), *COMMANDS.values(), *WORKER_CLASSES.values()):
        named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
        assert named <= FLAGS | {"--json", "--check-config"}, text
        assert set(re.findall(r"([a-z-]+)=", text)) <= of_listeners, text
        assert set(re.findall(r"socketkeep (\w+)", text)) <= command.COMMANDS.keys(), text
    for text in WORKER_CLASSES.values():
        assert text.partition(" ")[0] in {*words, "leave"}, text
