"""The options of a running server, read anew from its settings file."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.configuration import (
    OPTIONS,
    configured,
    option_refused,
    origins,
    read_origins,
    renewed,
)


def rewrite(directory: Path, text: str) -> None:
    (directory / "server.toml").write_text(text)


def keys(changes: Any) -> list[str]:
    return [change.option.key for change in changes]


def test_what_can_change_does_and_the_rest_is_named(tmp_path: Path) -> None:
    origin = origins(tmp_path, 'workers = 2\nmodel = "thread"\nidle_timeout = "1m"')
    rewrite(tmp_path, 'workers = 4\nmodel = "prefork"\nlog_level = "debug"')
    renewal = renewed(origin)
    assert keys(renewal.applied) == ["workers", "idle_timeout", "log_level"]
    assert [change.text for change in renewal.applied] == ["2 -> 4", "60 -> 0", "info -> debug"]
    assert keys(renewal.waiting) == ["model"]
    config = renewal.config
    assert (config.workers, config.idle_timeout, config.log_level) == (4, 0.0, "debug")
    assert config.model == "thread"
    assert renewal.origins is not None
    again = renewed(renewal.origins, config)
    assert (again.config, again.applied, keys(again.waiting)) == (config, (), ["model"])


def test_the_same_file_changes_nothing(tmp_path: Path) -> None:
    """A value that the server has from elsewhere, by a command say, stays."""
    origin = origins(tmp_path, "workers = 2")
    running = configured(workers=2, bind=["unix:/elsewhere"])
    assert renewed(origin, running).config is not None
    assert renewed(origin, running).config == running


def test_the_command_line_and_the_environment_go_before(tmp_path: Path) -> None:
    environment = {"SOCKETKEEP_THREADS": "3"}
    origin = origins(tmp_path, "", environment, workers="2", allow=("10.0.0.0/8",))
    rewrite(tmp_path, "workers = 9\nthreads = 9\nbacklog = 9\nallow = ['::1']")
    renewal = renewed(origin, environment=environment)
    assert keys(renewal.applied) == ["backlog"]
    assert renewal.waiting == ()
    assert (renewal.config.workers, renewal.config.threads) == (2, 3)


def test_paths_stay_those_of_the_start(tmp_path: Path) -> None:
    origin = origins(tmp_path, "")
    rewrite(tmp_path, 'request_log = "common"\nrequest_log_file = "requests.log"')
    assert renewed(origin).config.request_log_file == f"{tmp_path}/requests.log"


def test_secrets_are_not_told(tmp_path: Path) -> None:
    admin = 'admin = "127.0.0.1:9000"'
    origin = origins(tmp_path, f'{admin}\nadmin_token = "{"a" * 16}"')
    rewrite(tmp_path, f'{admin}\nadmin_token = "{"b" * 16}"')
    (change,) = renewed(origin).waiting
    assert change.text == "(not shown) -> (not shown)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers = ", "not TOML"),
        ("wokers = 2", "unknown key wokers .did you mean workers"),
        ("workers = -1", "line 1: workers: must be at least 0"),
        ("# " + "x" * (1 << 20), "expected 1048576 at most"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    origin = origins(tmp_path, "")
    rewrite(tmp_path, text)
    with option_refused(said) as caught:
        renewed(origin)
    assert str(tmp_path / "server.toml") in str(caught.value)


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    origin = origins(tmp_path, 'target = "app:handle"')
    rewrite(tmp_path, "asyncio = true\nasgi = true")
    with option_refused("--asgi and --asyncio"):
        renewed(origin)


def test_more_connections_than_there_can_be(tmp_path: Path) -> None:
    origin = origins(tmp_path, "")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    rewrite(tmp_path, f"max_connections = {hard}")
    with option_refused("file descriptors, but the limit is"):
        renewed(origin)


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    origin = origins(tmp_path, "")
    path = tmp_path / "server.toml"
    path.unlink()
    with option_refused("cannot read the configuration file"):
        renewed(origin)
    os.mkfifo(path)
    with option_refused("no regular file"):
        renewed(origin)


def test_without_a_file(tmp_path: Path) -> None:
    """Nor is what came by a pipe read twice."""
    running = configured()
    assert renewed(origins(tmp_path, None), running).config is running
    os.mkfifo(tmp_path / "pipe")
    from_pipe = msgspec.structs.replace(origins(tmp_path, ""), file="")
    assert renewed(from_pipe, running).config is running


def test_what_changes_at_a_reload_is_declared() -> None:
    """The model, the addresses and the rights take a restart."""
    changing = {declared.key for declared in OPTIONS if declared.at_reload}
    assert {"workers", "graceful_timeout", "idle_timeout", "max_connections"} <= changing
    assert {"max_per_address", "deny_file", "tcp_keepalive", "edge_drain"} <= changing
    assert {"log_level", "access_log", "limit_request_head", "ws_max_size"} <= changing
    assert not changing & {"target", "model", "bind", "keep", "user", "guard", "name", "control"}


def test_sources_go_by_way_of_the_store(tmp_path: Path) -> None:
    """To a server that is started in the same way, and to no other."""
    flags: dict[str, Any] = {"target": "app:handle", "workers": "2", "allow": ("10.0.0.0/8",)}
    origin = origins(tmp_path, "threads = 3", **flags)
    again = read_origins(origin.encoded())
    assert again is not None
    assert again == origin
    assert again.are_of({**flags, "keep": None}, "server.toml")
    assert not again.are_of(flags, "other.toml")
    assert not again.are_of({**flags, "workers": "3"}, "server.toml")
    assert not origins(tmp_path, None, **flags).are_of(flags, ""), "there is no file to be wrong"
    assert read_origins(b"of another version") is None


def test_the_default_address_is_not_bound_beside_what_is_passed(tmp_path: Path) -> None:
    origin = origins(tmp_path, "")
    assert origin.config(inherits_listeners=False) == origin.told
    assert origin.config(inherits_listeners=True).bind == []
    given = origins(tmp_path, "", bind=("127.0.0.1:1",))
    assert given.config(inherits_listeners=True).bind == ["127.0.0.1:1"]
