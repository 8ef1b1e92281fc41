"""The words that users know from other servers, and what is here in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_BIND: Final = "-b HOST:PORT, such as -b 0.0.0.0:7000, says where to listen"
_TLS: Final = "-b HOST:PORT,tls=CERT.pem,key=KEY.pem listens with TLS"
_CLIENT_CA: Final = "-b HOST:PORT,tls=CERT.pem,client-ca=CA.pem asks clients for certificates"
_RETIRE: Final = "--worker-lifetime and --worker-max-rss replace workers that are old or large"
_DAEMON: Final = "have a service manager start it, such as systemd (contrib/systemd)"
_PEERS: Final = "--forwarded-allow-ips says whose Forwarded headers are believed"
_LOG: Final = "--log-level, --log-format and --log-file say what is logged, how and where"
_WATCHED: Final = "--reload watches the files that the code was imported from"
_PID: Final = "socketkeep status --json has the pid"
_PATH: Final = "--chdir says where TARGET is imported from, PYTHONPATH where else"
_RIGHTS: Final = "--user and --group say as whom it serves"

#: By the option elsewhere.  Options of the same name and meaning are not here.
HERE: Final = {
    "-p": _BIND,
    "--port": _BIND,
    "--host": _BIND,
    "--listen": _BIND,
    "--address": _BIND,
    "-e": _BIND,
    "--endpoint": _BIND,
    "--insecure-bind": _BIND,
    "--quic-bind": f"{_BIND}; QUIC is left to a proxy in front",
    "-u": "-b unix:/path says where to listen, --user as whom it serves",
    "--uds": "-b unix:/path says where to listen",
    "--unix-socket": "-b unix:/path says where to listen",
    "--fd": "-b fd://N serves on a listener that it inherits",
    "--certfile": _TLS,
    "--keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--ssl-keyfile": _TLS,
    "--ssl-certificate": _TLS,
    "--keyfile-password": f"{_TLS}; its pass phrase stands in a file, key-password-file=FILE",
    "--ssl-keyfile-password": f"{_TLS}; its pass phrase stands in a file, key-password-file=FILE",
    "--ca-certs": _CLIENT_CA,
    "--ssl-ca-certs": _CLIENT_CA,
    "--ciphers": f"{_TLS}; ciphers=LIST chooses among them",
    "--ssl-ciphers": f"{_TLS}; ciphers=LIST chooses among them",
    "--worker-class": "-k fork, prefork, thread or async says how workers serve",
    "--worker-connections": "--max-connections bounds the server, --threads a worker of the model"
    " thread",
    "--limit-concurrency": "--max-connections bounds how many are served at a time",
    "--max-requests": _RETIRE,
    "--max-requests-jitter": _RETIRE,
    "--limit-max-requests": _RETIRE,
    "--timeout": "--idle-timeout bounds silence, --graceful-timeout a stop, --worker-timeout a"
    " worker that stands still",
    "-t": "--check-config checks the options and loads the code; --idle-timeout bounds silence",
    "--keep-alive": "--idle-timeout bounds silence; --keep says what outlives a worker",
    "--timeout-keep-alive": "--idle-timeout bounds silence",
    "--timeout-graceful-shutdown": "--graceful-timeout bounds a stop",
    "--limit-request-line": "--limit-request-head bounds the request line and the fields together",
    "--limit-request-field_size": "--limit-request-head bounds all of them together",
    "--preload": "it is always so: a template imports the code once and forks the workers",
    "--pid": _PID,
    "--pidfile": _PID,
    "-D": _DAEMON,
    "--daemon": _DAEMON,
    "--access-logfile": "--access-log writes to the same log as all else, see --log-file",
    "--error-logfile": "--log-file says where the log goes",
    "--capture-output": "it is always so: what the code prints is in the log",
    "--log-config": _LOG,
    "--log-syslog": f"{_LOG}; under systemd the journal has it",
    "--reload-dir": _WATCHED,
    "--reload-include": _WATCHED,
    "--reload-extra-file": _WATCHED,
    "--reuse-port": "workers share one listener, which the server never closes while it runs",
    "--statsd-host": "--admin HOST:PORT has metrics for Prometheus, at /metrics",
    "--app-dir": _PATH,
    "--pythonpath": _PATH,
    "--env": "set variables where the server is started, such as NAME=VALUE socketkeep serve",
    "--env-file": "set variables where the server is started, such as env $(cat FILE) socketkeep",
    "--interface": "--asgi serves an ASGI application",
    "--proxy-headers": _PEERS,
    "-n": "--name NAME is what commands call the server by",
    "-s": "socketkeep reload, stop and status act on a running server",
    "--debug": f"{_WATCHED}; --log-level debug says more",
    "--uid": _RIGHTS,
    "--gid": _RIGHTS,
}

_ASGI: Final = "leave it out: --asgi TARGET serves an ASGI application"
_MANY: Final = "thread and async serve many connections a worker"
#: By the worker class elsewhere, in lower case; what stands before the first dot will do.
WORKER_CLASSES: Final = {
    "sync": "prefork serves one connection a worker at a time",
    "gthread": "thread serves each connection by a thread",
    "gevent": _MANY,
    "gevent_wsgi": _MANY,
    "eventlet": _MANY,
    "tornado": _MANY,
    "meinheld": _MANY,
    "asyncio": "async serves coroutines, --loop asyncio by this loop",
    "uvloop": "async serves coroutines, --loop uvloop by this loop",
    "trio": "async serves coroutines of asyncio",
    "uvicorn": _ASGI,
    "uvicorn_worker": _ASGI,
    "hypercorn": _ASGI,
    "asgi": _ASGI,
}

#: By the command elsewhere.
COMMANDS: Final = {
    "run": "socketkeep serve TARGET starts a server",
    "start": "socketkeep serve TARGET starts a server",
    "restart": "socketkeep reload loads the code anew, upgrade the server itself",
    "test": "socketkeep serve TARGET --check-config checks the options and loads the code",
    "ps": "socketkeep workers lists the processes, connections what they serve",
    "shutdown": "socketkeep stop stops a server gracefully",
    "quit": "socketkeep stop stops a server gracefully",
    "kill": "socketkeep stop stops a server gracefully, abort resets a connection",
}

_HOSTS: Final = ("--host",)
_PORTS: Final = ("-p", "--port")
_OURS: Final = "127.0.0.1"


def instead_of(option: str, arguments: Sequence[str]) -> str:
    """Return what stands here in place of another server's option, "" for an unknown one.

    A host and a port among the arguments become the address that -b takes.
    """
    if option in (*_HOSTS, *_PORTS):
        host, port = _value(_HOSTS, arguments), _value(_PORTS, arguments)
        if port.isdecimal() and port.isascii():
            named = f"[{host}]" if ":" in host else host
            return f"-b {named or _OURS}:{port} listens there"
    return HERE.get(option, "")


def worker_class(name: str) -> str:
    """Return which model does what another server's worker class did, as a clause; "" else."""
    word = name.lower()
    known = WORKER_CLASSES.get(word) or WORKER_CLASSES.get(word.partition(".")[0], "")
    return known and f": {known}"


def _value(options: Sequence[str], arguments: Sequence[str]) -> str:
    """Return the value that the last of these options has among the arguments, "" for none."""
    found = ""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in options:
            found = value if equals else next(iter(arguments[place + 1 :]), "")
        elif argument[:2] in options:  # -p80
            found = argument[2:]
    return found
