"""How long `socketkeep.inspect.holders` takes, of very many sockets.

    python -m benchmarks.holders [--sockets 10000] [--rounds 20]

A child opens a listener and connections to itself; then they are asked for, by the child's pid and
by the port.  The best of the rounds is printed: what else the machine does is not the question.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import time

from socketkeep.inspect import holders


def main() -> None:
    parser = argparse.ArgumentParser(description="How long `holders` takes")
    parser.add_argument("--sockets", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ready, say_ready = os.pipe()
    wait, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        _hold(arguments.sockets // 2, say_ready, wait)
        os._exit(0)
    try:
        os.close(say_ready)
        port = os.read(ready, 8).decode()
        figures: dict[str, float] = {}
        for what in (str(child), f":{port}"):
            name = "by port" if what.startswith(":") else "by pid"
            figures |= _measure(what, name, arguments.rounds)
        print(json.dumps(figures, indent=2))
    finally:
        os.close(end)
        os.waitpid(child, 0)


def _hold(pairs: int, say_ready: int, wait: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    held = []
    for _ in range(pairs):
        client = socket.create_connection(listener.getsockname())
        held += [client, listener.accept()[0]]
    os.write(say_ready, str(listener.getsockname()[1]).encode())
    os.read(wait, 1)


def _measure(what: str, name: str, rounds: int) -> dict[str, float]:
    elapsed, used, count = [], [], 0
    for _ in range(rounds):
        began, began_cpu = time.perf_counter(), time.process_time()
        count = len(holders(what))
        elapsed.append(time.perf_counter() - began)
        used.append(time.process_time() - began_cpu)
    return {
        f"sockets {name}": count,
        f"seconds {name}": round(min(elapsed), 3),
        f"processor seconds {name}": round(min(used), 3),
    }


if __name__ == "__main__":
    main()
