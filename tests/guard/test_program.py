"""The guard alone, in Python and compiled, with a keeper that is a few lines."""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from socketkeep._guard._program import APART, NAMES, RENEW, SIDECAR_VERSION, Plan
from tests.guard.support import PROGRAMS

#: More words than a socket has room for.
MANY: Final = 1000

#: Every keeper's: it is told what it is, and can tell the guard.
BEGINNING: Final = """
import array, json, os, signal, socket, sys, time

address = os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1)
guard, soft, starts, cause = os.environ["SOCKETKEEP_GUARDED"].split(" ", 3)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
signal.pthread_sigmask(signal.SIG_SETMASK, ())

def tell(*words, fds=()):
    rights = array.array("i", fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
    sock.sendmsg(["\\n".join(words).encode()], ancillary, 0, address)

def memory(text):
    fd = os.memfd_create("stored")
    os.write(fd, text.encode())
    return fd

def store(name, text):
    fd = memory(text)
    tell("FDSTORE=1", "FDPOLL=0", f"FDNAME={name}", fds=[fd])
    os.close(fd)

def stored():
    # What is given back: contents by names.
    given = os.environ["LISTEN_FDNAMES"].split(":")
    names = os.pread(3 + len(given) - 1, 1 << 20, 0).decode().split("\\0")
    names = [name for name in names if name]
    first = 3 + len(given)
    return {name: os.pread(first + n, 200, 0).decode() for n, name in enumerate(names)}

def report(**told):
    with open(sys.argv[1] + ".new", "w") as file:
        json.dump(told, file)
    os.rename(sys.argv[1] + ".new", sys.argv[1])
"""

KEEPER: Final = (
    BEGINNING
    + """
NUMBER = 4000

if starts == "0":
    for number in range(NUMBER):
        name = f"socketkeep.connection.{number:08x}-{number}-{number}.1"
        store(name, name)
        if number % 2:
            tell("FDSTOREREMOVE=1", f"FDNAME={name}")
    # Not the keeper's own word.
    if os.fork() == 0:
        tell("FDSTORE=1", "FDNAME=foreign", fds=[0])
        os._exit(0)
    os.wait()
    tell("READY=1")
    os.kill(os.getpid(), signal.SIGKILL)
if starts == "1":
    sys.exit(2)  # it cannot even begin, and what the one before it has left stays

given = os.environ["LISTEN_FDNAMES"].split(":")
found = stored()
report(
    count=int(os.environ["LISTEN_FDS"]), given=given, names=len(found),
    right=sum(name == text for name, text in found.items()),
    starts=starts, cause=cause, soft=soft, foreign="foreign" in found,
    pid=os.environ["LISTEN_PID"] == str(os.getpid()), cwd=os.getcwd(),
    passed=os.pread(3, 100, 0).decode(),
)
tell("STOPPING=1")
sys.exit(3)
"""
)

#: Has the guard become another program, and that one this again, with what is stored.
CHANGING: Final = (
    BEGINNING
    + """
def command():
    with open(f"/proc/{guard}/cmdline", "rb") as file:
        return file.read().split(b"\\0")[0].decode()

if starts == "0":
    for name in ("one", "two"):
        store(name, name)
    for program in sys.argv[2:]:
        before = open(f"/proc/{guard}/cmdline", "rb").read()
        tell(program)
        while open(f"/proc/{guard}/cmdline", "rb").read() in (before, b""):
            time.sleep(0.001)
        store(f"by {command()}", "")
    tell("READY=1")
    os.kill(os.getpid(), signal.SIGKILL)
report(stored=stored(), now=command(), starts=starts, guard=guard)
"""
)

#: A keeper that starts a guard in the place of one that has died, as its own child.
PARENT: Final = """
import json, os, socket, sys
from socketkeep._guard._program import Plan

program, command = json.loads(sys.argv[1])
own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
own.bind("")
own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
plan = Plan()
plan.keeper, plan.socket, plan.most, plan.ready = os.getpid(), own.fileno(), 10, 1
plan.directory = os.getcwd()
stored = os.memfd_create("stored")
os.write(stored, b"from before")
plan.stored = {"one": stored, "two": os.dup(stored)}
plan.sidecar, plan.name = sys.argv[2:] or ("", "")
fd = plan.write()
pid = os.fork()
if pid == 0:
    os.execv(program[0], [*program, str(fd), *command])
print(pid, flush=True)
for line in sys.stdin:
    words = line.strip().encode()
    own.sendto(words, own.getsockname())
    print("told", flush=True)
"""

