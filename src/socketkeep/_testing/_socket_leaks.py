"""`pytest --socket-leaks`: a test that leaves a socket fails, with where it was opened.

That there is one the descriptors of the process tell, before the test and after it; where it was
opened, the tracer.  What fixtures of a wider scope open, and threads that were there before the
test, is not the test's.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Generator, Iterable
from typing import Any, Final

import pytest
from _pytest.runner import runtestprotocol

import socketkeep
from socketkeep._base._commands import command_of
from socketkeep._testing._tracing import (
    Opening,
    SocketDescriptor,
    SourceLine,
    Tracer,
    describe,
    open_handles,
)

#: How long what is on its way out may take, in seconds: threads and child processes that end.
_GRACE: Final = 1.0
_LOOK_AGAIN: Final = 0.02
_LIBRARIES: Final = (
    os.path.dirname(os.__file__) + os.sep,
    os.path.dirname(socketkeep.__file__) + os.sep,
)


class SocketLeaks:
    """The plugin, from the start of a session to its end."""

    def __init__(self, config: pytest.Config) -> None:
        if not os.path.isdir("/proc/self/fd"):
            raise pytest.UsageError("--socket-leaks needs Linux and a mounted /proc")
        self._root = str(config.rootpath)
        self._tracer = Tracer()
        self._before: set[SocketDescriptor] = set()
        self._children: set[int] = set()
        self._tracer.install()

    def pytest_unconfigure(self) -> None:
        """Leave the socket module as it was."""
        self._tracer.remove()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Run the test, and see what it has left when its fixtures are gone.

        The reports are held back until then, so that it is the test which fails.
        """
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._begin(item.nodeid)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        faults = self._end()
        if faults:
            _blame(reports, "\n".join(faults))
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Leave out what a fixture for several tests opens: it is none of theirs."""
        if fixturedef.scope == "function":
            return (yield)
        with self._tracer.for_nobody():
            before = open_handles()
            result = yield
            self._before |= open_handles() - before
            self._children |= _descendants()
            self._tracer.strangers = _other_threads()
        return result

    def _begin(self, owner: str) -> None:
        self._before = open_handles()
        self._tracer.keep_only(self._before)
        self._children = _descendants()
        self._tracer.strangers = _other_threads()
        self._tracer.owner = owner

    def _end(self) -> list[str]:
        """Return what the test has left, a text each."""
        if found := self._left() or self._in_children():
            gc.collect()
            deadline = time.monotonic() + _GRACE
            while (found := self._left() or self._in_children()) and self._may_end(deadline):
                time.sleep(_LOOK_AGAIN)
        faults = [
            self._fault("left open", sorted(told), frames)
            for frames, told in _grouped(self._left()).items()
        ]
        mine = [(origin, told) for origin, told in self._tracer.forgotten if self._is_mine(origin)]
        faults += [
            self._fault("forgotten, closed by Python's garbage collector", sorted(told), frames)
            for frames, told in _grouped(mine).items()
        ]
        if found:
            faults += [
                self._fault("left open in a child process", sorted(told), frames)
                for frames, told in _grouped(self._in_children()).items()
            ]
        self._tracer.owner = None
        return faults

    def _may_end(self, deadline: float) -> bool:
        """Return whether something that the test started is there still, and may close sockets."""
        started = _other_threads() - self._tracer.strangers or _descendants() - self._children
        return bool(started) and time.monotonic() < deadline

    def _is_mine(self, origin: Opening | None) -> bool:
        return origin is None or origin.owner == self._tracer.owner

    def _left(self) -> list[tuple[Opening | None, str]]:
        origins = self._tracer.origins
        return [
            (origins.get(handle), describe(handle.fd))
            for handle in sorted(open_handles() - self._before)
            if self._is_mine(origins.get(handle))
        ]

    def _in_children(self) -> list[tuple[Opening | None, str]]:
        by_inode = {handle.inode: origin for handle, origin in self._tracer.origins.items()}
        found: list[tuple[Opening | None, str]] = []
        for pid in sorted(_descendants() - self._children):
            for fd, inode in _sockets_of(pid):
                if inode in by_inode:
                    child = f"descriptor {fd} of process {pid} ({command_of(pid)})"
                    found.append((by_inode[inode], child))
        return found

    def _fault(self, what: str, told: list[str], frames: tuple[SourceLine, ...]) -> str:
        count = "a socket" if len(told) == 1 else f"{len(told)} sockets"
        if any(frame.function == "_make_self_pipe" for frame in frames):
            count = "an event loop, with its self-pipe,"
        if not frames:
            where = ", not by Python's socket.socket: where is not known"
        else:
            where = f", opened at {self._place(_users(frames))}"
        lines = [f"{count} {what}{where}", *(f"    {each}" for each in told)]
        lines += [f"    {self._place(frame)} in {frame.function}" for frame in reversed(frames)]
        return "\n".join(lines)

    def _place(self, frame: SourceLine) -> str:
        return f"{frame.file.removeprefix(self._root + os.sep)}:{frame.line}"


def _users(frames: tuple[SourceLine, ...]) -> SourceLine:
    """Return the innermost line that is not of a library, or else the innermost."""
    for frame in frames:
        if "site-packages" not in frame.file and not frame.file.startswith(_LIBRARIES):
            return frame
    return frames[0]


def _grouped(
    found: Iterable[tuple[Opening | None, str]],
) -> dict[tuple[SourceLine, ...], list[str]]:
    """Return those that were opened at one place together."""
    groups: dict[tuple[SourceLine, ...], list[str]] = {}
    for origin, told in found:
        groups.setdefault(origin.frames if origin is not None else (), []).append(told)
    return groups


def _blame(reports: list[pytest.TestReport], faults: str) -> None:
    """Have the test fail for them; one that fails anyway tells of them beside its own failure."""
    report = next((each for each in reports if each.when == "call"), reports[0])
    if report.outcome == "failed" or hasattr(report, "wasxfail"):
        report.sections.append(("sockets left by the test", faults))
        return
    report.outcome = "failed"
    report.longrepr = faults


def _other_threads() -> frozenset[int]:
    return frozenset(
        thread.ident for thread in threading.enumerate() if thread.ident is not None
    ) - {threading.get_ident()}


def _descendants() -> set[int]:
    """Return the living processes that this one, or one of its children, has started."""
    found: set[int] = set()
    unseen = [os.getpid()]
    while unseen:
        for pid in _children(unseen.pop()):
            if pid not in found:
                found.add(pid)
                unseen.append(pid)
    return found


def _children(pid: int) -> set[int]:
    """Return the children of all threads of a process (proc(5))."""
    found: set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        return found  # it has ended
    return found


def _sockets_of(pid: int) -> list[tuple[int, int]]:
    """Return descriptor and inode of each socket of a process, none when it has ended."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    found = []
    for name in names:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue  # closed since it was listed, and others are not
        if link.startswith("socket:["):
            found.append((int(name), int(link[8:-1])))
    return found
