"""Options of a listener: what is an option, what is the address's own, and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from docs._ext.declared import PAGES

from socketkeep._cli._adopted import Adopted
from socketkeep.inspect import BorrowedListener
from tests.harness.configuration import (
    LISTENER_OPTIONS,
    OPTIONS,
    configured,
    gathered,
    listener,
    listener_in,
    listener_options,
    listeners,
    option_refused,
    tls_settings,
)


@pytest.mark.parametrize(
    ("text", "address", "given"),
    [
        ("127.0.0.1:7000", "127.0.0.1:7000", {}),
        (":7000", ":7000", {}),
        ("[::1]:7000", "[::1]:7000", {}),
        ("fd://3", "fd://3", {}),
        ("unix:/run/app.sock", "unix:/run/app.sock", {}),
        ("unix:@name", "unix:@name", {}),
        # A path may have commas, and what looks like no option that there is.
        ("unix:/run/a,b.sock", "unix:/run/a,b.sock", {}),
        ("unix:/run/a,b=c.sock", "unix:/run/a,b=c.sock", {}),
        ("unix:/run/a,", "unix:/run/a,", {}),
        ("unix:/run/a=b.sock", "unix:/run/a=b.sock", {}),
        ("0.0.0.0:7000,proxy=on", "0.0.0.0:7000", {"proxy": "on"}),
        ("[::1]:7000,proxy=optional", "[::1]:7000", {"proxy": "optional"}),
        ("fd://3,proxy=off", "fd://3", {"proxy": "off"}),
        ("unix:@name,proxy=on", "unix:@name", {"proxy": "on"}),
        (
            "unix:/run/a,mode=660,user=www-data,group=33",
            "unix:/run/a",
            {"mode": "0660", "user": "www-data", "group": "33"},
        ),
        ("unix:/run/a,b.sock,proxy=on", "unix:/run/a,b.sock", {"proxy": "on"}),
        ("unix:/run/a,b=c,proxy=on", "unix:/run/a,b=c", {"proxy": "on"}),
        (
            ":7000,proxy=on,proxy-from=10.0.0.0/8,proxy-from=2001:db8::/32",
            ":7000",
            {"proxy": "on", "proxy-from": ["10.0.0.0/8", "2001:db8::/32"]},
        ),
        (
            ":7000,proxy-from=10.0.0.1,proxy=on",
            ":7000",
            {"proxy-from": ["10.0.0.1"], "proxy": "on"},
        ),
        (
            ":1,tcp-keepalive=1m:10:4,tcp-user-timeout=90s,tcp-nodelay=no,rcvbuf=64K,sndbuf=1M",
            ":1",
            {
                "tcp-keepalive": "60:10:4",
                "tcp-user-timeout": 90.0,
                "tcp-nodelay": False,
                "rcvbuf": 65536,
                "sndbuf": 1 << 20,
            },
        ),
        (
            ":1,tls=a.pem,key=a.key,tls=b.pem,key=b.key,alpn=h2,alpn=http/1.1,min-version=1.3",
            ":1",
            {
                "tls": ["a.pem", "b.pem"],
                "key": ["a.key", "b.key"],
                "alpn": ["h2", "http/1.1"],
                "min-version": "1.3",
            },
        ),
    ],
)
def test_listeners(text: str, address: str, given: dict[str, Any]) -> None:
    """Options stand behind the address, in any order; a list is the option given again."""
    bound = listener(text)
    assert (bound.address, bound.given) == (address, given)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (":1,proxi=on", ":1,proxi=on: a listener has no option proxi (did you mean proxy?)"),
        (":1,x=on", ":1,x=on: a listener has no option x (proxy, proxy-from, "),
        ("unix:/a,proxi=on", "unix:/a,proxi=on: a listener has no option proxi (did you mean"),
        (":1,proxy", ":1,proxy: expected an option, name=value, got 'proxy'"),
        (":1,", ":1,: expected an option, name=value, got ''"),
        (":1,:2", ":1,:2: expected an option, name=value, got ':2'"),
        (":1,Proxy=on", ":1,Proxy=on: expected an option, name=value, got 'Proxy=on'"),
        (":1,proxy=yes", ":1,proxy=yes: proxy: expected one of off, on, optional, got 'yes'"),
        (":1,proxy=", ":1,proxy=: proxy: expected one of off, on, optional, got ''"),
        (":1,tcp-nodelay=maybe", "tcp-nodelay: expected true or false, got 'maybe'"),
        (":1,rcvbuf=big", ":1,rcvbuf=big: rcvbuf: expected a size such as 65536"),
        (":1,rcvbuf=-1", ":1,rcvbuf=-1: rcvbuf: a size cannot be negative, got -1"),
        (":1,tcp-user-timeout=x", "tcp-user-timeout: expected a duration such as 30"),
        (":1,tcp-keepalive=on", "tcp-keepalive: expected off, or IDLE:INTERVAL:COUNT such as"),
        ("unix:/a,sndbuf=64K", "unix:/a,sndbuf=64K: sndbuf is not for unix:/a: each end"),
        (":1,mode=660", ":1,mode=660: mode is not for :1: only a Unix socket has a file"),
        ("unix:@a,mode=660", "unix:@a,mode=660: mode is not for unix:@a: it has no file"),
        ("unix:/a,mode=999", "unix:/a,mode=999: mode: expected octal permissions"),
        ("unix:/a,user=", "unix:/a,user=: user: expected a name or a number, got ''"),
        (":1,proxy=on,proxy=on", ":1,proxy=on,proxy=on: proxy is given twice"),
        (
            ":1,proxy-from=10.1.2.3/8",
            ":1,proxy-from=10.1.2.3/8: proxy-from: expected a network such as 10.0.0.0/8",
        ),
        (":1,proxy-from=10.1.2.3/8", "or an address, got '10.1.2.3/8' (did you mean 10.0.0.0/8?)"),
        (":1,proxy-from=lan", ":1,proxy-from=lan: proxy-from: expected a network such as"),
        (
            "unix:/a,proxy=on,proxy-from=10.0.0.0/8",
            "unix:/a,proxy=on,proxy-from=10.0.0.0/8: proxy-from is not for unix:/a: whoever may",
        ),
        (":1,tls=", ":1,tls=: tls: expected the path of a PEM file, got ''"),
        (":1,key=a", ":1,key=a: key means nothing without tls=CERTIFICATE"),
        (":1,alpn=h2", ":1,alpn=h2: alpn means nothing without tls=CERTIFICATE"),
        (":1,tls=a,tls=b,key=c", "each tls needs its key, in the same order, and there are 2 of"),
        (":1,tls=a,min-version=1.1", "min-version: expected one of 1.2, 1.3, got '1.1'"),
        (":1,tls=a,alpn=", ":1,tls=a,alpn=: alpn: expected the name of a protocol such as h2"),
        (":1,tls=a,ciphers=a,ciphers=b", "ciphers is given twice"),
        ("unix:/a,tls=b", "unix:/a,tls=b: tls is not for unix:/a: what stays on this machine"),
    ],
)
def test_mistakes(text: str, line: str) -> None:
    """One line names the listener, the option, and what would do."""
    with option_refused() as caught:
        listener(text)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "listeners"),
    [
        (":1,:2", [":1", ":2"]),
        (":1,proxy=on,:2", [":1,proxy=on", ":2"]),
        (
            "unix:/a,proxy=on,:2,proxy=on,proxy-from=::1",
            ["unix:/a,proxy=on", ":2,proxy=on,proxy-from=::1"],
        ),
    ],
)
def test_in_the_variable(text: str, listeners: list[str]) -> None:
    """In the environment a comma begins another listener, or an option of the one before it."""
    settings = gathered({"target": "a:b"}, {"SOCKETKEEP_BIND": text})
    assert settings.config().bind == listeners


def test_in_a_file(tmp_path: Path) -> None:
    """A file has the same texts, and a mistake in one is told with its line."""
    path = tmp_path / "server.toml"
    path.write_text(
        'target = "a:b"\nbind = [":7000,proxy=on", "unix:/run/a"]\nproxy_from = ["10.0.0.0/8"]\n'
    )
    config = gathered({}, {}, str(path)).config()
    assert config.bind == [":7000,proxy=on", "unix:/run/a"]
    assert config.proxy_from == ["10.0.0.0/8"]
    path.write_text('target = "a:b"\nbind = ":7000,proxy=maybe"\n')
    with option_refused(r"line 2: bind: :7000,proxy=maybe: proxy: expected one"):
        gathered({}, {}, str(path))


def test_a_mistake_at_the_flag() -> None:
    """The line begins with the option of the command line."""
    with option_refused(r"^--bind: :1,proxi=on: a listener has no option proxi"):
        gathered({"target": "a:b", "bind": (":1,proxi=on",)}, {})
    with option_refused(r"^--proxy-from: expected a network .* got 'lan'$"):
        gathered({"target": "a:b", "proxy_from": ("10.0.0.0/8,lan",)}, {})
    with option_refused(r"^--bind: :1 is given twice$"):
        gathered({"target": "a:b", "bind": (":1", ":1,proxy=on")}, {})


def test_what_is_printed_can_be_read(tmp_path: Path) -> None:
    """--print-config writes the options of listeners so that they are read back."""
    flags: dict[str, str | bool | tuple[str, ...]] = {
        "target": "a:b",
        "bind": (":1,proxy=on,proxy-from=10.0.0.0/8", "unix:/a,b"),
        "proxy_from": ("10.0.0.0/8,192.0.2.0/24", "::1"),
    }
    settings = gathered(flags, {})
    path = tmp_path / "printed.toml"
    path.write_text(settings.as_toml())
    assert gathered({}, {}, str(path)).config() == settings.config()
    assert settings.config().proxy_from == ["10.0.0.0/8", "192.0.2.0/24", "::1"]


def test_settings_of_each_listener() -> None:
    """A listener has what is said of it, else the server's options; so has one that was passed."""
    config = configured(
        target="a:b",
        bind=[":1", ":2,proxy=off", ":3,proxy-from=::1,proxy-from=10.0.0.0/8", "unix:/a"],
        proxy_protocol="optional",
        proxy_from=["192.0.2.1"],
    )
    of_all = listener_options(proxy="optional", proxy_from=("192.0.2.1",))
    assert listeners(config, 5) == [
        of_all,  # that was passed
        of_all,
        listener_options(proxy="off", proxy_from=("192.0.2.1",)),
        listener_options(proxy="optional", proxy_from=("::1", "10.0.0.0/8")),
        of_all,
    ]