#: Says once what it was given.
REPORTING: Final = (
    BEGINNING
    + """
report(stored=stored(), starts=starts, cause=cause, guard=guard, parent=os.getppid())
tell("READY=1")
tell("STOPPING=1")
"""
)


@pytest.fixture(params=PROGRAMS.values(), ids=[Path(name).name for name in PROGRAMS])
def program(request: pytest.FixtureRequest) -> list[str]:
    """The commands by which a guard is executed."""
    found: list[str] = request.param
    return found


@contextmanager
def planned(**fields: Any) -> Iterator[Plan]:
    """Yield a plan, with a socket of its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        plan = Plan()
        # It starts the first keeper itself.
        plan.socket, plan.most, plan.directory, plan.starts = own.fileno(), 3000, os.getcwd(), -1
        vars(plan).update(fields)
        yield plan


def keeper(directory: Path, script: str) -> tuple[list[str], Path]:
    """Return the command of a keeper, and where it reports."""
    file, told = directory / "keeper.py", directory / "told.json"
    file.write_text(script)
    return [sys.executable, "-I", "-S", str(file), str(told)], told


def start(program: list[str], plan: Plan, command: list[str]) -> subprocess.Popen[bytes]:
    fd = plan.write()
    try:
        return subprocess.Popen(
            [*program, str(fd), *command],
            pass_fds=[fd, plan.socket, *plan.passed, *plan.stored.values()],
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(fd)


def report(path: Path) -> dict[str, Any]:
    """Return what a keeper reports, once it does."""
    deadline = time.monotonic() + 20.0
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def test_it_gives_back_what_it_was_given(tmp_path: Path, program: list[str]) -> None:
    """More than the variable with the names has room for; from the keeper alone, and no more."""
    command, told = keeper(tmp_path, KEEPER)
    given = os.memfd_create("given")
    os.write(given, b"passed by somebody")
    with planned(soft=99, directory=str(tmp_path), passed={given: "http"}) as plan:
        done = start(program, plan, command)
    os.close(given)
    _, said = done.communicate(timeout=60)
    assert (done.returncode, said) == (3, b"")
    assert report(told) == {
        "count": 2002,
        "given": ["http", NAMES],
        "names": 2000,
        "right": 2000,
        "starts": "2",
        "cause": "exit code 2",
        "soft": "99",
        "foreign": False,
        "pid": True,
        "cwd": str(tmp_path),
        "passed": "passed by somebody",
    }


def test_one_becomes_the_other(tmp_path: Path, program: list[str]) -> None:
    """And back, with its pid and all that is stored; not what does not run."""
    command, told = keeper(tmp_path, CHANGING)
    other = [each for each in PROGRAMS.values() if each != program] or [program]
    words = [f"{RENEW}={APART.join(each)}" for each in (*other, program)]
    with planned() as plan:
        done = start(program, plan, [*command, *words])
    _, said = done.communicate(timeout=60)
    assert (done.returncode, said) == (0, b"")
    assert report(told) == {
        "stored": {"one": "one", "two": "two", f"by {other[0][0]}": "", f"by {program[0]}": ""},
        "now": program[0],
        "starts": "1",
        "guard": str(done.pid),
    }


def test_it_stays_as_it_is_where_the_next_one_does_not_run(
    tmp_path: Path, program: list[str]
) -> None:
    script = (
        BEGINNING
        + f"""
