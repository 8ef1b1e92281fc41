"""`serve` up to the server: what is refused before, and what the server is handed."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.harness.command import main
from tests.harness.configuration import OPTIONS, configured, option, origins, topics
from tests.keeper.fakes import sealed


class ServeFailure(Exception):
    """As the server's."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.text = text
        self.exit_code = exit_code


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A server that only takes down its configuration; it fails for the target bad:bad."""
    configs: list[Any] = []

    def run(config: Any, *_: object) -> None:
        configs.append(config)
        if config.target == "bad:bad":
            raise ServeFailure("no worker became ready", 3)

    server: Any = types.ModuleType("socketkeep._admin._server")
    server.run = run
    server.ServeFailure = ServeFailure
    monkeypatch.setitem(sys.modules, "socketkeep._admin._server", server)
    return configs


def leave_in_store(monkeypatch: pytest.MonkeyPatch, data: bytes, starts: int | None) -> None:
    """Have this process be one that a guard, or else a manager, has started with these settings."""
    fd = sealed("settings", data)
    monkeypatch.setattr("socketkeep._net._listener._FIRST_INHERITED", fd)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "socketkeep.settings.1")
    if starts is not None:
        monkeypatch.setenv("SOCKETKEEP_GUARDED", f"{os.getppid()} 1024 {starts} killed")


@pytest.mark.parametrize(
    ("starts", "text", "code"),
    [
        (1, "[[[", 0),
        (1, "wokers = 1", 0),
        (1, 'threads = "many"', 0),
        (1, 'chdir = "/proc"\nlog_file = "no/such"', 0),
        (1, None, 0),
        (None, "[[[", 0),
        (0, "[[[", 2),
    ],
)
def test_a_keeper_that_is_started_again_needs_no_good_settings_file(
    handed: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: int | None,
    text: str | None,
    code: int,
) -> None:
    """It goes by those of the keeper before it, and only then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    before = origins(tmp_path, "workers = 3", target="shop:handle")
    leave_in_store(monkeypatch, before.encoded(), starts)
    if text is None:
        (tmp_path / "server.toml").unlink()
    else:
        (tmp_path / "server.toml").write_text(text)
    serve = ("serve", "shop:handle", "-c", "server.toml")
    assert main([*serve, "--workers", "2"]) == 2, "another server"
    assert main([*serve, "--check-config"]) == 2
    assert not handed
    assert main([*serve]) == code
    assert [config.workers for config in handed] == ([] if code else [3])
    assert Path.cwd() == tmp_path


