"""`pytest --socket-leaks`: what fails and with which line, and what is not a test's fault."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

LEAKING = """
import asyncio, multiprocessing, os, socket, subprocess, sys, threading, time
import pytest
import socketkeep

kept = []

def opened():
    return socket.create_server(("127.0.0.1", 0))  # LINE opened

def test_returned():
    kept.append(opened())

def test_forgotten():
    socket.socket()  # LINE forgotten

def test_pair():
    kept.extend(socket.socketpair())  # LINE pair

def test_accepted():
    with opened() as listener:
        with socket.create_connection(listener.getsockname()):
            kept.append(listener.accept()[0])  # LINE accepted

def test_of_the_library():
    kept.append(socketkeep.Listener.bind("127.0.0.1:0"))  # LINE library

def test_duplicate():
    with opened() as listener:
        kept.append(listener.dup())  # LINE duplicate

def test_loop():
    kept.append(asyncio.new_event_loop())  # LINE loop

def test_child():
    with opened() as listener:
        listener.set_inheritable(True)
        # Its other descriptors come and go while it is looked at.
        code = (
            "import os; print('ready', flush=True)\\n"
            "while True: [os.close(fd) for fd in [os.open('/', 0) for _ in range(50)]]"
        )
        command = [sys.executable, "-c", code]
        fds = [listener.fileno()]
        kept.append(subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE))
        kept[-1].stdout.readline()

def test_in_a_thread():
    thread = threading.Thread(target=lambda: kept.append(socket.socket()))  # LINE thread
    thread.start()
    thread.join()

def test_no_object():
    kept.append(opened().detach())

@pytest.fixture
def own():
    kept.append(socket.socket())  # LINE fixture
    yield

def test_of_its_fixture(own):
    pass

def test_while_guarded():
    with socketkeep.guard_forks():
        kept.append(socket.socket())  # LINE guarded

def test_fails_anyway():
    kept.append(socket.socket())  # LINE anyway
    assert False, "for another reason"

def test_end():
    for each in kept:
        if isinstance(each, subprocess.Popen):
            each.kill()
            each.wait()
"""

CLEAN = """
import asyncio, socket, threading
import pytest
import socketkeep

@pytest.fixture(scope="module")
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = []

        def serve():
            while True:
                conn = listener.accept()[0]
                if conn.recv(1) != b"x":
                    break
                served.append(conn)  # and kept until the module ends

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        with socket.create_connection(listener.getsockname()) as last:
            last.sendall(b"y")
            thread.join()
        for conn in served:
            conn.close()

@pytest.fixture(scope="session")
def pool():
    with socket.socket() as sock:
        yield sock

@pytest.fixture
def own():
    with socket.socket() as sock:
        yield sock

def test_first(server, pool, own):
    with socket.create_connection(server) as client:
        client.sendall(b"x")

def test_second(server, pool, own):
    with socket.create_connection(server) as client:
        client.sendall(b"x")

def test_closed_a_little_later():
    sock = socket.socket()
    threading.Timer(0.1, sock.close).start()

def test_loop():
    async def run():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        async with server:
            pass
    asyncio.run(run())

@pytest.mark.xfail
def test_expected_to_fail():
    socket.socket()
    assert False

def test_skipped():
    pytest.skip("not here")
"""


def line_of(name: str) -> int:
    (found,) = (
        n for n, line in enumerate(LEAKING.splitlines(), 1) if line.endswith(f"# LINE {name}")
    )
    return found


@pytest.fixture(scope="module")
def leaking(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What is said of each test that leaks, by its name; from one run of all."""
    directory = tmp_path_factory.mktemp("leaking")
    (directory / "test_it.py").write_text(LEAKING)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--socket-leaks", "-v"]
    done = subprocess.run(
        [*command, "--rootdir", str(directory), "test_it.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "13 failed, 1 passed" in done.stdout, done.stdout
    said = done.stdout.partition("= FAILURES =")[2].partition("= short test summary")[0]
    parts = said.split("\n____")
    return {part.split()[1]: part for part in parts[1:]}


@pytest.mark.parametrize(
    ("test", "what", "line"),
    [
        ("test_returned", "a socket left open", "opened"),
        ("test_forgotten", "a socket forgotten, closed by Python's garbage collector", "forgotten"),
        ("test_pair", "2 sockets left open", "pair"),
        ("test_accepted", "a socket left open", "accepted"),
        ("test_of_the_library", "a socket left open", "library"),
        ("test_duplicate", "a socket left open", "duplicate"),
        ("test_loop", "an event loop, with its self-pipe, left open", "loop"),
        ("test_child", "a socket left open in a child process", "opened"),
        ("test_in_a_thread", "a socket left open", "thread"),
        ("test_no_object", "a socket left open", "opened"),
        ("test_of_its_fixture", "a socket left open", "fixture"),
        ("test_while_guarded", "a socket left open", "guarded"),
        ("test_fails_anyway", "a socket left open", "anyway"),
    ],
)
def test_what_is_left_fails_the_test(
    leaking: dict[str, str], test: str, what: str, line: str
) -> None:
    """By name of the file and the line that opened it, not that of the library it called."""
    assert f"{what}, opened at test_it.py:{line_of(line)}\n" in leaking[test]
    assert leaking[test].count("opened at") == 1


def test_the_rest_of_what_is_said(leaking: dict[str, str]) -> None:
    told = leaking["test_returned"]
    assert "INET STREAM 127.0.0.1:" in told
    assert f"    test_it.py:{line_of('opened')} in opened" in told
    assert "in test_returned" in told
    assert "for another reason" in leaking["test_fails_anyway"]
    assert "of process " in leaking["test_child"]


def test_what_is_no_tests_fault(pytester: pytest.Pytester) -> None:
    """Fixtures of wider scopes, threads that were there before, what is closed a moment later."""
    pytester.makepyfile(CLEAN)
    result = pytester.runpytest_subprocess("--socket-leaks")
    result.assert_outcomes(passed=4, xfailed=1, skipped=1)
    assert result.ret == 0


def test_off(pytester: pytest.Pytester) -> None:
    """Without the option nothing is watched, and nothing is imported for it."""
    pytester.makepyfile(
        "import socket, sys\n"
        "def test_it():\n"
        "    global kept\n"
        "    kept = socket.socket()\n"
        "    assert '__del__' not in vars(socket.socket)\n"
        "    assert 'socketkeep._testing._socket_leaks' not in sys.modules\n"
        "    assert {name for name in sys.modules if name.startswith('socketkeep')} <= {\n"
        "        'socketkeep', 'socketkeep._testing', 'socketkeep._testing._pytest_plugin'}\n"
    )
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    result.assert_outcomes(passed=1)
