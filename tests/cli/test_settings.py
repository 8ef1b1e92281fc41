"""Where options come from: precedence, unknown names, files that cannot be read."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.harness.configuration import gathered, option_refused


def toml(directory: Path, text: str) -> str:
    path = directory / "server.toml"
    path.write_text(text)
    return str(path)


def refusal(environment: dict[str, str] | None = None, path: str | None = None) -> str:
    with option_refused() as caught:
        gathered({"target": "a:b"}, environment or {}, path)
    return str(caught.value)


def test_defaults() -> None:
    """Without any source there are the defaults, and no target."""
    settings = gathered({}, {})
    assert "target" not in settings.by_key
    assert settings.by_key["workers"].value == 0
    assert {setting.source for setting in settings.by_key.values()} == {"default"}
    with option_refused("TARGET is missing"):
        settings.config()


def test_precedence(tmp_path: Path) -> None:
    """A flag goes before the environment, the environment before the file, the file before all."""
    path = toml(
        tmp_path, 'target = "f:f"\nworkers = 1\nthreads = 1\nbacklog = 1\nlog_level="debug"'
    )
    environment = {"SOCKETKEEP_WORKERS": "2", "SOCKETKEEP_THREADS": "2", "SOCKETKEEP_TARGET": "e:e"}
    settings = gathered({"workers": "3", "target": None, "bind": ()}, environment, path)
    config = settings.config()
    assert (config.workers, config.threads, config.backlog) == (3, 2, 1)
    assert (config.target, config.log_level, config.keep) == ("e:e", "debug", "reload")
    sources = {key: setting.source for key, setting in settings.by_key.items()}
    assert sources["workers"] == "--workers"
    assert sources["threads"] == "SOCKETKEEP_THREADS"
    assert sources["backlog"] == path
    assert sources["keep"] == "default"


def test_a_flag_can_say_no(tmp_path: Path) -> None:
    """--no-access-log overrides a file that says yes, and is told as the source."""
    path = toml(tmp_path, "access_log = true")
    settings = gathered({"access_log": False}, {}, path)
    assert settings.by_key["access_log"].value is False
    assert settings.by_key["access_log"].source == "--no-access-log"


def test_lists() -> None:
    """--bind is repeated on the command line and separated by commas in the environment."""
    from_flags = gathered({"target": "a:b", "bind": ("127.0.0.1:1", "unix:/a,b")}, {})
    assert from_flags.config().bind == ["127.0.0.1:1", "unix:/a,b"]
    from_environment = gathered({"target": "a:b"}, {"SOCKETKEEP_BIND": "[::1]:1, unix:/x"})
    assert from_environment.config().bind == ["[::1]:1", "unix:/x"]


def test_lists_in_toml(tmp_path: Path) -> None:
    """A file may give one address as text or several as a list; a list of numbers is refused."""
    one = gathered({"target": "a:b"}, {}, toml(tmp_path, 'bind = "unix:/x"'))
    assert one.config().bind == ["unix:/x"]
    two = gathered({"target": "a:b"}, {}, toml(tmp_path, 'bind = ["unix:/x", ":0"]'))
    assert two.config().bind == ["unix:/x", ":0"]
    assert "bind: expected" in refusal(path=toml(tmp_path, "bind = [7000]"))


def test_inherited_listeners_replace_the_default_address() -> None:
    """Sockets from systemd are not joined by the default address, but by one that was asked for."""
    default = gathered({"target": "a:b"}, {})
    assert default.config(inherits_listeners=True).bind == []
    asked = gathered({"target": "a:b", "bind": (":1",)}, {})
    assert asked.config(inherits_listeners=True).bind == [":1"]


def test_the_table_socketkeep(tmp_path: Path) -> None:
    """Options may stand in [socketkeep], beside other programs' tables, but not outside of it."""
    path = toml(tmp_path, "[other]\nx = 1\n[socketkeep]\nworkers = 5\n")
    assert gathered({}, {}, path).by_key["workers"].value == 5
    path = toml(tmp_path, "workers = 4\n[socketkeep]\nthreads = 5\n")
    assert "workers stands outside of the table [socketkeep]" in refusal(path=path)
    assert "must be a table" in refusal(path=toml(tmp_path, "socketkeep = 1"))


def test_the_file_named_by_the_environment(tmp_path: Path) -> None:
    """SOCKETKEEP_CONFIG names the file when the command line does not."""
    path = toml(tmp_path, "workers = 5")
    assert gathered({}, {"SOCKETKEEP_CONFIG": path}).by_key["workers"].value == 5
    (tmp_path / "other.toml").write_text("workers = 6")
    other = str(tmp_path / "other.toml")
    assert gathered({}, {"SOCKETKEEP_CONFIG": path}, other).by_key["workers"].value == 6


def test_unknown_variables() -> None:
    """A variable that no option has is refused with the nearest, unless it is another's."""
    assert refusal({"SOCKETKEEP_WORKER": "1"}).endswith("(did you mean SOCKETKEEP_WORKERS?)")
    assert refusal({"SOCKETKEEP_XYZZY": "1"}).endswith("has this environment variable")
    gathered({}, {"SOCKETKEEP_RUNTIME_DIR": "/x", "SOCKETKEEPER": "1", "_SOCKETKEEP_COMPLETE": "x"})