def test_settings_of_before_that_will_not_do_either(
    handed: list[Any], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mistake in the file is told, and not theirs."""
    monkeypatch.chdir(tmp_path)
    before = origins(tmp_path, 'admin = "0.0.0.0:1"', target="shop:handle")
    leave_in_store(monkeypatch, before.encoded(), 1)
    (tmp_path / "server.toml").write_text("[[[")
    done = cli("serve", "shop:handle", "-c", "server.toml")
    assert done.exit_code == 2
    assert "server.toml: not TOML" in done.stderr
    assert not handed


def test_the_server_gets_the_configuration(handed: list[Any]) -> None:
    """Flags become the configuration of the server, and 0 is its orderly end."""
    code = main(
        [
            *("serve", "shop.chat:handle", "-b", "127.0.0.1:0", "--bind", "unix:/x"),
            *("-w", "3", "-k", "prefork", "--graceful-timeout", "500ms", "--access-log"),
            *("--worker-max-rss", "200M", "--no-reload", "--unix-mode", "600"),
        ]
    )
    assert code == 0
    assert handed == [
        configured(
            target="shop.chat:handle",
            bind=["127.0.0.1:0", "unix:/x"],
            workers=3,
            model="prefork",
            graceful_timeout=0.5,
            access_log=True,
            worker_max_rss=200 * 2**20,
            unix_mode="0600",
        )
    ]


def test_a_server_that_fails(handed: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """What keeps a server from serving is one line, and its exit code the command's."""
    assert main(["serve", "bad:bad"]) == 3
    assert capsys.readouterr().err == "socketkeep: error: no worker became ready\n"
    assert len(handed) == 1


def test_sockets_of_systemd(handed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """LISTEN_FDS for this very process takes the place of the default address."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    main(["serve", "a:b"])
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    main(["serve", "a:b"])
    main(["serve", "a:b", "-b", ":1"])
    assert [config.bind for config in handed] == [["127.0.0.1:7000"], [], [":1"]]


def test_every_option_has_its_flag_and_its_help(cli: Cli) -> None:
    """The help names every flag, each with a text, and says how variables and keys are called."""
    finished = cli("serve", "--help", COLUMNS="80")
    assert finished.exit_code == 0
    assert max(map(len, finished.stdout.splitlines())) <= 80
    told = " ".join(finished.stdout.split())
    for declared in OPTIONS:
        if declared.flags:
            begin = " ".join(declared.help.split()[:3])
            assert re.search(rf" {', '.join(declared.flags)} \S.*? {re.escape(begin)}", told)
    assert "--max-connections is SOCKETKEEP_MAX_CONNECTIONS, its key in the file" in told
    assert option("max_connections").variable == "SOCKETKEEP_MAX_CONNECTIONS"


def test_the_help_in_short_has_a_line_for_each_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """-h fits the terminal, by topic; what has no room for its text says so."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["serve", "-h"]) == 0
    sections = {
        lines[0]: lines[1:]
        for lines in (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
        if lines[0].endswith(":")
    }
    assert list(sections) == [f"{title}:" for title in (*topics(), "This command")]
    assert sections["Log:"][0] == f"  {'--log-level':<27} Log events of this level and above."
    assert sections["Rights:"][0].endswith(" …")
    assert all(len(line) <= 80 for lines in sections.values() for line in lines)
    for title, keys in topics().items():
        flags = [", ".join(option(key).flags) for key in keys if option(key).flags]
        assert [line[2:29].rstrip() for line in sections[f"{title}:"]] == flags


def test_the_help_says_what_each_option_is_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of one that is on, which its name does not say."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["serve", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "--tcp-nodelay / --no-tcp-nodelay Small sends" in told
    assert "For every listener that does not say (tcp-nodelay=). [default: on]" in told
    assert "[default: the model's default (prefork 8, the others 1)]" in told
    assert "-c, --config FILE.toml Read options from this file" in told


def test_print_config(cli: Cli, tmp_path: Path) -> None:
    """--print-config prints TOML with the effective values, their sources, and serves nothing."""
    (tmp_path / "a.toml").write_text("workers = 4\n")
    finished = cli(
        *("serve", "a:b", "-c", "a.toml", "--print-config", "--threads", "9"),
        SOCKETKEEP_BACKLOG="5",
    )
    assert (finished.exit_code, finished.stderr) == (0, "")
    printed = tomllib.loads(finished.stdout)
    assert (printed["workers"], printed["threads"], printed["backlog"]) == (4, 9, 5)
    options = [line for line in finished.stdout.splitlines() if " = " in line]
    sources = {line.split()[0]: line.rpartition("# ")[2] for line in options}
    assert sources["workers"] == "a.toml"
    assert sources["threads"] == "--threads"
    assert sources["backlog"] == "SOCKETKEEP_BACKLOG"
    assert sources["keep"] == "default"


def test_check_config(cli: Cli, tmp_path: Path) -> None:
    """--check-config tells whether options and code are good, by the exit codes of a real start."""
    (tmp_path / "good.py").write_text("def handle(conn): ...\nasync def other(conn): ...\n")
    (tmp_path / "broken.py").write_text("def handle(conn:\n")
    good = cli("serve", "good:handle", "--check-config")
    assert (good.exit_code, good.stderr) == (0, "")
    assert "good:handle loads: not resumable, model fork" in good.stdout
    assert "model async" in cli("serve", "good.py:other", "--check-config").stdout
    for arguments, exit_code, said in (
        (("good:handle", "-c", "none.toml"), 2, "cannot read"),
        ((), 2, "TARGET is missing"),
        (("good:other", "-k", "fork"), 2, "is async"),
        (("good:hande",), 4, "did you mean handle?"),
        (("missing:handle",), 4, "no module named 'missing'"),
        (("broken:handle",), 4, "SyntaxError"),
    ):
        finished = cli("serve", *arguments, "--check-config")
        assert finished.exit_code == exit_code, finished
        assert finished.stderr.startswith("socketkeep: error: ")
        assert said in finished.stderr
        assert "socketkeep/_" not in finished.stderr  # of a traceback, only the user's part


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "TARGET is missing"),
        (["serve", "module"], "TARGET: expected package.module:attribute"),
        (["serve", "a:b", "c:d"], "unexpected extra argument"),
        (["serve", "a:b", "--worker", "2"], "--workers"),
        (["serve", "a:b", "-w", "two"], "--workers: expected a whole number, got 'two'"),
        (["serve", "a:b", "-w"], "requires an argument"),
        (["serve", "a:b", "--idle-timeout", "-3"], "--idle-timeout: a duration cannot be negative"),
        (["serve", "a:b", "--keep", "always"], "--keep: expected one of none, reload, crash"),
        (["serve", "a:b", "-b", "nowhere"], "--bind: address 'nowhere'"),
        (["serve", "a:b", "-b", "::1:80"], "--bind: address '::1:80'"),
        (["serve", "a:b", "-b", "host:99999"], "--bind: address 'host:99999'"),
        (["serve", "a:b", "-c", "none.toml"], "cannot read the configuration file none.toml"),
        (["serve", "a:b", "--log-file", "/none/x.log"], "--log-file: cannot append to /none/x.log"),
    ],
)
def test_mistakes(cli: Cli, arguments: list[str], said: str) -> None:
    """Each mistake is one line on stderr that names it, and exit code 2."""
    finished = cli(*arguments)
    assert finished.exit_code == 2, finished
    assert finished.stdout == ""
    assert finished.stderr.startswith("socketkeep: error: ")
    assert said in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_missing_extra(
    handed: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An option that needs a package that is not there says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["serve", "a:b", "--loop", "uvloop"]) == 2
    assert "install the extra 'uvloop' of socketkeep" in capsys.readouterr().err
    assert main(["serve", "a:b", "--reload"]) == 2
    assert "install the extra 'watchfiles' of socketkeep" in capsys.readouterr().err
    assert main(["serve", "a:b", "--loop", "auto"]) == 0
    assert len(handed) == 1


def test_too_few_descriptors(
    handed: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """More connections than the hard limit has descriptors for are refused with both numbers."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1024))
    assert main(["serve", "a:b", "--max-connections", "900"]) == 0
    assert main(["serve", "a:b", "--max-connections", "5000"]) == 2
    said = capsys.readouterr().err
    assert "--max-connections 5000 needs 5064 file descriptors, but the limit is 1024" in said
    assert len(handed) == 1


@pytest.mark.parametrize(
    ("system", "release", "said"),
    [("darwin", "23.0", "needs Linux 5.10 or newer"), ("linux", "4.19.0-21", "this is 4.19.0-21")],
)
def test_other_systems(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    system: str,
    release: str,
    said: str,
) -> None:
    """Where the server cannot work it says what is missing."""
    names = os.uname()
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(
        os, "uname", lambda: os.uname_result((names[0], names[1], release, names[3], names[4]))
    )
    assert main(["serve", "a:b"]) == 1
    assert said in capsys.readouterr().err