def test_tls_of_each_listener() -> None:
    """Keys belong to certificates by their order; without any they are in the same files."""
    pairs, alone, plain = listeners(
        configured(target="a:b", bind=[":1,tls=a,key=b,tls=c,key=d", ":2,tls=e,alpn=h2", ":3"]), 3
    )
    assert pairs.tls == tls_settings(("a", "b"), ("c", "d"))
    assert pairs.tls.files == ("a", "b", "c", "d")
    assert alone.tls == tls_settings(("e", "e"), alpn=("h2",))
    assert plain.tls is None


def test_paths_of_a_listener_are_taken_from_a_directory() -> None:
    """What is no path stays as it is; a path that would end at a comma is refused."""
    text = ":1,tls=a.pem,key=/k/a.key,alpn=h2"
    assert listener_in("/srv", text) == ":1,tls=/srv/a.pem,key=/k/a.key,alpn=h2"
    assert listener_in("/srv", "unix:/a,b") == "unix:/a,b"
    with option_refused(r"tls: a path with a comma cannot be said: /a,b/a\.pem"):
        listener_in("/a,b", text)


def test_a_borrowed_listener_keeps_what_is_said_of_it() -> None:
    """What `adopt` borrows takes the place of its address in --bind, with the options there."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = BorrowedListener(1, 3, "[::]:7000", False, (), sock)
        adopted = Adopted(":7000", (listener,))
        config = configured(target="a:b", bind=[":7000,proxy=on", ":7001"])
        assert adopted.bound(config).bind == ["[::]:7000,proxy=on", ":7001"]
        assert adopted.bound(configured(target="a:b", bind=[])).bind == ["[::]:7000"]


def test_each_option_has_its_default_and_its_place() -> None:
    """Every option's default is an option of the server, and the reference page has it."""
    keys = {declared.key for declared in OPTIONS}
    page = PAGES["options"]()
    plain = listener_options()
    for declared in LISTENER_OPTIONS:
        assert f"| `{declared.name}` |" in page
        if not declared.default:
            continue  # of one listener alone
        assert declared.default in keys
        of_server = next(one.default for one in OPTIONS if one.key == declared.default)
        of_listener = getattr(plain, declared.name.replace("-", "_"))
        assert of_listener == (tuple(of_server) if isinstance(of_server, list) else of_server)
    assert plain.proxy_from == ("127.0.0.0/8", "::1/128"), "whoever is on this machine"
