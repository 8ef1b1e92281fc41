"""Servers as one writes them by hand: ``loops fork|prefork|thread echo|lines``.

Echo is a bare loop without timeouts.  Lines are read by makefile(), with a timeout.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import NoReturn

from benchmarks.peers import MOST, listen


def echo(conn: socket.socket) -> None:
    """Echo, for as long as it takes."""
    while data := conn.recv(MOST):
        conn.sendall(data)


def lines(conn: socket.socket) -> None:
    """Answer lines."""
    conn.settimeout(30)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sets it, too
    with conn.makefile("rb") as file:
        while line := file.readline(MOST):
            conn.sendall(line)


def fork(listener: socket.socket, work: str) -> NoReturn:
    """Fork for each connection."""

    def reap(_number: int, _frame: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    signal.signal(signal.SIGCHLD, reap)
    handle = globals()[work]
    while True:
        conn, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            try:
                handle(conn)
            finally:
                os._exit(0)
        conn.close()


def prefork(listener: socket.socket, work: str) -> None:
    """Serve one connection after another in each of 8 processes."""
    handle = globals()[work]
    for _ in range(8):
        if os.fork() == 0:
            while True:
                conn, _ = listener.accept()
                with conn:
                    handle(conn)
    signal.pause()


def thread(listener: socket.socket, work: str) -> NoReturn:
    """Start a thread for each connection."""

    def run(conn: socket.socket) -> None:
        with conn:
            handle(conn)

    handle = globals()[work]
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=run, args=(conn,), daemon=True).start()


if __name__ == "__main__":
    {"fork": fork, "prefork": prefork, "thread": thread}[sys.argv[1]](listen(), sys.argv[2])