tell("{RENEW}={os.devnull}")
tell("READY=1")
signal.pause()
"""
    )
    command, _ = keeper(tmp_path, script)
    with planned() as plan:
        done = start(program, plan, command)
    assert done.stderr is not None
    said = done.stderr.readline()
    assert b"cannot execute" in said or b"stays as it is" in said, said
    done.terminate()
    done.communicate(timeout=20)
    assert done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


@pytest.mark.parametrize("stops", [False, True])
def test_one_that_is_the_keepers_child(tmp_path: Path, program: list[str], stops: bool) -> None:
    """It starts another keeper when its parent has died, unless that was to end."""
    command, told = keeper(tmp_path, REPORTING)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps([program, command])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    guard = int(parent.stdout.readline())
    pidfd = os.pidfd_open(guard)
    try:
        parent.stdin.write(b"STOPPING=1\n" if stops else b"WATCHDOG=1\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == b"told\n"
        parent.kill()
        parent.wait(10)
        parent.stdin.close()
        parent.stdout.close()
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(20_000), "the guard has not ended"
    finally:
        os.close(pidfd)
    if stops:
        assert not told.exists()
    else:
        assert report(told) == {
            "stored": {"one": "from before", "two": "from before"},
            "starts": "1",
            "cause": "not known",
            "guard": str(guard),
            "parent": guard,
        }


def test_a_keeper_that_dies_at_once_with_a_sidecar(tmp_path: Path, program: list[str]) -> None:
    """Its guard, which it has started in the place of another, has had no time to say anything.

    The next keeper gets all; the sidecar keeps what it has until it has all that the guard has.
    """
    command, told = keeper(tmp_path, REPORTING)
    path = str(tmp_path / "sidecar.sock")
    with listening(path) as listener:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, json.dumps([program, command]), path, "app"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with parent, accept(listener) as sidecar:
            assert sidecar.recv(1000) == f"HELLO={SIDECAR_VERSION}\nSERVER=app".encode()
            parent.kill()
            parent.wait(10)
            for name in ("earlier", "two"):
                hand(sidecar, name)
            sidecar.send(b"END=1")
            assert hear(sidecar) == ("FDSTORE=1\nFDNAME=one", "from before")
            assert hear(sidecar) == ("FDSTOREREMOVE=1\nFDNAME=earlier", "")
            assert report(told)["stored"] == {"one": "from before", "two": "from before"}


def test_a_sidecar(tmp_path: Path, program: list[str]) -> None:
    """The keeper gets what it holds; it holds what the keeper stores, and anew when it is back."""
    script = (
        BEGINNING
        + """
store("new", "new")
tell("FDSTOREREMOVE=1", "FDNAME=dropped")
tell("READY=1")
report(stored=stored(), starts=starts)
signal.pause()
"""
    )
    command, told = keeper(tmp_path, script)
    path = str(tmp_path / "sidecar.sock")
    with (
        listening(path) as listener,
        planned(sidecar=path, name="app", starts=0) as plan,
    ):
        done = start(program, plan, command)
        hello = f"HELLO={SIDECAR_VERSION}\nSERVER=app".encode()
        with accept(listener) as sidecar:
            assert sidecar.recv(1000) == hello
            for name in ("kept", "dropped"):
                hand(sidecar, name)
            sidecar.send(b"END=1")
            assert report(told) == {"stored": {"kept": "kept", "dropped": "dropped"}, "starts": "0"}
            assert [hear(sidecar), hear(sidecar)] == [
                ("FDSTORE=1\nFDNAME=new", "new"),
                ("FDSTOREREMOVE=1\nFDNAME=dropped", ""),
            ]
        with accept(listener) as sidecar:
            assert sidecar.recv(1000) == hello
            for name in ("stale", "kept"):
                hand(sidecar, name)
            sidecar.send(b"END=1")
            # It has all before what is stale goes, and all that had found no room afterwards.
            assert [hear(sidecar) for _ in range(4)] == [
                ("FDSTORE=1\nFDNAME=new", "new"),
                ("FDSTOREREMOVE=1\nFDNAME=stale", ""),
                ("FDSTORE=1\nFDNAME=kept", "kept"),
                ("FDSTORE=1\nFDNAME=new", "new"),
            ]
            done.terminate()
            _, said = done.communicate(timeout=20)
    assert done.returncode == -signal.SIGTERM
    assert said.decode().splitlines() == [
        f"socketkeep: guard: the guard at {path} is gone: it has ended",
        "socketkeep: guard: the guard of app holds it again: 2 descriptors",
    ]


def test_a_barrier_is_passed_when_the_sidecar_has_what_came_before(
    tmp_path: Path, program: list[str]
) -> None:
    """And at once where there is nothing to wait for."""
    script = (
        BEGINNING
        + f"""
import select

def passed(seconds):
    here, there = os.pipe()
    tell("BARRIER=1", fds=[there])
    os.close(there)
    poller = select.poll()
    poller.register(here)
    return here, bool(poller.poll(seconds * 1000))

first = passed(20)[1]
for number in range({MANY}):
    store(f"stored.{{number}}", "")
