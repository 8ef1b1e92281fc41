"""A key-value server that speaks the Redis protocol (RESP 2).

Start it with one worker, because the data are in the memory of the worker::

    socketkeep serve examples/kv.py:handle -b 127.0.0.1:7000 --workers 1
    redis-cli -p 7000 set greeting hello
    redis-benchmark -p 7000 -t set,get,ping,incr -n 100000 -q

The connections outlive a reload; the data do not, they begin anew with each generation.

Commands: PING ECHO SET GET DEL EXISTS INCR DBSIZE FLUSHALL COMMAND CONFIG INFO SELECT QUIT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from socketkeep import AsyncConnection, LimitExceeded, PeerClosed, resumable

MAX_LINE: Final = 64 * 1024
MAX_ARGUMENTS: Final = 1024
MAX_COMMAND: Final = 1024 * 1024  # all the values of one command together
MAX_INTEGER: Final = 2**63 - 1
CONFIG: Final = {b"save": b"", b"appendonly": b"no"}

Arguments: TypeAlias = list[bytes]
data: dict[bytes, bytes] = {}


class ProtocolError(Exception):
    """The peer does not speak the protocol: it is told so, and the connection ends."""


class CommandError(Exception):
    """The command cannot be carried out: the peer is told so, and may go on."""


OK: Final = b"+OK\r\n"
NIL: Final = b"$-1\r\n"


def bulk(value: bytes) -> bytes:
    """Encode a value."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


def integer(value: int) -> bytes:
    """Encode a number."""
    return b":%d\r\n" % value


def array(values: Arguments) -> bytes:
    """Encode a list of values."""
    return b"*%d\r\n" % len(values) + b"".join(map(bulk, values))


def error(text: str) -> bytes:
    """Encode an error."""
    return f"-ERR {text}\r\n".encode()


def parse_length(field: bytes, limit: int, what: str) -> int:
    """Return the length that `field` says; raises ProtocolError beyond `limit`."""
    # isdigit() refuses what int() would take: signs, blanks and underscores.
    if not field.isdigit() or int(field[:12]) > limit:
        raise ProtocolError(f"Protocol error: invalid {what} length")
    return int(field)


async def receive_command(conn: AsyncConnection) -> Arguments:
    """Return the words of the next command, none for an empty line.

    Raises ProtocolError, LimitExceeded when a line has no end, and PeerClosed at the end.
    """
    line = (await conn.recv_until(b"\n", MAX_LINE)).rstrip(b"\r")
    if not line.startswith(b"*"):
        return line.split()  # an inline command, as a person types it
    words: Arguments = []
    room = MAX_COMMAND
    for _ in range(parse_length(line[1:], MAX_ARGUMENTS, "multibulk")):
        head = await conn.recv_until(b"\r\n", MAX_LINE)
        if not head.startswith(b"$"):
            raise ProtocolError(f"Protocol error: expected '$', got {head[:1].decode('latin1')!r}")
        length = parse_length(head[1:], room, "bulk")
        room -= length
        word: bytes = await conn.recv_exactly(length + 2)
        words.append(word[:-2])
    return words


def ping(arguments: Arguments) -> bytes:
    """PING [message]."""
    return bulk(arguments[0]) if arguments else b"+PONG\r\n"


def get(arguments: Arguments) -> bytes:
    """GET key."""
    value = data.get(arguments[0])
    return NIL if value is None else bulk(value)


def set_(arguments: Arguments) -> bytes:
    """SET key value, without options."""
    if len(arguments) > 2:
        raise CommandError("syntax error")
    data[arguments[0]] = arguments[1]
    return OK


def delete(arguments: Arguments) -> bytes:
    """DEL key ..."""
    return integer(sum(data.pop(key, None) is not None for key in arguments))


def exists(arguments: Arguments) -> bytes:
    """EXISTS key ..."""
    return integer(sum(key in data for key in arguments))


def increment(arguments: Arguments) -> bytes:
    """INCR key."""
    text = data.get(arguments[0], b"0")
    if not text.removeprefix(b"-").isdigit() or abs(int(text[:20])) > MAX_INTEGER:
        raise CommandError("value is not an integer or out of range")
    value = int(text) + 1
    if value > MAX_INTEGER:
        raise CommandError("increment or decrement would overflow")
    data[arguments[0]] = b"%d" % value
    return integer(value)


def flush(_: Arguments) -> bytes:
    """FLUSHALL."""
    data.clear()
    return OK


def config(arguments: Arguments) -> bytes:
    """CONFIG GET name: what redis-benchmark asks for."""
    if arguments[0].upper() != b"GET" or len(arguments) != 2:
        raise CommandError("only CONFIG GET name is supported")
    name = arguments[1].lower()
    return array([name, CONFIG[name]] if name in CONFIG else [])


def info(_: Arguments) -> bytes:
    """INFO."""
    return bulk(b"# Server\r\nredis_mode:standalone\r\n# Keyspace\r\ndb0:keys=%d\r\n" % len(data))


#: Each command's function, and its least and greatest number of arguments.
COMMANDS: Final[dict[bytes, tuple[Callable[[Arguments], bytes], int, int]]] = {
    b"PING": (ping, 0, 1),
    b"ECHO": (lambda arguments: bulk(arguments[0]), 1, 1),
    b"SET": (set_, 2, MAX_ARGUMENTS),
    b"GET": (get, 1, 1),
    b"DEL": (delete, 1, MAX_ARGUMENTS),
    b"EXISTS": (exists, 1, MAX_ARGUMENTS),
    b"INCR": (increment, 1, 1),
    b"DBSIZE": (lambda _: integer(len(data)), 0, 0),
    b"FLUSHALL": (flush, 0, 1),
    b"COMMAND": (lambda _: array([]), 0, MAX_ARGUMENTS),  # redis-cli asks for its hints
    b"CONFIG": (config, 1, MAX_ARGUMENTS),
    b"INFO": (info, 0, MAX_ARGUMENTS),
    b"SELECT": (lambda _: OK, 1, 1),
    b"QUIT": (lambda _: OK, 0, 0),
}


def execute(words: Arguments) -> bytes:
    """Return the reply to a command."""
    name, arguments = words[0].upper(), words[1:]
    if name not in COMMANDS:
        return error(f"unknown command '{words[0][:64].decode(errors='replace')}'")
    function, least, most = COMMANDS[name]
    if not least <= len(arguments) <= most:
        return error(f"wrong number of arguments for '{name.decode().lower()}' command")
    try:
        return function(arguments)
    except CommandError as failure:
        return error(str(failure))


@resumable
async def handle(conn: AsyncConnection) -> None:
    """Carry out one command after another until QUIT or the end."""
    while True:
        try:
            words = await receive_command(conn)
        except PeerClosed:
            return
        except (ProtocolError, LimitExceeded) as failure:
            reason = str(failure) if isinstance(failure, ProtocolError) else "line too long"
            await conn.send(error(reason))
            return
        if words:
            await conn.send(execute(words))
        conn.commit()
        if words and words[0].upper() == b"QUIT":
            return
