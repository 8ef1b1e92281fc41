"""Who is measured: Socketkeep's models and their peers, each as the command that serves."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from benchmarks._generator import PROGRAMS
from benchmarks._machine import find

_MOST_CONNECTIONS: Final = 1100

#: Of those that speak TLS, with its key: ECDSA by P-256, as most are now.
CERTIFICATE: Final = PROGRAMS / "site.pem"

#: The commit that Socketkeep is compared with.
FORMER: Final = "7aa148d"


@dataclass(frozen=True)
class Subject:
    """A server.

    command: what runs it.  modules, program: what it cannot do without.  listens: on a port of its
    own choice, which it prints ("port"); on the listener whose descriptor it gets in place of
    ``{fd}`` ("fd"); or on the port that stands in place of ``{port}`` ("given"), in the command or
    in a file that it names.  http: it speaks HTTP; the others echo lines.  tls: it does so by TLS.
    environment: what it has besides that of the benchmark.
    """

    name: str
    command: tuple[str, ...]
    modules: tuple[str, ...] = ()
    program: str | None = None
    listens: Literal["port", "fd", "given"] = "port"
    http: bool = False
    tls: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Return what is not installed here, or None."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"the Python package {module} is not installed"
        if self.program is not None and find(self.program) is None:
            return f"the command {self.program} is not installed"
        return None


def asgi(app: str, *options: str, name: str) -> Subject:
    """Return Socketkeep, as it serves an ASGI application."""
    served = own("async", "", *options, name=name)
    at = served.command.index("serve") + 1
    command = (*served.command[:at], "--asgi", app, *served.command[at + 1 :])
    return replace(served, command=command, modules=("uvloop", "httptools"), http=True)


def uvicorn_websockets(app: str, protocol: str, *options: str, suffix: str = "") -> Subject:
    """Return uvicorn, as it serves WebSockets by one of its two implementations."""
    command = (
        *(sys.executable, "-m", "uvicorn", app, "--port", "{port}", "--ws", protocol),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "error", *options),
    )
    modules = ("uvicorn", "websockets")
    return Subject(f"uvicorn {protocol}{suffix}", command, modules, listens="given", http=True)


def own(
    model: str, work: str, *options: str, handler: str = "", name: str = "", tls: bool = False
) -> Subject:
    """Return Socketkeep in one of its models; tls: with the edge in front."""
    suffix = "_async" if model == "async" else ""
    most = {"thread": ("--threads", str(_MOST_CONNECTIONS)), "async": ("--loop", "uvloop")}
    return Subject(
        name or f"Socketkeep {model}",
        (
            *(sys.executable, "-m", "socketkeep", "serve"),
            f"benchmarks.handlers:{work}{handler}{suffix}",
            *(
                "--bind",
                f"fd://{{fd}},tls={CERTIFICATE}" if tls else "fd://{fd}",
                "--model",
                model,
                "--log-level",
                "error",
            ),
            *("--control", "{directory}/control"),
            *most.get(model, ()),
            *options,
        ),
        modules=("uvloop",) if model == "async" else (),
        listens="fd",
        tls=tls,
    )


def encrypted() -> list[Subject]:
    """Return those that speak TLS."""
    aio = (sys.executable, "-m", "benchmarks.peers.aio", "uvloop")
    front = (sys.executable, "-m", "benchmarks.peers.fronted")
    return [
        own("async", "echo", name="Socketkeep async, edge", tls=True),
        own("thread", "echo", name="Socketkeep thread, edge", tls=True),
        *(
            Subject(
                f"uvloop {api}, TLS", (*aio, api, "echo", str(CERTIFICATE)), ("uvloop",), tls=True
            )
            for api in ("streams", "protocol")
        ),
        *(
            Subject(
                f"{program}, Socketkeep async",
                (*front, program, "{port}", str(CERTIFICATE), "{directory}"),
                ("uvloop",),
                program,
                listens="given",
                tls=True,
            )
            for program in ("hitch", "haproxy")
        ),
    ]


def former(subject: Subject) -> Subject:
    """Return one of Socketkeep's own as it was at `FORMER`."""
    name = subject.name.replace("Socketkeep", f"Socketkeep {FORMER}")
    return replace(subject, name=name, environment={"PYTHONPATH": str(PROGRAMS / FORMER)})


def _python(name: str, program: str, *arguments: str, modules: tuple[str, ...] = ()) -> Subject:
    command = (sys.executable, "-m", f"benchmarks.peers.{program}", *arguments)
    return Subject(name, command, modules)


def peers(work: str) -> dict[str, Subject]:
    """Return all peers that can do the work, by name."""
    subjects = [
        _python("asyncio streams", "aio", "asyncio", "streams", work),
        _python("uvloop streams", "aio", "uvloop", "streams", work, modules=("uvloop",)),
        _python("fork loop", "loops", "fork", work),
        _python("prefork loop (8)", "loops", "prefork", work),
        _python("thread loop", "loops", "thread", work),
    ]
    if work == "echo":
        subjects += [
            _python("asyncio protocol", "aio", "asyncio", "protocol", work),
            _python("uvloop protocol", "aio", "uvloop", "protocol", work, modules=("uvloop",)),
            _python("gevent", "on_gevent", work, modules=("gevent",)),
            _python("trio", "on_trio", work, modules=("trio",)),
            _python("anyio on uvloop", "on_anyio", work, modules=("anyio", "uvloop")),
            _python("Twisted", "on_twisted", work, modules=("twisted",)),
            _python("ForkingTCPServer", "standard", "forking", work),
            _python("ThreadingTCPServer", "standard", "threading", work),
            Subject("C epoll", (str(PROGRAMS / "echo_epoll"),)),
            Subject("C fork", (str(PROGRAMS / "echo_fork"),)),
            Subject("C prefork (8)", (str(PROGRAMS / "echo_prefork"),)),
            Subject(
                "tcpserver (execs C)",
                (
                    *("tcpserver", "-1", "-H", "-R", "-l", "0", "-c", "2000", "-b", "2048"),
                    *("127.0.0.1", "0", str(PROGRAMS / "echo_child")),
                ),
                program="tcpserver",
            ),
        ]
    return {subject.name: subject for subject in subjects}
