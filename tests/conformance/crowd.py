"""A crowd that stays: ``python -m tests.conformance.crowd HOST PORT NUMBER SOURCE``.

Each of so many connections comes from the address SOURCE and is greeted.  It says `there` when all
have been, and ends when its standard input does.
"""

from __future__ import annotations

import resource
import socket
import sys
from typing import Final

_AT_ONCE: Final = 128
GREETING: Final = b"hi\n"


def main(host: str, port: int, number: int, source: str) -> None:
    """Connect, and stay until standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    there: list[socket.socket] = []
    while len(there) < number:
        coming = [
            socket.create_connection((host, port), timeout=60, source_address=(source, 0))
            for _ in range(min(_AT_ONCE, number - len(there)))
        ]
        for each in coming:
            assert each.recv(len(GREETING), socket.MSG_WAITALL) == GREETING
        there += coming
    print("there", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
