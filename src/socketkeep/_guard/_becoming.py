"""The start of a guard: the process that has read the options becomes it, its child the keeper."""

from __future__ import annotations

import _socket as socket
import contextlib
import errno
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from socketkeep._base import _prctl
from socketkeep._guard import _program
from socketkeep._guard._program import FORWARDED, Plan
from socketkeep._native import core

#: Descriptors that the guard needs beside those that it stores.
_OWN: Final = 64
#: More than that a store has only where it is asked for.
_ENOUGH: Final = 1 << 20


#: Beside `_program.py`, where it could be compiled: `guard.c`.
COMPILED: Final = os.path.join(os.path.dirname(os.path.abspath(_program.__file__)), "guard")


def guard_in_python() -> list[str]:
    """Return what the guard in Python is executed by."""
    return [sys.executable, "-I", "-S", os.path.abspath(_program.__file__)]


def guard_installed() -> list[str]:
    """Return what a guard is executed by: the compiled one, where there is a compiled core."""
    compiled = core is not None and os.access(COMPILED, os.X_OK)
    return [COMPILED] if compiled else guard_in_python()


def store_room(wanted: int) -> int:
    """Return how many descriptors a guard stores; wanted: the option, 0: as many as it can."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _OWN
    return max(0, min(most, wanted or _ENOUGH))


def become_guarded(
    command: Sequence[str],
    directory: str,
    most: int,
    passed: Sequence[tuple[str, int]],
    sidecar: str = "",
    name: str = "",
) -> None:
    """Have this process become a guard; return in its child, which is the keeper.

    command: starts another keeper, in `directory`.  most: how many descriptors may be stored.
    passed: the listeners that this process was given, which each keeper gets.  sidecar, name: the
    guard in another container, and the server's name there; the guard then starts the keeper, with
    what it gets from there.  Raises OSError, and there is no guard.
    """
    own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        own.bind("")  # a name that is free, which the kernel finds
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        plan = Plan()
        plan.socket, plan.most, plan.directory = own.fileno(), most, directory
        plan.soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        plan.passed = {fd: name for name, fd in passed}
        plan.sidecar, plan.name = sidecar, name
        guard = os.getpid()
        # In both, until they can act on them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*FORWARDED, signal.SIGCHLD))
        if sidecar:
            _guard(plan, 0, command)
        try:
            keeper = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise
        if keeper:
            _guard(plan, keeper, command)
        os.setpgid(0, 0)  # so that a Ctrl-C in the terminal reaches the guard alone
        os.environ.update(plan.variables(guard, os.getpid()))
        if passed:
            os.environ["LISTEN_PID"] = str(os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        own.close()


def _guard(plan: Plan, keeper: int, command: Sequence[str]) -> NoReturn:
    try:
        _prctl.set_child_subreaper()
        plan.keeper = keeper
        written = str(plan.write())
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
        for program in (guard_installed(), guard_in_python()):
            with contextlib.suppress(OSError):  # a file for another machine, say
                os.execv(program[0], [*program, written, *command])
        raise OSError(errno.ENOEXEC, f"cannot execute {sys.executable}")
    except BaseException as error:
        if keeper:
            os.kill(keeper, signal.SIGKILL)
        os.write(2, f"socketkeep: error: the guard cannot be started: {error}\n".encode())
    finally:
        os._exit(1)
