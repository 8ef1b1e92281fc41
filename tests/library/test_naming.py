"""What a connection is called, without a server: noted, and refused where it cannot be."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from socketkeep import Connection, HandlerError, LimitExceeded, publish, push


@pytest.fixture
def conn() -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    with Connection(ours) as made, theirs:
        yield made


def test_it_is_noted(conn: Connection) -> None:
    assert (conn.name, conn.groups, dict(conn.labels)) == ("", frozenset(), {})
    conn.name = "device-17"
    conn.join("room:1")
    conn.join("room:2")
    conn.join("room:1")
    conn.leave("room:2")
    conn.leave("room:3")
    conn.labels = {"firmware": "2.1"}
    assert (conn.name, conn.groups) == ("device-17", frozenset({"room:1"}))
    assert conn.labels == {"firmware": "2.1"}
    conn.name = ""
    assert (conn.name, conn.groups) == ("", frozenset({"room:1"}))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 129, "at most 128 characters, and this has 129"),
        ("a\nb", "printable characters alone, and this is 'a\\nb'"),
        ("\x1b[2J", "printable"),
        ("a\u2028b", "printable"),
    ],
)
def test_a_name_that_cannot_be(conn: Connection, name: str, says: str) -> None:
    with pytest.raises(ValueError, match="a name") as raised:
        conn.name = name
    assert says in str(raised.value)
    with pytest.raises(ValueError, match="a group"):
        conn.join(name)
    with pytest.raises(ValueError, match="the label 'key'"):
        conn.labels = {"key": name}
    assert (conn.name, conn.groups, dict(conn.labels)) == ("", frozenset(), {})


def test_what_is_no_text(conn: Connection) -> None:
    with pytest.raises(TypeError, match="a name is text, not bytes"):
        conn.name = b"device"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="a group is text, not int"):
        conn.join(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one character"):
        conn.join("")


def test_there_are_bounds(conn: Connection) -> None:
    for number in range(64):
        conn.join(f"{number}")
    with pytest.raises(ValueError, match="at most 64 groups"):
        conn.join("one more")
    with pytest.raises(ValueError, match="at most 16 labels, not 17"):
        conn.labels = {f"{number}": "x" for number in range(17)}


def test_one_that_is_over_is_called_nothing(conn: Connection) -> None:
    conn.close(linger=0)
    with pytest.raises(OSError, match="name"):
        conn.name = "late"


def test_a_push_needs_a_server() -> None:
    with pytest.raises(HandlerError, match="this process is no worker"):
        push("device-17", b"on")
    with pytest.raises(HandlerError, match=r"socketkeep\.Client"):
        publish("room:1", b"on")


def test_a_message_too_large() -> None:
    with pytest.raises(LimitExceeded, match="at most 65536 bytes, not 65537"):
        push("device-17", bytes(65537))
    with pytest.raises(TypeError, match="a message is bytes, not str"):
        push("device-17", "on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a timeout"):
        push("device-17", b"on", timeout=-1)
