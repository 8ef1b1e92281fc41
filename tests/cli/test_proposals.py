"""What is proposed to who gave no attribute, or an option of another server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from socketkeep._cli._other_servers import HERE
from tests.harness.command import main
from tests.harness.configuration import LISTENER_OPTIONS, OPTIONS

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
        ("not python at all", "got 'app.py'\n"),
        ("raise SystemExit('it was run')\ndef f(conn): ...", "did you mean app.py:f?"),
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


@pytest.mark.parametrize("option", ["--host", "-p", "--certfile", "--worker-class", "--daemon"])
def test_an_option_of_another_server(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "app:handle", option, "1"]) == 2
    said = f"socketkeep: error: there is no option {option}: {HERE[option]}\n"
    assert capsys.readouterr().err == said


def test_what_is_proposed_is_there() -> None:
    """An option that is here, too, is none of another server's; what a text names exists."""
    assert not FLAGS & HERE.keys()
    of_listeners = {declared.name for declared in LISTENER_OPTIONS}
    for option, text in HERE.items():
        named = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)
        assert {*named, "--json"} <= FLAGS | {"--json"}, option
        assert set(re.findall(r"([a-z-]+)=", text)) <= of_listeners, option
