"""Values: how they are read, refused, written, and that each option is declared once."""

from __future__ import annotations

import os
import tomllib
from typing import Any, get_type_hints

import msgspec
import pytest
from docs._ext.declared import PAGES
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.configuration import (
    OPTIONS,
    TOPICS,
    as_told,
    configuration_in,
    configured,
    listeners,
    listeners_as_told,
    option,
    option_refused,
    read,
    topics,
    user_to_become,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("1.5", 1.5),
        (".5s", 0.5),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        (" 3 s ", 3.0),
        ("0", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a number of seconds, or has one of the usual units."""
    assert read("idle_timeout", text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1 y", "s", "1e3", "inf", "nan", "1,5", "1m30s", "٣"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused, also what float() would take."""
    with option_refused("--idle-timeout: .*duration"):
        read("idle_timeout", text)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("60", "60:15:3"),
        ("2m", "120:15:3"),
        ("30s:5", "30:5:3"),
        ("1h:1m:9", "3600:60:9"),
        ("OFF", "off"),
    ],
)
def test_keepalives(text: str, meaning: str) -> None:
    """A keepalive is what tcp(7) can be told, in whole seconds, or none."""
    assert read("tcp_keepalive", text) == meaning


@pytest.mark.parametrize(
    "text", ["", "on", "0", "500ms", "60:0", "60:15:0", "60:15:128", "40000", "1:2:3:4", "60::3"]
)
def test_what_is_no_keepalive(text: str) -> None:
    """Anything else is refused, also what the kernel would refuse in the middle of a start."""
    with option_refused("--tcp-keepalive: expected off, or IDLE:INTERVAL:COUNT"):
        read("tcp_keepalive", text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("65536", 65536),
        ("64K", 65536),
        ("64k", 65536),
        ("200M", 200 * 2**20),
        ("1G", 2**30),
        ("1GiB", 2**30),
        ("1.5 MB", 3 * 2**19),
        ("0", 0),
    ],
)
def test_sizes(text: str, count: int) -> None:
    """A size is a number of bytes; units are powers of 1024, however they are spelt."""
    assert read("worker_max_rss", text) == count


@pytest.mark.parametrize("text", ["", "-1", "M", "1X", "1e6", "0x10"])
def test_what_is_no_size(text: str) -> None:
    """Anything else is refused."""
    with option_refused("--worker-max-rss: .*size"):
        read("worker_max_rss", text)


def test_flags_in_text() -> None:
    """A variable says yes or no in the usual words; nothing else passes for either."""
    assert [read("access_log", text) for text in ("1", "true", "YES", "on")] == [True] * 4
    assert [read("access_log", text) for text in ("0", "false", "No", "off")] == [False] * 4
    with option_refused("expected true or false, got 'maybe'"):
        read("access_log", "maybe")


@pytest.mark.parametrize(("text", "mode"), [("666", "0666"), ("0660", "0660"), ("0o600", "0600")])
def test_permissions(text: str, mode: str) -> None:
    """Permissions are octal, with or without a prefix."""
    assert read("unix_mode", text) == mode


@pytest.mark.parametrize("text", ["", "8", "999", "1777", "-666", "rw-rw-rw-", "66"])
def test_what_are_no_permissions(text: str) -> None:
    """Bits beyond rwx, and modes so short that they are likely mistaken, are refused."""
    with option_refused("--unix-mode: expected octal permissions"):
        read("unix_mode", text)


@pytest.mark.parametrize(
    ("text", "umask"), [("27", "0027"), ("0o077", "0077"), ("0", "0000"), ("", "")]
)
def test_umask(text: str, umask: str) -> None:
    """One is octal, however short; none is none."""
    assert read("umask", text) == umask


