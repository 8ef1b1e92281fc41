"""Serve by forking as the first argument says; write the address, then what happens."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from socketkeep import Connection, ForkingServer, Listener, guard_forks, resumable


def echo(conn: Connection) -> None:
    for line in conn.lines():
        conn.send(b"%d %s\n" % (os.getpid(), line))


@resumable
def committing_echo(conn: Connection) -> None:
    for line in conn.lines(commit=True):
        conn.send(line + b"\n")


def failing(conn: Connection) -> None:
    conn.recv_until(b"\n")
    raise LookupError("a fault of the handler's")


def holding(conn: Connection) -> None:
    """Answer with what this process has open besides its standard files."""
    conn.recv_until(b"\n")
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if int(name) > 2 and not target.startswith("/"):
            found.append(target.partition(":")[0] + ":" + target.rpartition(":")[2])
    conn.send(" ".join(found).encode() + b"\n")


def stuck(conn: Connection) -> None:
    conn.send(b"stuck\n")
    while True:
        time.sleep(60)


def served(handler: Callable[[Connection], None], **options: float) -> None:
    with Listener.bind("127.0.0.1:0") as listener:
        print(listener.text, flush=True)
        listener.serve_forking(handler, **options)  # type: ignore[arg-type]
        print(f"ended, {children()} children", flush=True)


def children() -> int:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())


def run(what: str) -> None:
    match what:
        case "echo":
            served(echo, graceful_timeout=20)
        case "two":
            served(echo, max_children=2, graceful_timeout=0.2)
        case "resumable":
            served(committing_echo, graceful_timeout=20)
        case "failing":
            served(failing)
        case "holding":
            served(holding)
        case "guarded":
            guard_forks()
            served(echo)
        case "stuck":
            served(stuck, graceful_timeout=20)
        case "other children":
            other = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
            served(echo)
            print(f"the other: {other.wait()}", flush=True)
        case "no process":
            fork, left = os.fork, 3

            def scarce() -> int:
                nonlocal left
                left -= 1
                if left >= 0:
                    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
                return fork()

            os.fork = scarce
            served(echo)
        case "no descriptor":
            # Room for all but the connection itself.
            highest = 40
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
            fillers: list[int] = []

            def fill() -> None:
                try:
                    while True:
                        fillers.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    return

            def make_room(_number: int, _frame: object) -> None:
                while fillers:
                    os.close(fillers.pop())

            signal.signal(signal.SIGUSR1, make_room)
            with Listener.bind("127.0.0.1:0") as listener, ForkingServer(listener, echo) as server:
                signal.signal(signal.SIGTERM, lambda *_: server.stop())
                fill()
                print(listener.text, flush=True)
                server.run()
        case "thread":
            with Listener.bind("127.0.0.1:0") as listener, ForkingServer(listener, echo) as server:
                thread = threading.Thread(target=server.run)
                thread.start()
                print(listener.text, flush=True)
                sys.stdin.readline()
                server.stop()
                thread.join()
                print(f"ended, {children()} children", flush=True)
        case "interrupt":
            with Listener.bind("127.0.0.1:0") as listener, ForkingServer(listener, echo) as server:
                print(listener.text, flush=True)
                try:
                    server.run()
                except KeyboardInterrupt:
                    print(f"interrupted, {children()} children", flush=True)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    run(sys.argv[1])
