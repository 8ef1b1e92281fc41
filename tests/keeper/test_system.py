"""What the keeper knows of processes it knows of the kernel, not of what somebody wrote."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from socketkeep._keeper.loop import _system
from tests.harness.seam import make_board

_MAPS: str = """
import mmap, os, sys
memory = mmap.mmap(int(sys.argv[1]), 0)
print("mapped", flush=True)
sys.stdin.read()
"""


@contextmanager
def mapping(memfd: int) -> Iterator[int]:
    """Run a process that has the memfd mapped, and no descriptor of it; yield its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MAPS, str(memfd)],
        pass_fds=[memfd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.communicate(timeout=10)


def test_whose_a_process_is_its_maps_show() -> None:
    (memfd, _), (other, _) = make_board(4), make_board(4)
    plain = os.memfd_create("not-a-scoreboard")
    os.ftruncate(plain, 4096)
    system = _system.System()
    try:
        with mapping(memfd) as pid, mapping(plain) as stranger:
            assert system.has_mapped(pid, memfd, child=False)
            assert not system.has_mapped(pid, other, child=True)
            assert not system.has_mapped(stranger, plain, child=True)
            for number in (stranger, os.getppid(), 0, -1, 2**22, 2**64):
                assert not system.has_mapped(number, memfd, child=True)
        assert not system.has_mapped(pid, memfd, child=True), "it has ended"
    finally:
        for fd in (memfd, other, plain):
            os.close(fd)


_TREE: str = """
import os, sys, time
from socketkeep._base import _prctl
from socketkeep._keeper.loop import _system
_prctl.set_child_subreaper()
system, pid = _system.System(), os.getpid
def child(then):
    read, write = os.pipe()
    found = os.fork()
    if found == 0:
        then(lambda text: os.write(write, b"%d " % text))
        os.write(write, b"\\n")
        while True: time.sleep(60)
    data = b""
    while not data.endswith(b"\\n"): data += os.read(read, 100)
    return [found, *map(int, data.split())]
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _TREE + program],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout


def test_only_what_a_template_has_forked_is_of_it() -> None:
    """Itself or by a process between, which may have exited; no other's child, and no stranger."""
    said = run("""
def template(say):
    os.setpgid(0, 0)
    worker = os.fork()
    if worker == 0: time.sleep(60)
    say(worker)
    between = os.fork()
    if between == 0:
        orphan = os.fork()
        if orphan == 0: time.sleep(60)
        say(orphan); os._exit(0)
    os.waitpid(between, 0)
found, worker, orphan = child(template)
other, = child(lambda say: None)
print([system.is_forked_by(each, found) for each in (worker, orphan)])
strangers = (other, found, pid(), os.getppid(), 1, 0, -1, 2**22, 2**64)
print([each for each in strangers if system.is_forked_by(each, found)])
print(system.end_descendants() >= 4, system.end_descendants())
""")
    assert said.splitlines() == ["[True, True]", "[]", "True 0"]


def test_by_force_everything_below_is_ended_and_nothing_beside_it() -> None:
    """Children and theirs, in sessions of their own, deaf to signals, or stopped."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as beside:
        said = run("""
import signal
def deaf(say):
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        try: signal.signal(number, signal.SIG_IGN)
        except (ValueError, OSError): pass
    os.setsid()
    grandchild = os.fork()
    if grandchild == 0:
        os.setsid()
        while True: time.sleep(60)
    say(grandchild)
one, below = child(deaf)
two, = child(lambda say: None)
os.kill(two, signal.SIGSTOP)
print(system.end_descendants())
for each in (one, two, below): print(os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]))
""")
        assert said.split() == ["3", *([str(-signal.SIGKILL)] * 3)]
        assert beside.poll() is None
        beside.communicate(timeout=10)


def test_a_process_that_ends_meanwhile_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(10)
    assert not _system.System().is_forked_by(process.pid, os.getpid())


_HOLDING: str = """
import os, socket, subprocess, sys
from socketkeep._keeper.loop import _system
fd = int(sys.argv[1])
inode = os.fstat(fd).st_ino
child = subprocess.Popen(
    [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
    pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)
child.stdout.readline()
for _ in sys.stdin:
    others, _ = _system.System().held_by_others({inode, 1})
    print(others == {inode}, others == set(), flush=True)
child.communicate()
"""


def test_who_holds_a_listener_besides_this_process_and_those_below_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLDING, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            for answer in ("True False", "False True"):
                process.stdin.write("?\n")
                process.stdin.flush()
                assert process.stdout.readline().strip() == answer
                listener.close()
            process.stdin.close()


def test_whose_fork_it_is_while_the_one_between_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent that was read may have gone at the next look; then the group tells."""
    keeper, template, between, worker = os.getpid(), 50, 51, 52
    looks = iter([(between, template), (0, 0), (keeper, template)])
    monkeypatch.setattr(_system, "_parent_and_group", lambda _pid: next(looks))
    assert _system.System().is_forked_by(worker, template)
    looks = iter([(between, template), (0, 0), (keeper, 49)])
    assert not _system.System().is_forked_by(worker, template)
    looks = iter([(0, 0)])
    assert not _system.System().is_forked_by(worker, template)