@pytest.mark.parametrize("text", ["8", "1777", "-1", "u=rwx", "00000"])
def test_what_is_no_umask(text: str) -> None:
    with option_refused("--umask: expected"):
        read("umask", text)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"user": "no-such"}, "--user: there is no user 'no-such' on this system"),
        (
            {"user": "nobody", "group": "no-such"},
            "--group: there is no group 'no-such' on this system",
        ),
        (
            {"user": "61234"},
            "--user: no account of this system has the number 61234, and so no group is known",
        ),
        ({"user": "root"}, "--user: root is who gives up rights: name another user"),
        ({"user": "0"}, "--user: root is who gives up rights: name another user"),
    ],
)
def test_users_that_will_not_do(
    given: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the option, and what would do."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with option_refused() as caught:
        user_to_become(configured(target="a:b", **given))
    assert str(caught.value).startswith(line)


def test_who_is_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number without an account has its group alone; who one is already, one need not become."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert user_to_become(configured(target="a:b"))[0] == ""
    config = configured(target="a:b", user="61234", group="61235")
    assert user_to_become(config) == ("61234", 61234, 61235, (61235,))
    monkeypatch.setattr(os, "geteuid", lambda: 61234)
    monkeypatch.setattr(os, "getegid", lambda: 61235)
    assert user_to_become(config)[0] == ""
    monkeypatch.setattr(os, "getegid", lambda: 1)
    with option_refused("only root can become 61234, and this is uid 61234"):
        user_to_become(config)


@pytest.mark.parametrize("umask", ["0700", "777"])
def test_a_umask_that_shuts_the_server_out(umask: str) -> None:
    with option_refused("would keep the server from its own files"):
        option("umask").from_text(umask, "--umask")


def test_the_fields_and_the_options_are_the_same() -> None:
    """Every field of ServeConfig declares an option, in the same order, with a unique spelling."""
    assert [declared.key for declared in OPTIONS] == list(configured().__struct_fields__)
    flags = [flag for declared in OPTIONS for flag in declared.flags]
    assert len(flags) == len(set(flags))
    for declared in OPTIONS:
        assert declared.flags == () or declared.flags[-1] == f"--{declared.key}".replace("_", "-")


def test_the_kind_of_an_option_is_the_type_of_its_field() -> None:
    """What the parser of an option returns is what the field is annotated to hold."""
    hints = get_type_hints(type(configured()))
    for declared in OPTIONS:
        hint = hints[declared.key]
        held = str if declared.choices else getattr(hint, "__origin__", hint)
        assert held is declared.kind.python, declared.key


def test_defaults_are_valid() -> None:
    """Each default passes the option's own check, so that it can be written into a file."""
    for declared in OPTIONS[1:]:
        written = tomllib.loads(f"value = {declared.kind.write(declared.default)}")["value"]
        if declared.default != "":
            assert declared.from_toml(written, "test") == declared.default


def test_the_configuration_travels_as_msgpack() -> None:
    """The template gets the configuration that the keeper has."""
    config = configured(target="a:b", bind=["unix:/x", "[::1]:1"], graceful_timeout=0.5)
    sent = msgspec.msgpack.encode(config)
    assert configuration_in(sent) == config


@given(st.integers(min_value=0, max_value=2**53))
def test_any_size_is_read_back(count: int) -> None:
    """What is written for a size is read as the same size."""
    declared = option("worker_max_rss")
    assert declared.from_text(declared.kind.write(count), "test") == count


@given(st.floats(min_value=0, max_value=10**9, allow_nan=False))
def test_any_duration_is_read_back(seconds: float) -> None:
    """What --print-config writes for a duration is valid TOML for the same duration."""
    declared = option("idle_timeout")
    value = tomllib.loads(f"x = {declared.kind.write(seconds)}")["x"]
    assert declared.from_toml(value, "test") == seconds


def refusal_of(key: str, text: str) -> str | None:
    try:
        read(key, text)
    except ValueError as error:
        return str(error)
    return None


@given(st.text() | st.from_regex(r"-?[0-9]{1,400}[kmgtsdh]?", fullmatch=True))
def test_no_text_is_a_crash(text: str) -> None:
    """Whatever a user writes is either a value or one refusal, which names the option."""
    for declared in OPTIONS:
        if (refusal := refusal_of(declared.key, text)) is not None:
            assert refusal.startswith(declared.long_flag)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("workers", "two", "--workers: expected a whole number, got 'two'"),
        ("workers", "1_000", "--workers: expected a whole number, got '1_000'"),
        ("workers", "-1", "--workers: must be at least 0, got '-1'"),
        ("graceful_timeout", "-5", "--graceful-timeout: a duration cannot be negative, got -5"),
        ("replay_limit", "-5", "--replay-limit: a size cannot be negative, got -5"),
        (
            "model",
            "asinc",
            "--model: expected one of auto, fork, prefork, thread, async, got 'asinc' (did you",
        ),
        ("backlog", "0", "--backlog: must be at least 1, got '0'"),
        ("backlog", "9" * 10, "--backlog: must be at most 2147483647, got 9999999999"),
        ("idle_timeout", "9" * 400, "--idle-timeout: expected a duration"),
        ("worker_max_rss", "9" * 400, "--worker-max-rss: expected a size"),
        ("name", "a/b", "--name: expected at most 64 letters"),
        ("target", "module", "TARGET: expected package.module:attribute"),
        ("control", "/" + "x" * 107, "--control: the path of a Unix socket may have 107 bytes"),
        ("bind", "localhost", "--bind: address 'localhost'"),
        ("bind", "127.0.0.1:1,127.0.0.1:1", "--bind: 127.0.0.1:1 is given twice"),
        ("bind", ":1,127.0.0.1:1", "--bind: :1 (it serves IPv4 too) covers 127.0.0.1:1"),
        ("bind", "[::1]:1,[::]:1", "--bind: [::]:1 covers [::1]:1"),
        ("bind", "unix:a,unix:./a", "--bind: unix:./a is given twice, as unix:a"),
        ("bind", ",", "--bind: expected at least one address"),
    ],
)
def test_messages(key: str, text: str, message: str) -> None:
    """A refusal says which option, what was expected, and what was given."""
    with option_refused() as caught:
        read(key, text)
    assert str(caught.value).startswith(message)


