"""A worker that says and does anything: random and mutated messages, descriptors and rows."""

from __future__ import annotations

import fcntl
import os
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

import msgspec

from tests.harness.seam import HEADER_WORDS, ROW_WORDS, Row
from tests.wire.sending import CHANNEL_CLOSED, KINDS, LARGE, SEALS, send_raw

#: Numbers at which something ends, or begins.
NUMBERS: Final = (
    *(-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 15, 16, 255, 4095, 4096, 65535, 65536, 65537),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**40 + 1, 2**48, 2**53),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1),
)
SIZES: Final = (0, 1, 511, 512, 513, 32767, 32768, 65535, 65536, 65537, 131072, 300_000)


class Hostile:
    """Sends over `channel` and writes to `board`, by `rng` alone.

    connection: returns the number of a descriptor of a connection of the server.  names: ids of
    connections of others, and pids of other processes.
    """

    def __init__(
        self,
        rng: random.Random,
        channel: Any,
        board: Any,
        connection: Callable[[], int],
        names: Sequence[str],
        pids: Sequence[int],
        own: str,
    ) -> None:
        self._rng = rng
        self._channel = channel
        self._board = board
        self._connection = connection
        self._names = [*names, own, own, own]
        self._pids = pids
        self._own = own
        self._stack = ExitStack()
        self._words = HEADER_WORDS + 4 * ROW_WORDS  # of the header and four rows

    def act(self) -> str:
        """Do something; return what it was."""
        choices = (self._say, self._say, self._say, self._write_words, self._write_bytes)
        act = self._rng.choice(choices)
        with self._stack:
            return act()

    # What it says.

    def _say(self) -> str:
        rng = self._rng
        tag = rng.choice(KINDS)
        fields = self._fields(tag)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
            self._mutate(fields)
        payload = b"\0" + msgspec.msgpack.encode([tag, *fields])
        kind = rng.random()
        if kind < 0.05:
            payload = rng.randbytes(rng.choice((0, 1, 2, 50, 40_000)))
        elif kind < 0.12:
            payload = payload[: rng.randrange(len(payload) + 1)]
        elif kind < 0.2:
            changed = bytearray(payload)
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            payload = bytes(changed)
        fds = self._descriptors(tag)
        if len(payload) > LARGE:
            payload, fds = b"\1", [*fds[:252], self._memfd(payload[1:])]
        with suppress(BlockingIOError, CHANNEL_CLOSED, BrokenPipeError, ConnectionResetError):
            send_raw(self._channel, payload, fds)
        return f"{tag} {str(fields)[:200]} with {len(fds)}"

    def _fields(self, tag: str) -> list[Any]:
        rng, board = self._rng, self._board
        name, epoch = rng.choice(self._names), rng.choice((1, 1, 1, 2, 3))
        row = rng.randrange(4)
        data = rng.randbytes(rng.choice(SIZES)) if rng.random() < 0.2 else b"state"
        state = rng.choice((None, data))
        parked = rng.random() < 0.3
        match tag:
            case "Detached":
                unread = rng.choice((b"", data))
                header = rng.choice((b"", b"PROXY ", data)), rng.choice((0, 0, 1, 2**62))
                told = [name, epoch, 0, "x", state, unread, 1, 2, 3, parked, 0, False, row]
                return [*told, *header]
            case "Attached" | "Refused":
                return [name, epoch, row if tag == "Attached" else "no seat"]
            case "Keep":
                if rng.random() < 0.5:
                    self._claim(name, row, epoch)
                return [name, epoch, row, 0, "x", rng.choice((b"", b"PROXY ", data))]
            case "Ended":
                return [[[rng.choice(self._names), epoch] for _ in range(rng.choice((0, 1, 9)))]]
            case "Orphaned":
                return [name, epoch, rng.randrange(12), state, 2, 3]
            case "Ready":
                return [rng.choice(self._pids)]
            case "Forked":
                return [rng.randrange(8), rng.choice(self._pids)]
            case "ForkFailed":
                return [rng.randrange(8), "no room"]
            case "StartFailed":
                return ["x" * rng.choice((0, 10, 40_000))]
            case "Loaded":
                return [rng.choice(("fork", "async", "new")), True, ["t"] * rng.choice((0, 3))]
            case "LoadFailed":
                return ["bad", rng.choice(NUMBERS)]
            case "Stranded":
                pid = rng.choice(self._pids)
                listeners = [["127.0.0.1:1"], [""]]
                return [1, 2, 0, 1, pid, "app:handle", "fork", True, "close", False, *listeners]
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(3) + (board.rows < 0))]

    def _mutate(self, fields: list[Any]) -> None:
        rng = self._rng
        if not fields or rng.random() < 0.08:
            fields.append(self._value())
            return
        at = rng.randrange(len(fields))
        if rng.random() < 0.08:
            del fields[at]
        else:
            fields[at] = self._value(fields[at])

    def _value(self, like: object = None) -> Any:
        rng = self._rng
        if isinstance(like, bool) or rng.random() < 0.1:
            return rng.choice((None, True, 1.5, [], {}, [[]], float("inf")))
        if isinstance(like, int):
            return rng.choice(NUMBERS)
        if isinstance(like, bytes):
            return rng.randbytes(rng.choice(SIZES))
        texts = ("", "1-1-1", "no id", "0-0-0", "1-1-" + "f" * 23, "\0\n\x1b[2J", "x" * 70_000)
        return rng.choice((*texts, self._own + "0", "-".join(["f" * 16] * 3), *self._names))

    # What it sends along.

    def _descriptors(self, tag: str) -> list[int]:
        rng = self._rng
        usual = {"Detached": 1, "Keep": 1}.get(tag, 0)
        count = rng.choice((usual, usual, usual, usual, 0, 1, 2, 3, 253))
        if count == 253:
            return [self._keep(self._null())] * 253
        makers = (
            *([self._connection] * 6),
            *(self._null, self._pipe, self._full_pipe, self._socketpair, self._listener),
            *(self._sparse, self._event, self._directory, self._read_end),
        )
        return [self._keep(rng.choice(makers)()) for _ in range(count)]

    def _keep(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

    def _null(self) -> int:
        return os.open("/dev/null", os.O_RDWR)

    def _directory(self) -> int:
        return os.open("/", os.O_RDONLY)

    def _event(self) -> int:
        return os.eventfd(0)

    def _pipe(self) -> int:
        read, write = os.pipe()
        self._keep(read)
        return write

    def _read_end(self) -> int:
        read, write = os.pipe()
        self._keep(write)
        return read

    def _full_pipe(self) -> int:
        write = self._pipe()
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
        os.set_blocking(write, True)
        return write

    def _socketpair(self) -> int:
        ours, theirs = socket.socketpair()
        self._keep(ours.detach())
        return theirs.detach()

    def _listener(self) -> int:
        return socket.create_server(("127.0.0.1", 0)).detach()

    def _sparse(self) -> int:
        fd = os.memfd_create("it", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 1 << 33)
        return fd

    def _memfd(self, body: bytes) -> int:
        rng = self._rng
        kind = rng.random()
        if kind < 0.1:
            return self._keep(self._read_end())
        fd = self._keep(os.memfd_create("it", os.MFD_ALLOW_SEALING))
        if kind < 0.2:
            os.ftruncate(fd, 1 << 33)
        else:
            os.write(fd, body)
        if kind > 0.3:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        return fd

    # What it writes where the keeper reads.

    def _claim(self, name: str, row: int, epoch: int) -> None:
        with suppress(ValueError):
            boot, minted_by, number = (int(part, 16) for part in name.split("-"))
            record = Row(self._board.record(row))
            record.name(boot, minted_by, number)
            record.epoch = epoch

    def _write_words(self) -> str:
        rng = self._rng
        for _ in range(rng.randint(1, 6)):
            word = rng.randrange(self._words)
            values = (*NUMBERS, *self._pids, rng.getrandbits(64))
            self._board._words[word] = rng.choice(values) % 2**64
        return "words"

    def _write_bytes(self) -> str:
        rng, board = self._rng, self._board
        if rng.random() < 0.7:
            return "nothing"
        size = self._words * 8
        start = rng.randrange(size)
        data = rng.randbytes(min(size - start, rng.choice((8, 100, size))))
        board._map[start : start + len(data)] = data
        return "garbage"
