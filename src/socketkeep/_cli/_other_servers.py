"""Options that users know from gunicorn, uvicorn or hypercorn, and what is here in their place."""

from __future__ import annotations

from typing import Final

_BIND: Final = "-b HOST:PORT, such as -b 0.0.0.0:7000, says where to listen"
_TLS: Final = "-b HOST:PORT,tls=CERT.pem,key=KEY.pem listens with TLS"
_CLIENT_CA: Final = "-b HOST:PORT,tls=CERT.pem,client-ca=CA.pem asks clients for certificates"
_RETIRE: Final = "--worker-lifetime and --worker-max-rss replace workers that are old or large"
_DAEMON: Final = "have a service manager start it, such as systemd (contrib/systemd)"

#: By the option elsewhere.  Options of the same name and meaning are not here.
HERE: Final = {
    "-p": _BIND,
    "--port": _BIND,
    "--host": _BIND,
    "--listen": _BIND,
    "--address": _BIND,
    "--uds": "-b unix:/path says where to listen",
    "--fd": "-b fd://N serves on a listener that it inherits",
    "--certfile": _TLS,
    "--keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--ssl-keyfile": _TLS,
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
    "--keep-alive": "--idle-timeout bounds silence; --keep says what outlives a worker",
    "--timeout-keep-alive": "--idle-timeout bounds silence",
    "--timeout-graceful-shutdown": "--graceful-timeout bounds a stop",
    "--preload": "it is always so: a template imports the code once and forks the workers",
    "--pid": "socketkeep status --json has the pid",
    "--pidfile": "socketkeep status --json has the pid",
    "-D": _DAEMON,
    "--daemon": _DAEMON,
    "--access-logfile": "--access-log writes to the same log as all else, see --log-file",
    "--error-logfile": "--log-file says where the log goes",
    "--reload-dir": "--reload watches the files that the code was imported from",
    "--reuse-port": "workers share one listener, which the server never closes while it runs",
    "--statsd-host": "--admin HOST:PORT has metrics for Prometheus, at /metrics",
}