def test_every_option_has_one_topic() -> None:
    """The help, the page and --print-config go by the topics, and have each option once."""
    assert list(topics()) == list(TOPICS)
    told = [key for keys in topics().values() for key in keys]
    assert sorted(told) == sorted(declared.key for declared in OPTIONS)


def test_an_option_without_a_topic_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forgets the topic of a new option finds it by a test, not its user."""
    monkeypatch.setitem(TOPICS, "Log", ())
    assert topics()["Others"][:2] == ["log_level", "log_format"]


def test_the_reference_page_has_every_option() -> None:
    """Each option has its section with flag, variable, key and default, under its topic."""
    page = PAGES["options"]()
    for declared in OPTIONS:
        assert f"(option-{declared.key.replace('_', '-')})=" in page
        assert f"`{declared.variable}`" in page
        for flag in declared.flags:
            assert f"`{flag}`" in page
        examples = [
            line for line in page.splitlines() if line.startswith(f"- TOML: `{declared.key} =")
        ]
        assert len(examples) == 1
        value = tomllib.loads(examples[0].removeprefix("- TOML: ").strip("`"))[declared.key]
        declared.from_toml(value, "the page's example")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("10", "10:10"),
        ("10/s:20", "10:20"),
        ("30/m", "0.5:1"),
        (" 600/M:5 ", "10:5"),
        ("0.2", "0.2:1"),
        ("OFF", "off"),
        ("10:10", "10:10"),
    ],
)
def test_rates(text: str, meaning: str) -> None:
    """A rate is so many a second, and how many may come at once."""
    assert read("accept_rate", text) == meaning
    assert read("accept_rate", meaning) == meaning


@pytest.mark.parametrize("text", ["", "0", "-1", "10/d", "10:0", "10:", ":5", "1e3", "2000000"])
def test_what_is_no_rate(text: str) -> None:
    """Each is refused."""
    with option_refused("--accept-rate: expected off, or RATE"):
        read("accept_rate", text)


def test_a_template_has_the_values() -> None:
    config = configured(threads=7, allow_file="friends")
    told = as_told(config)
    assert {key: getattr(told, key) for key in values_of(config)} == values_of(config)


def test_an_option_that_an_older_keeper_does_not_know_has_its_default() -> None:
    told = as_told(configured(spare=3), "spare")
    assert told.spare == option("spare").default
    with pytest.raises(AttributeError, match="there is no option spear"):
        told.spear  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("more", [(), ("of a later version",)])
def test_a_template_has_the_options_of_its_listeners(more: tuple[str, ...]) -> None:
    bind = [
        "127.0.0.1:1,tls=a.pem,tls=b.pem,alpn=x,allow=10.0.0.0/8",
        "127.0.0.1:2,proxy=on,accept-rate=5",
    ]
    config = configured(bind=bind)
    settings = listeners(config, 3)
    told = listeners_as_told(settings, config, *more)
    assert told == settings
    assert [(each.of_edges, each.proxy) for each in told] == [
        (False, "off"),
        (True, "off"),
        (False, "on"),
    ]
    assert told[1].tls.files == ("a.pem", "b.pem")


def test_an_older_keeper_tells_nothing_of_its_listeners() -> None:
    config = configured(bind=["127.0.0.1:2,proxy=on"])
    assert listeners_as_told([], config) == listeners(config, 1)


def values_of(config: object) -> dict[str, object]:
    values: dict[str, object] = msgspec.to_builtins(config)
    return values
