"""A key-value server that speaks the Redis protocol (RESP 2).

Start it with one worker, because the data are in the memory of the worker::

    socketkeep serve examples/kv.py:handle -b 127.0.0.1:7000 --workers 1
    redis-cli -p 7000 set greeting hello
    redis-benchmark -p 7000 -t set,get,ping,incr -n 100000 -q

The connections outlive a reload; the data do not, they begin anew with each generation.

`session`, and `blocking_session` for the sync models, give each connection data of its own, at most
64 KiB, which are its state: they outlive workers, and each command has its effect and its reply
exactly once, whenever a worker is killed::

    socketkeep serve examples/kv.py:session -b 127.0.0.1:7000 --keep crash

Commands: PING ECHO SET GET DEL EXISTS INCR INCRBY DBSIZE FLUSHALL COMMAND CONFIG INFO SELECT QUIT.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, TypeAlias

from socketkeep import AsyncConnection, Connection, LimitExceeded, PeerClosed, resumable

MAX_LINE: Final = 64 * 1024
MAX_ARGUMENTS: Final = 1024
MAX_COMMAND: Final = 1024 * 1024  # all the values of one command together
MAX_INTEGER: Final = 2**63 - 1
CONFIG: Final = {b"save": b"", b"appendonly": b"no"}

Arguments: TypeAlias = list[bytes]
Data: TypeAlias = dict[bytes, bytes]
data: Data = {}


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


def command() -> Generator[tuple[bytes, int], bytes, Arguments]:
    """Ask for the parts of the next command; return its words, none for an empty line.

    A part is what comes before a separator, within a limit, or, without one, so many bytes.  Raises
    ProtocolError.
    """
    line = (yield b"\n", MAX_LINE).rstrip(b"\r")
    if not line.startswith(b"*"):
        return line.split()  # an inline command, as a person types it
    words: Arguments = []
    room = MAX_COMMAND
    for _ in range(parse_length(line[1:], MAX_ARGUMENTS, "multibulk")):
        head = yield b"\r\n", MAX_LINE
        if not head.startswith(b"$"):
            raise ProtocolError(f"Protocol error: expected '$', got {head[:1].decode('latin1')!r}")
        length = parse_length(head[1:], room, "bulk")
        room -= length
        word = yield b"", length + 2
        words.append(word[:-2])
    return words


async def receive_command(conn: AsyncConnection) -> Arguments:
    """Return the words of the next command.

    Raises ProtocolError, LimitExceeded when a line has no end, and PeerClosed at the end.
    """
    parts = command()
    try:
        separator, size = next(parts)
        while True:
            if separator:
                part = await conn.recv_until(separator, size)
            else:
                part = await conn.recv_exactly(size)
            separator, size = parts.send(part)
    except StopIteration as done:
        words: Arguments = done.value
        return words


def receive_command_blocking(conn: Connection) -> Arguments:
    """As `receive_command`."""
    parts = command()
    try:
        separator, size = next(parts)
        while True:
            part = conn.recv_until(separator, size) if separator else conn.recv_exactly(size)
            separator, size = parts.send(part)
    except StopIteration as done:
        words: Arguments = done.value
        return words


def ping(_: Data, arguments: Arguments) -> bytes:
    """PING [message]."""
    return bulk(arguments[0]) if arguments else b"+PONG\r\n"


def get(data: Data, arguments: Arguments) -> bytes:
    """GET key."""
    value = data.get(arguments[0])
    return NIL if value is None else bulk(value)


def set_(data: Data, arguments: Arguments) -> bytes:
    """SET key value, without options."""
    if len(arguments) > 2:
        raise CommandError("syntax error")
    data[arguments[0]] = arguments[1]
    return OK


def delete(data: Data, arguments: Arguments) -> bytes:
    """DEL key ..."""
    return integer(sum(data.pop(key, None) is not None for key in arguments))


def exists(data: Data, arguments: Arguments) -> bytes:
    """EXISTS key ..."""
    return integer(sum(key in data for key in arguments))


def increment(data: Data, arguments: Arguments) -> bytes:
    """INCR key, INCRBY key number."""
    key, by = arguments[0], arguments[1] if len(arguments) > 1 else b"1"
    value = parse_integer(data.get(key, b"0")) + parse_integer(by)
    if abs(value) > MAX_INTEGER:
        raise CommandError("increment or decrement would overflow")
    data[key] = b"%d" % value
    return integer(value)


def parse_integer(text: bytes) -> int:
    """Return the number that a value is; raises CommandError if it is none."""
    if not text.removeprefix(b"-").isdigit() or abs(int(text[:20])) > MAX_INTEGER:
        raise CommandError("value is not an integer or out of range")
    return int(text)


def flush(data: Data, _: Arguments) -> bytes:
    """FLUSHALL."""
    data.clear()
    return OK


def config(_: Data, arguments: Arguments) -> bytes:
    """CONFIG GET name: what redis-benchmark asks for."""
    if arguments[0].upper() != b"GET" or len(arguments) != 2:
        raise CommandError("only CONFIG GET name is supported")
    name = arguments[1].lower()
    return array([name, CONFIG[name]] if name in CONFIG else [])


def info(data: Data, _: Arguments) -> bytes:
    """INFO."""
    return bulk(b"# Server\r\nredis_mode:standalone\r\n# Keyspace\r\ndb0:keys=%d\r\n" % len(data))


#: Each command's function, and its least and greatest number of arguments.
COMMANDS: Final[dict[bytes, tuple[Callable[[Data, Arguments], bytes], int, int]]] = {
    b"PING": (ping, 0, 1),
    b"ECHO": (lambda _, arguments: bulk(arguments[0]), 1, 1),
    b"SET": (set_, 2, MAX_ARGUMENTS),
    b"GET": (get, 1, 1),
    b"DEL": (delete, 1, MAX_ARGUMENTS),
    b"EXISTS": (exists, 1, MAX_ARGUMENTS),
    b"INCR": (increment, 1, 1),
    b"INCRBY": (increment, 2, 2),
    b"DBSIZE": (lambda data, _: integer(len(data)), 0, 0),
    b"FLUSHALL": (flush, 0, 1),
    b"COMMAND": (lambda _, __: array([]), 0, MAX_ARGUMENTS),  # redis-cli asks for its hints
    b"CONFIG": (config, 1, MAX_ARGUMENTS),
    b"INFO": (info, 0, MAX_ARGUMENTS),
    b"SELECT": (lambda _, __: OK, 1, 1),
    b"QUIT": (lambda _, __: OK, 0, 0),
}


def execute(data: Data, words: Arguments) -> bytes:
    """Return the reply to a command."""
    name, arguments = words[0].upper(), words[1:]
    if name not in COMMANDS:
        return error(f"unknown command '{words[0][:64].decode(errors='replace')}'")
    function, least, most = COMMANDS[name]
    if not least <= len(arguments) <= most:
        return error(f"wrong number of arguments for '{name.decode().lower()}' command")
    try:
        return function(data, arguments)
    except CommandError as failure:
        return error(str(failure))


def refusal(failure: ProtocolError | LimitExceeded) -> bytes:
    """Return what a peer is told that does not speak the protocol."""
    return error(str(failure) if isinstance(failure, ProtocolError) else "line too long")


@resumable
async def handle(conn: AsyncConnection) -> None:
    """Carry out one command after another until QUIT or the end."""
    while True:
        try:
            words = await receive_command(conn)
        except PeerClosed:
            return
        except (ProtocolError, LimitExceeded) as failure:
            await conn.send(refusal(failure))
            return
        if words:
            await conn.send(execute(data, words))
        conn.commit()
        if words and words[0].upper() == b"QUIT":
            return


@resumable(state=Data, redeliver=True)
async def session(conn: AsyncConnection) -> None:
    """As `handle`, with data of the connection's own."""
    own: Data = conn.state or {}
    while True:
        try:
            words = await receive_command(conn)
        except PeerClosed:
            return
        except (ProtocolError, LimitExceeded) as failure:
            await conn.reply(refusal(failure), own)
            return
        await conn.reply(execute(own, words) if words else b"", own)
        if words and words[0].upper() == b"QUIT":
            return


@resumable(state=Data, redeliver=True)
def blocking_session(conn: Connection) -> None:
    """As `session`, for the sync models."""
    own: Data = conn.state or {}
    while True:
        try:
            words = receive_command_blocking(conn)
        except PeerClosed:
            return
        except (ProtocolError, LimitExceeded) as failure:
            conn.reply(refusal(failure), own)
            return
        conn.reply(execute(own, words) if words else b"", own)
        if words and words[0].upper() == b"QUIT":
            return
