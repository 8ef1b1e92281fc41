"""anyio on uvloop: ``on_anyio echo``."""

from __future__ import annotations

import anyio
from anyio.abc import SocketAttribute, SocketStream

from benchmarks.peers import BACKLOG, HOST, MOST, announce


async def echo(stream: SocketStream) -> None:
    """Echo."""
    async with stream:
        try:
            while True:
                await stream.send(await stream.receive(MOST))
        except anyio.EndOfStream:
            return


async def main() -> None:
    """Serve until killed."""
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=0, backlog=BACKLOG)
    announce(listener.extra(SocketAttribute.local_port))
    await listener.serve(echo)


if __name__ == "__main__":
    anyio.run(main, backend_options={"use_uvloop": True})
