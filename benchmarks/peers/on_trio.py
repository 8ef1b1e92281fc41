"""trio: ``on_trio echo``."""

from __future__ import annotations

import trio

from benchmarks.peers import MOST, listen


async def echo(stream: trio.SocketStream) -> None:
    """Echo."""
    while data := await stream.receive_some(MOST):
        await stream.send_all(data)


async def main() -> None:
    """Serve until killed."""
    sock = trio.socket.from_stdlib_socket(listen())
    await trio.serve_listeners(echo, [trio.SocketListener(sock)])


if __name__ == "__main__":
    trio.run(main)
