"""A crowd of devices, as a process of its own: ``python -m tests.conformance.cluster_crowd``.

Each connects, says its name, and stays; when it is cut it comes back.  Arguments: HOST PORT NUMBER.
On a line of the standard input, each a command, it answers with a line of JSON: ``named``, how many
are named at this moment; ``got``, what each has got, and how often each came back.  Its input's end
ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import sys
from typing import Final

_AT_ONCE: Final = 64
_PAUSE: Final = 0.2


class Device:
    """One device."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.named = False
        self.got: list[int] = []
        self.times = 0

    async def live(self, host: str, port: int, turn: asyncio.Semaphore) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await self._once(host, port, turn)
            self.named = False
            await asyncio.sleep(random.uniform(0, _PAUSE))

    async def _once(self, host: str, port: int, turn: asyncio.Semaphore) -> None:
        async with turn:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(host, port, limit=65536)
                writer.write(f"name {self.name}\n".encode())
                first = await reader.readline()
        try:
            if first != b"ok\n":
                return
            self.times += 1
            self.named = True
            while (line := await reader.readline()).endswith(b"\n"):
                self.got.append(int(line))
        finally:
            writer.close()


async def main(host: str, port: int, number: int) -> None:
    turn = asyncio.Semaphore(_AT_ONCE)
    devices = [Device(f"device-{each}") for each in range(number)]
    living = [asyncio.create_task(each.live(host, port, turn)) for each in devices]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while command := await reader.readline():
        answer: object = sum(each.named for each in devices)
        if command == b"got\n":
            answer = {each.name: [each.times, each.got] for each in devices}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for task in living:
        task.cancel()


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
