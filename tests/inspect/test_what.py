"""What inspection can be asked about."""

from __future__ import annotations

import pytest

from socketkeep import AddressError
from socketkeep._inspect._what import ProcessSockets, What, hosts_of, parse_what
from socketkeep.proxy import InetAddress, UnixAddress


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("127.0.0.1:7000", InetAddress("127.0.0.1", 7000)),
        (":7000", InetAddress("", 7000)),
        ("[::1]:7000", InetAddress("::1", 7000)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:@app", UnixAddress("@app")),
        ("4321", ProcessSockets(4321)),
        ("4321:7", ProcessSockets(4321, 7)),
    ],
)
def test_forms(text: str, what: What) -> None:
    assert parse_what(text) == what


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the port is missing"),
        ("app", "the port is missing, as in app:7000"),
        ("::1:7000", "in brackets"),
        ("fd://5", "write pid:5"),
        ("127.0.0.1:0", "no socket has port 0"),
        ("0", "a port is written :0"),
        ("99999999", "a port is written :99999999"),
        ("unix:", "the path is missing"),
        ("1:2:3", "in brackets"),
    ],
)
def test_what_is_none_of_them(text: str, reason: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_what(text)
    assert reason in str(caught.value)


def test_hosts() -> None:
    """No host is any; a name is what it resolves to, and one that does not is an error."""
    assert hosts_of(InetAddress("", 1)) is None
    assert hosts_of(InetAddress("127.0.0.1", 1)) == frozenset({"127.0.0.1"})
    assert "127.0.0.1" in (hosts_of(InetAddress("localhost", 1)) or ())
    with pytest.raises(AddressError, match="does not resolve"):
        hosts_of(InetAddress("no-such-host.invalid", 1))


def test_they_read_well() -> None:
    assert str(ProcessSockets(4321, 7)) == "descriptor 7 of process 4321"
    assert str(ProcessSockets(4321)) == "process 4321"
