"""Environments that a server may be started in, each made by a small program that becomes it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: It executes what its arguments are, the place of `{}` having been run before.
_PROGRAM: Final = "import os, resource, signal, sys\n{}\nos.execvp(sys.argv[1], sys.argv[1:])"

_SECCOMP: Final = """
import ctypes, struct
instructions = [
    (0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(len(instructions), ctypes.cast(code, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, "seccomp"
"""


def forbidding(number: int) -> str:
    """Return the program that has a system call fail with EPERM from here on."""
    return _SECCOMP.format(number=number)


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment.

    program: run in the process before it becomes the server.  variables: of its environment;
    None removes one.  files: beside the handler, with their text.
    """

    name: str
    program: str = ""
    variables: Mapping[str, str | None] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    hup: bool = False  # it is reloaded by SIGHUP

    @property
    def prefix(self) -> list[str]:
        """The command that becomes the server."""
        return (
            [sys.executable, "-I", "-S", "-c", _PROGRAM.replace("{}", self.program)]
            if self.program
            else []
        )


_EVERY: Final = "[n for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP)]"

#: Names that the server, the standard library or Python itself import, sooner or later.
NAMES: Final = (
    *("signal", "types", "queue", "platform", "token", "resource", "socketkeep", "click"),
    *("logging", "secrets", "select", "calendar", "selectors", "enum", "html", "heapq", "asyncio"),
    *("json", "msgspec", "uvloop", "traceback", "linecache", "tokenize", "inspect", "ssl", "copy"),
    *("setproctitle", "h11", "prometheus_client", "contextlib", "operator", "functools", "re"),
)
#: Those that a program is free to shadow in PYTHONPATH: with the others no Python starts.
LATE_NAMES: Final = tuple(
    name
    for name in NAMES
    if name not in {"types", "enum", "operator", "functools", "contextlib", "re", "socketkeep"}
)


def _shadowing(names: tuple[str, ...], directory: str = "") -> dict[str, str]:
    text = "open(__file__ + '.imported', 'w').close()\nraise ImportError('of the application')\n"
    return {f"{directory}{name}.py": text for name in names}


SERVED: Final = (
    Setting("SIGCHLD ignored", "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"),
    Setting(
        "every signal ignored",
        f"for n in {_EVERY}:\n try: signal.signal(n, signal.SIG_IGN)\n except OSError: pass",
        hup=True,
    ),
    Setting(
        "every signal blocked", f"signal.pthread_sigmask(signal.SIG_BLOCK, {_EVERY})", hup=True
    ),
    Setting("descriptors 0 to 2 closed", "os.closerange(0, 3)"),
    Setting("descriptor 0 closed", "os.closerange(0, 1)"),
    Setting("descriptor 2 closed", "os.closerange(2, 3)"),
    Setting("an alarm", "signal.setitimer(signal.ITIMER_REAL, 20)"),
    Setting("a child from before", "os.posix_spawn('/bin/true', ['true'], {})"),
    Setting("umask 0777", "os.umask(0o777)"),
    Setting("few descriptors", "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 4096))"),
    Setting(
        "no HOME, PATH, LANG", variables=dict.fromkeys(("HOME", "PATH", "LANG", "TERM", "USER"))
    ),
    Setting(
        "the C locale",
        variables={
            "LANG": "C",
            "LC_ALL": "POSIX",
            "PYTHONIOENCODING": "ascii",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
        },
    ),
    Setting(
        "Python's variables",
        variables={
            "PYTHONWARNINGS": "error",
            "PYTHONOPTIMIZE": "2",
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONINSPECT": "1",
            "PYTHONSTARTUP": "/nowhere/startup.py",
            "PYTHONHASHSEED": "7",
        },
    ),
    Setting("Python's development mode", variables={"PYTHONDEVMODE": "1"}),
    Setting(
        "files named like modules", files=_shadowing(NAMES), options=("--admin", "127.0.0.1:0")
    ),
    Setting(
        "PYTHONPATH with files named like modules",
        variables={"PYTHONPATH": "shadows"},
        files=_shadowing(LATE_NAMES, "shadows/"),
        options=("--admin", "127.0.0.1:0"),
    ),
)

#: What cannot be served in, the exit code, and words of the line that says why.
REFUSED: Final = (
    (Setting("pidfd_open forbidden", forbidding(434)), 1, "pidfd_open"),
    (Setting("pidfd_send_signal forbidden", forbidding(424)), 1, "pidfd_send_signal"),
    (
        Setting("no file may grow", "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"),
        *(1, "ulimit -f"),
    ),
    (
        Setting("a hard limit of 20 descriptors", "resource.setrlimit(7, (20, 20))"),
        *(1, "ulimit -Hn"),
    ),
    (
        Setting(
            "the working directory removed",
            "d = os.getcwd() + '/d'; os.mkdir(d); os.chdir(d); os.rmdir(d)",
        ),
        *(1, "working directory has been removed"),
    ),
)