here, early = passed(0.3)
report(first=first, early=early)
os.read(here, 1)
tell("READY=1")
tell("STOPPING=1")
"""
    )
    command, told = keeper(tmp_path, script)
    path = str(tmp_path / "sidecar.sock")
    with (
        listening(path) as listener,
        planned(sidecar=path, name="app", starts=0) as plan,
    ):
        done = start(program, plan, command)
        with accept(listener) as sidecar:
            assert sidecar.recv(1000)
            sidecar.send(b"END=1")
            assert report(told) == {"first": True, "early": False}
            names = [hear(sidecar)[0] for _ in range(MANY)]
            assert names[-1] == f"FDSTORE=1\nFDNAME=stored.{MANY - 1}"
            done.communicate(timeout=20)
    assert done.returncode == 0


def test_a_sidecar_that_refuses(tmp_path: Path, program: list[str]) -> None:
    """Is told in one line, and no keeper is started."""
    command, told = keeper(tmp_path, REPORTING)
    path = str(tmp_path / "sidecar.sock")
    with (
        listening(path) as listener,
        planned(sidecar=path, name="app", starts=0) as plan,
    ):
        done = start(program, plan, command)
        with accept(listener) as sidecar:
            assert sidecar.recv(1000)
            hand(sidecar, "kept")
            sidecar.send(b"REFUSED=there is another")
            _, said = done.communicate(timeout=20)
    assert done.returncode == 1
    assert said == f"socketkeep: guard: cannot use the guard at {path}: there is another\n".encode()
    assert not told.exists()


def test_a_sidecar_that_is_not_there(tmp_path: Path, program: list[str]) -> None:
    command, told = keeper(tmp_path, REPORTING)
    with planned(sidecar=f"{tmp_path}/none", name="app", starts=0) as plan:
        done = start(program, plan, command)
    _, said = done.communicate(timeout=20)
    assert done.returncode == 1
    assert said.decode() == (
        f"socketkeep: guard: cannot use the guard at {tmp_path}/none: No such file or directory:"
        " start it there first, by socketkeep guard --listen\n"
    )
    assert not told.exists()


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Listen as a sidecar does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(20.0)
        yield listener


def accept(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.settimeout(20.0)
    return sock


def hand(sidecar: socket.socket, name: str) -> None:
    """Give the guard a descriptor with its name in it."""
    fd = os.memfd_create(name)
    os.write(fd, name.encode())
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sidecar.sendmsg([f"FDNAME={name}".encode()], rights)
    os.close(fd)


def hear(sidecar: socket.socket) -> tuple[str, str]:
    """Return what the guard says, and what is in the descriptor that comes with it."""
    words, fds, _, _ = socket.recv_fds(sidecar, 1000, 1)
    text = ""
    for fd in fds:
        text = os.pread(fd, 1000, 0).decode()
        os.close(fd)
    return words.decode(), text


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Three descriptors."""
    found = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)]
    yield found
    for fd in found:
        os.close(fd)


def test_a_plan_is_read_as_it_was_written(fds: list[int]) -> None:
    plan = Plan()
    plan.keeper, plan.socket, plan.most, plan.soft, plan.starts, plan.ready = 7, fds[0], 9, 10, 2, 1
    plan.directory, plan.cause = "/srv/a b=c", "killed by signal 9"
    plan.passed, plan.stored = {fds[1]: "http=1"}, {"socketkeep.connection.a-1-1.2": fds[2]}
    written = plan.write()
    assert all(os.get_inheritable(fd) for fd in (written, *fds))
    assert vars(Plan.read(written)) == vars(plan)
    assert not any(os.get_inheritable(fd) for fd in fds)


def test_a_keeper_is_told_of_its_guard() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("")
        plan = Plan()
        plan.socket, plan.most, plan.soft, plan.starts = own.fileno(), 9, 1024, 2
        plan.cause = "exit code 1"
        variables = plan.variables(12, 13)
        assert variables["NOTIFY_SOCKET"] == "@" + own.getsockname()[1:].decode()
    assert variables["WATCHDOG_PID"] == "13"
    assert variables["SOCKETKEEP_GUARDED"] == "12 1024 2 exit code 1"


def test_the_guard_reads_nothing_of_the_package() -> None:
    """It must run whatever is installed by then."""
    with open(PROGRAMS[sys.executable][-1]) as file:
        assert "socketkeep._" not in file.read().replace("socketkeep._guard", "")