def test_variables_of_kubernetes() -> None:
    """A service named socketkeep in the namespace does not keep the server from starting."""
    gathered(
        {},
        {
            "SOCKETKEEP_SERVICE_HOST": "10.0.0.1",
            "SOCKETKEEP_SERVICE_PORT": "7000",
            "SOCKETKEEP_SERVICE_PORT_MAIN": "7000",
            "SOCKETKEEP_PORT": "tcp://10.0.0.1:7000",
            "SOCKETKEEP_PORT_7000_TCP": "tcp://10.0.0.1:7000",
            "SOCKETKEEP_PORT_7000_TCP_PROTO": "tcp",
        },
    )


def test_an_empty_variable_is_none() -> None:
    """A variable that is set to nothing leaves the default."""
    assert gathered({}, {"SOCKETKEEP_WORKERS": ""}).by_key["workers"].source == "default"


def test_a_bad_variable_is_named() -> None:
    """The message names the variable, not the flag that was not given."""
    assert refusal({"SOCKETKEEP_WORKERS": "x"}).startswith("SOCKETKEEP_WORKERS: expected a whole")


def test_unknown_keys(tmp_path: Path) -> None:
    """A key that no option has is refused with the nearest, the file and the line."""
    path = toml(tmp_path, "workers = 1\n\nworkrs = 2\n")
    assert refusal(path=path) == f"{path}, line 3: unknown key workrs (did you mean workers?)"
    path = toml(tmp_path, "graceful-timeout = 2\n")
    assert refusal(path=path).endswith("(keys have underscores: graceful_timeout)")
    path = toml(tmp_path, "[other]\nx = 2\n")
    assert refusal(path=path).startswith(f"{path}, line 1: unknown key other")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('workers = "many"', "workers: expected a whole number, got 'many'"),
        ("workers = 1.5", "workers: expected a whole number, got 1.5"),
        ("workers = true", "workers: expected a whole number, got true"),
        ("workers = -1", "workers: must be at least 0, got -1"),
        ("start_timeout = -1", "start_timeout: a duration cannot be negative, got -1"),
        ("start_timeout = nan", "start_timeout: expected a duration"),
        ("start_timeout = inf", "start_timeout: expected a duration"),
        ("unix_mode = 666", "unix_mode: expected octal permissions"),
        ("reload = 1", "reload: expected true or false, got 1"),
        ("name = 1979-05-27", "name: expected text"),
        ("log_level = {}", "log_level: expected text"),
        (
            'keep = "relod"',
            "keep: expected one of none, reload, crash, got 'relod' (did you mean reload?)",
        ),
    ],
)
def test_bad_values_in_toml(tmp_path: Path, line: str, message: str) -> None:
    """A value of the wrong type or range is refused with file, line and key."""
    path = toml(tmp_path, f"# settings\n{line}\n")
    assert refusal(path=path).startswith(f"{path}, line 2: {message}")


def test_a_value_that_a_flag_overrides_is_checked_too(tmp_path: Path) -> None:
    """A mistake in the file does not wait for the day when the flag is dropped."""
    with option_refused("workers"):
        gathered({"workers": "1"}, {}, toml(tmp_path, "workers = -1"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, a directory, not TOML, not text: each is one line that names the file."""
    missing = str(tmp_path / "missing.toml")
    assert refusal(path=missing) == (
        f"cannot read the configuration file {missing}: No such file or directory"
    )
    assert refusal(path=str(tmp_path)).endswith("Is a directory")
    broken = toml(tmp_path, "workers = 1\nthreads = = 2\n")
    assert refusal(path=broken).startswith(f"{broken}: not TOML: ")
    assert "line 2" in refusal(path=broken)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert refusal(path=str(binary)) == f"{binary}: not TOML: the file is not UTF-8 text"


def test_the_printed_configuration_is_read_back(tmp_path: Path) -> None:
    """--print-config writes a file from which the same configuration comes."""
    flags: dict[str, str | bool | tuple[str, ...]] = {
        "target": "shop.chat:handle",
        "bind": ("127.0.0.1:1", 'unix:/with "quotes"'),
        "graceful_timeout": "1500ms",
        "worker_max_rss": "200M",
        "access_log": True,
        "unix_mode": "660",
        "name": "chat",
    }
    settings = gathered(flags, {})
    printed = settings.as_toml()
    assert gathered({}, {}, toml(tmp_path, printed)).config() == settings.config()
    assert tomllib.loads(printed)["graceful_timeout"] == 1.5
    (line,) = [line for line in printed.splitlines() if line.startswith("name ")]
    assert line.endswith("# --name")


def test_a_configuration_without_target_can_be_printed() -> None:
    """--print-config works before there is a target, and says that there is none."""
    printed = gathered({}, {}).as_toml()
    assert printed.startswith("# Handler\n# target =")
    assert "\n\n# Listeners\nbind = " in printed
    assert tomllib.loads(printed)["workers"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"socketserver": True, "model": "async"}, "fork or prefork or thread, or none"),
        ({"asyncio": True, "model": "fork"}, "--asyncio: the fork model does not serve it"),
        ({"asyncio": True, "socketserver": True}, "--asyncio and --socketserver: TARGET is one"),
    ],
)
def test_kinds_of_target_and_their_models(flags: dict[str, str | bool], message: str) -> None:
    with option_refused() as caught:
        gathered({"target": "app:x", **flags}, {}).config()
    assert message in str(caught.value)
