"""An option that does nothing without another one is refused; --threads has threads serve."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
from docs._ext.declared import PAGES

from tests.harness.configuration import (
    gathered,
    option,
    option_refused,
)

Flags = dict[str, Any]

TOKEN: Final = "a" * 16
ADMIN: Final = {"admin": "127.0.0.1:9000"}
ASGI: Final = {"asgi": True}
CLUSTER: Final = {"cluster": "nats://127.0.0.1:4222"}
CRASH: Final = {"keep": "crash"}
#: What each does nothing by itself, and beside what it does something.
BESIDE: Final[dict[str, tuple[Any, Flags, Flags]]] = {
    # value, what there is when it is refused, what is there in place of that when it is not
    "threads": ("4", {"model": "fork"}, {"model": "thread"}),
    "child_requests": ("4", {"model": "thread"}, {"model": "fork"}),
    "spare": ("2", ASGI, {}),
    "fork_snapshot": (True, {"model": "prefork"}, {"model": "fork"}),
    "loop": ("asyncio", {"model": "prefork"}, {"model": "async"}),
    "lifespan": ("on", {"asyncio": True}, ASGI),
    "root_path": ("/api", {"protocol": True}, ASGI),
    "forwarded_allow_ips": (("10.0.0.0/8",), {"socketserver": True}, ASGI),
    "date_header": (False, {"model": "fork"}, ASGI),
    "server_header": (False, {"model": "thread"}, {}),
    "request_log": ("common", {"model": "fork"}, {"model": "async"}),
    "request_log_file": ("requests.log", {}, {"request_log": "common"}),
    "limit_request_head": ("4K", {"model": "fork"}, ASGI),
    "limit_request_fields": ("50", {"model": "fork"}, ASGI),
    "request_head_timeout": ("5", {"model": "fork"}, ASGI),
    "request_timeout": ("5", {"model": "fork"}, ASGI),
    "ws_resume": ("on", {"keep": "none"}, {}),
    "ws_redeliver": (True, {}, CRASH),
    "ws_max_size": ("1M", {"model": "fork"}, ASGI),
    "ws_ping_interval": ("5", {"model": "fork"}, ASGI),
    "ws_ping_timeout": ("5", {"ws_ping_interval": "0"}, {}),
    "ws_per_message_deflate": (False, {"model": "fork"}, ASGI),
    "ws_window_bits": ("10", {"ws_per_message_deflate": False}, {}),
    "ws_auto_response": ("ping=pong", {"model": "fork"}, ASGI),
    "keep_after": ("1", {}, CRASH),
    "poison_limit": ("5", {"keep": "none"}, CRASH),
    "park_after": ("1", {"keep": "none"}, {}),
    "replay_limit": ("1K", {"keep": "none"}, CRASH),
    "rebalance": ("10", {"keep": "none"}, {}),
    "edges": ("2", {}, {"bind": (":7000,tls=a.pem",)}),
    "edge_drain": ("1h", {"bind": (":7000",)}, {"bind": (":7000", ":7001,tls=a.pem")}),
    "proxy_from": (("10.0.0.0/8",), {}, {"proxy_protocol": "on"}),
    "over_limit": ("close", {}, {"bind": (":7000,max-per-address=9",)}),
    "worker_lifetime_jitter": ("1h", {}, {"worker_lifetime": "1d"}),
    "guard_store": ("9", {"guard": "off"}, {}),
    "group": ("staff", {}, {"user": "nobody"}),
    "rebind": (False, {}, {"user": "nobody"}),
    "admin_token": (TOKEN, {}, ADMIN),
    "admin_token_file": ("token", {}, ADMIN),
    "metrics_label": ("firmware", {}, ADMIN),
    "push_token": (TOKEN, {}, ADMIN),
    "push_token_file": ("token", {}, ADMIN),
    "cluster_name": ("chat", {}, CLUSTER),
    "cluster_lease": ("5", {}, CLUSTER),
    "cluster_credentials": ("a.creds", {}, CLUSTER),
    "cluster_ca": ("a.pem", {}, CLUSTER),
    "cluster_certificate": ("a.pem", {}, CLUSTER),
    "cluster_key": ("a.pem", CLUSTER, {**CLUSTER, "cluster_certificate": "a.pem"}),
    "tcp_keepalive": ("30:10:3", {"bind": ("unix:/s",)}, {}),
    "tcp_user_timeout": ("5", {"bind": ("unix:/s",)}, {"bind": ("unix:/s", ":7000")}),
    "tcp_nodelay": (False, {"bind": ("unix:/s",)}, {"bind": ("fd://3",)}),
    "tcp_fastopen": ("5", {"bind": ("unix:/s",)}, {}),
    "rcvbuf": ("64K", {"bind": ("unix:/s",)}, {}),
    "sndbuf": ("64K", {"bind": ("unix:/s",)}, {}),
    "unix_mode": ("0600", {}, {"bind": ("unix:/s",)}),
}


def test_each_need_is_tried_and_told() -> None:
    """The reference says of each option what it does nothing without, and of no other."""
    _, *sections = re.split(r"^\(option-([a-z-]+)\)=$", PAGES["options"](), flags=re.MULTILINE)
    texts = dict(zip(sections[::2], sections[1::2], strict=True))
    told = {name for name, text in texts.items() if "\n- Does nothing without: " in text}
    assert {name.replace("-", "_") for name in told} == BESIDE.keys()


@pytest.mark.parametrize("key", BESIDE)
def test_an_option_that_does_nothing_is_refused(key: str) -> None:
    value, without, beside = BESIDE[key]
    declared = option(key)
    with option_refused() as caught:
        gathered({"target": "a:b", key: value, **without}, {}).config()
    named = declared.no_flag if value is False else declared.long_flag
    assert str(caught.value).startswith(f"{named} does nothing without ")
    assert str(caught.value).endswith(": add that, or leave it out")
    gathered({"target": "a:b", key: value, **beside}, {}).config()


def test_what_is_off_asks_for_nothing() -> None:
    """Not even where it is given; nor does a default that a file repeats, as --print-config has."""
    there: Flags = {"target": "a:b", "bind": ("unix:/s",)}
    gathered({**there, "tcp_keepalive": "off", "tcp_fastopen": "0"}, {}).config()
    gathered(
        {**there, "keep": "none", "rebalance": "off"}, {"SOCKETKEEP_KEEP_AFTER": "0.05"}
    ).config()


def test_where_it_was_given_is_named(tmp_path: Path) -> None:
    with option_refused("^SOCKETKEEP_ADMIN_TOKEN does nothing without --admin ADDRESS: add that"):
        gathered({"target": "a:b"}, {"SOCKETKEEP_ADMIN_TOKEN": TOKEN}).config()
    file = tmp_path / "a.toml"
    file.write_text("edges = 2")
    with option_refused(f"^{file}: edges does nothing without a listener with TLS"):
        gathered({"target": "a:b"}, {}, str(file)).config()


def test_listeners_that_are_inherited_may_be_of_any_sort() -> None:
    settings = gathered({"target": "a:b", "unix_mode": "0600", "tcp_fastopen": "5"}, {})
    with option_refused("--unix-mode does nothing without a Unix socket to listen on"):
        settings.config()
    assert settings.config(inherits_listeners=True).bind == []
    assert settings.config(inherits_listeners=None).bind == ["127.0.0.1:7000"]


@pytest.mark.parametrize(
    ("flags", "model"),
    [
        ({}, "auto"),
        ({"threads": "4"}, "thread"),
        ({"threads": "64"}, "thread"),
        ({"threads": "4", "socketserver": True}, "thread"),
        ({"threads": "4", "model": "thread"}, "thread"),
    ],
)
def test_a_number_of_threads_has_threads_serve(flags: Flags, model: str) -> None:
    """As gunicorn has it; not the default, which --print-config writes into a file."""
    assert gathered({"target": "a:b", **flags}, {}).config().model == model


def test_a_printed_configuration_has_the_same_model(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(gathered({"target": "a:b"}, {}).as_toml())
    assert gathered({}, {}, str(file)).config().model == "auto"
    file.write_text('target = "a:b"\nthreads = 4')
    assert gathered({}, {}, str(file)).config().model == "thread"
