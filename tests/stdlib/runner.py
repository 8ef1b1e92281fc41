"""Runs tests of CPython in a process of their own, with the one or the other socket class.

``runner.py JOB``: JOB is JSON, see `Job`.  It is the program of its process, and imports nothing of
the tests beside it; what has sockets in CPython's is imported once the class is in its place.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import socket
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import socketkeep


class Job(TypedDict):
    """What to run.

    socket_class: "standard" or "socketkeep".  names: modules, classes or tests.  left_out: what
    the ids of the tests begin with that are not run.  part, parts: of every `parts` classes, the
    one to run.  seconds: after which the process ends itself, and says in its standard error where
    it was.  output: the file in which it writes {id of a test: [outcome, detail]}.
    """

    socket_class: str
    names: list[str]
    left_out: list[str]
    part: int
    parts: int
    seconds: float
    output: str


class Result(unittest.TestResult):
    """Remembers also which tests there were."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().startTest(test)
        self.started.append(test.id())
        print(test.id(), file=sys.stderr, flush=True)

    def outcomes(self) -> dict[str, tuple[str, str]]:
        """Return what became of each test, and the reason; of several outcomes the worst."""
        found = dict.fromkeys(self.started, ("ok", ""))
        for outcome, entries in (
            ("skipped", self.skipped),
            ("failed as expected", self.expectedFailures),
            ("ok against expectation", [(test, "") for test in self.unexpectedSuccesses]),
            ("failed", self.failures),
            ("error", self.errors),
        ):
            for test, detail in entries:
                # A subtest is told apart by its parameters, and those may be addresses in memory.
                found[getattr(test, "test_case", test).id()] = outcome, detail
        return found


def put_in_place() -> None:
    """Make `socketkeep.Socket` the socket class of the standard library in this process."""
    standard = socket.socket
    for module in list(sys.modules.values()):
        for name, value in vars(module).items():
            if value is standard and module is not socket:
                raise RuntimeError(f"{module.__name__}.{name} is the standard class already")
    setattr(socket, "socket", socketkeep.Socket)  # noqa: B010 - a type checker refuses the other


def check_place(expected: type[socket.socket]) -> None:
    """Raise RuntimeError unless each of the standard library's ways gives a socket of the class."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
        socket.fromfd(client.fileno(), client.family, client.type) as same,
        client.dup() as copy,
    ):
        left, right = socket.socketpair()
        with left, right:
            classes = {type(sock) for sock in (server, client, accepted, same, copy, left, right)}
    if classes != {expected}:
        raise RuntimeError(f"the sockets of this process are of {classes}, not {expected}")


def tests_in(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from tests_in(entry)
        else:
            yield entry


def chosen(job: Job) -> Iterator[unittest.TestCase]:
    """Yield the tests of the job, in the loader's order."""
    numbers: dict[type[unittest.TestCase], int] = {}
    left_out = tuple(job["left_out"])
    for test in tests_in(unittest.defaultTestLoader.loadTestsFromNames(job["names"])):
        number = numbers.setdefault(type(test), len(numbers))
        if number % job["parts"] == job["part"] and not test.id().startswith(left_out):
            yield test


def main(job: Job) -> None:
    faulthandler.dump_traceback_later(job["seconds"], exit=True)
    if job["socket_class"] == "socketkeep":
        put_in_place()
        check_place(socketkeep.Socket)
    else:
        check_place(socket.socket)
    # "network" is what some tests ask for merely to have sockets; those that ask for the internet
    # are left out by name.  Without a list everything would be on, also what takes minutes.
    setattr(importlib.import_module("test.support"), "use_resources", {"network": None})  # noqa: B010
    tests = unittest.TestSuite(chosen(job))
    # Most of the tests collect, three times over; what has been imported is not to be gone through
    # each time: without this they take five times as long.
    gc.freeze()
    result = Result()
    tests(result)
    Path(job["output"]).write_text(json.dumps(result.outcomes()))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
