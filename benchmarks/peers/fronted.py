"""A program that ends TLS before a plain Socketkeep: ``fronted hitch|haproxy PORT PEM DIRECTORY``.

Both are of one process group, which the benchmark ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from benchmarks._machine import find
from benchmarks.peers import BACKLOG, HOST

_HITCH = """
frontend = {{ host = "{host}" port = "{port}" }}
backend = "[{host}]:{behind}"
pem-file = "{pem}"
workers = 1
backlog = {backlog}
daemon = off
quiet = on
"""
_HAPROXY = """
global
    maxconn 4096
    nbthread 1

defaults
    mode tcp
    timeout connect 5s
    timeout client 75s
    timeout server 75s

frontend tls
    bind {host}:{port} ssl crt {pem} backlog {backlog}
    default_backend socketkeep

backend socketkeep
    server app {host}:{behind}
"""


def main(program: str, port: str, pem: str, directory: str) -> int:
    """Run both until the one in front ends."""
    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        behind = listener.getsockname()[1]
        serve = (
            *(sys.executable, "-m", "socketkeep", "serve", "benchmarks.handlers:echo_async"),
            *("--bind", f"fd://{listener.fileno()}", "--loop", "uvloop", "--log-level", "error"),
            *("--control", f"{directory}/behind"),
        )
        server = subprocess.Popen(serve, pass_fds=[listener.fileno()])
    text = (_HITCH if program == "hitch" else _HAPROXY).format(
        host=HOST, port=port, behind=behind, pem=pem, backlog=BACKLOG
    )
    configuration = Path(directory, f"{program}.txt")
    configuration.write_text(text)
    options = {"hitch": ["--config", str(configuration)], "haproxy": ["-f", str(configuration)]}
    if program == "hitch" and not os.getuid():
        options["hitch"] += ["--user", "nobody", "--group", "nogroup"]
    front = subprocess.Popen([find(program) or program, *options[program]])
    signal.signal(signal.SIGTERM, lambda _number, _frame: front.terminate())
    try:
        return front.wait()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
