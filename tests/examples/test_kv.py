"""kv.py, with redis-cli and redis-benchmark."""

from __future__ import annotations

import re
import subprocess
import threading

import pytest

from tests.examples.conftest import Example, Serve
from tests.harness import connect, read_reply, read_to_end


@pytest.fixture
def kv(serve: Serve) -> Example:
    """The server."""
    return serve("kv", "--workers", "1")


def _redis_cli(example: Example, *words: str, text: str | None = None) -> str:
    done = subprocess.run(
        ["redis-cli", "-p", str(example.server.port), *words],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    return done.stdout.rstrip("\n")


def test_commands_with_redis_cli(kv: Example) -> None:
    """Each command replies as Redis does."""
    assert _redis_cli(kv, "ping") == "PONG"
    assert _redis_cli(kv, "ping", "hello there") == "hello there"
    assert _redis_cli(kv, "echo", "hello") == "hello"
    assert _redis_cli(kv, "get", "name") == ""
    assert _redis_cli(kv, "set", "name", "two words") == "OK"
    assert _redis_cli(kv, "get", "name") == "two words"
    assert _redis_cli(kv, "incr", "count") == "1"
    assert _redis_cli(kv, "incr", "count") == "2"
    assert _redis_cli(kv, "exists", "name", "count", "other") == "2"
    assert _redis_cli(kv, "del", "name", "other") == "1"
    assert _redis_cli(kv, "dbsize") == "1"
    assert _redis_cli(kv, "config", "get", "appendonly") == "appendonly\nno"
    assert "db0:keys=1" in _redis_cli(kv, "info")


def test_errors_with_redis_cli(kv: Example) -> None:
    """A wrong command is an error reply, and the connection goes on."""
    session = ["set name text", "incr name", "incr", "nonsense", "set a b c", "get name"]
    assert _redis_cli(kv, text="\n".join(session) + "\n").splitlines() == [
        "OK",
        *("ERR value is not an integer or out of range", ""),
        *("ERR wrong number of arguments for 'incr' command", ""),
        *("ERR unknown command 'nonsense'", ""),
        *("ERR syntax error", ""),
        "text",
    ]


def test_pipelines(kv: Example) -> None:
    """Commands that arrive together, or in pieces, are answered each in its turn."""
    with connect(kv.server.address) as peer:
        peer.sendall(b"SET a 1\r\n\r\nINCR a\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPI")
        assert [read_reply(peer) for _ in range(4)] == [b"+OK\r", b":2\r", b"$1\r", b"2\r"]
        peer.sendall(b"NG\r\nQUIT\r\nPING\r\n")
        assert read_to_end(peer) == b"+PONG\r\n+OK\r\n"


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"*1\r\n+PING\r\n", b"-ERR Protocol error: expected '$', got '+'\r\n"),
        (b"*x\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*9999999999999\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$-1\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$2000000\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"x" * 70000, b"-ERR line too long\r\n"),
    ],
)
def test_protocol_errors(kv: Example, sent: bytes, reply: bytes) -> None:
    """What is not the protocol gets one error, and then the end."""
    with connect(kv.server.address) as peer:
        peer.sendall(sent)
        assert read_to_end(peer) == reply


def _benchmark(example: Example, *options: str) -> str:
    done = subprocess.run(
        [
            *("redis-benchmark", "-p", str(example.server.port), "-t", "set,get,ping,incr", "-q"),
            *options,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert "Error" not in done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    results = re.findall(r"^(\w+): [\d.]+ requests per second", done.stdout, re.MULTILINE)
    wanted = ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"]
    assert [name for name in results if name in wanted] == wanted, done.stdout
    return done.stdout


@pytest.mark.parametrize("pipeline", ["1", "16"])
def test_redis_benchmark(kv: Example, pipeline: str) -> None:
    """redis-benchmark runs on it unchanged."""
    _benchmark(kv, "-n", "2000", "-c", "50", "-P", pipeline, "-r", "1000")


def test_redis_benchmark_through_reloads(kv: Example) -> None:
    """redis-benchmark, which stops at the first connection that ends, does not notice reloads."""
    ended = threading.Event()

    def run() -> None:
        try:
            _benchmark(kv, "-n", "6000", "-c", "50")
            finished.append(True)
        finally:
            ended.set()

    finished: list[bool] = []
    benchmark = threading.Thread(target=run)
    benchmark.start()
    reloads = 0
    while not ended.is_set():
        kv.server.reload()
        reloads += 1
    benchmark.join()
    assert finished
    assert reloads >= 2
