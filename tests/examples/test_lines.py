"""echo.py and counter.py, with nc and socat."""

from __future__ import annotations

import subprocess

from tests.examples.conftest import Serve, Talk


def test_echo_with_nc(serve: Serve) -> None:
    """What nc sends comes back, before and after a reload; it ends when nc says so."""
    example = serve("echo")
    with Talk("nc", "-N", "127.0.0.1", str(example.server.port)) as nc:
        assert nc.ask("hello") == "hello"
        example.edit("conn.send(data)", "conn.send(data.upper())")
        assert nc.ask("hello") == "HELLO"
        assert nc.finish() == ("", 0)


def test_echo_with_socat(serve: Serve) -> None:
    """A megabyte through socat is the same megabyte."""
    data = bytes(range(256)) * 4096
    example = serve("echo")
    done = subprocess.run(
        ["socat", "-t", "10", "-", f"TCP:{example.server.address}"],
        input=data,
        capture_output=True,
        check=True,
    )
    assert done.stdout == data


def test_counter_with_nc(serve: Serve) -> None:
    """The count goes on through a reload, in the words of the new code."""
    example = serve("counter")
    with Talk("nc", "-N", "127.0.0.1", str(example.server.port)) as nc:
        assert nc.ask("one") == "1 one"
        assert nc.ask("two") == "2 two"
        example.edit('b"%d %s\\n"', 'b"line %d is %s\\n"')
        assert nc.ask("three") == "line 3 is three"
        assert nc.finish() == ("", 0)
