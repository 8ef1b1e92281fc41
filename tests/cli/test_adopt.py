"""`socketkeep adopt`: real servers, any program's, whose listener another goes on with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.cli.conftest import Cli
from tests.harness import Server, connect, read_to_end, write_source
from tests.inspect.support import HOST, acting, wait_for
from tests.server.support import as_other_user, complaint

_HANDLER = """
def handle(conn):
    conn.recv_until(b"\\r\\n\\r\\n", max=65536)
    conn.send(b"HTTP/1.0 200 OK\\r\\nServer: the-new\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""
_REQUEST = b"GET / HTTP/1.0\r\n\r\n"


@pytest.fixture
def target(tmp_path: Path) -> str:
    """A handler that answers a request of HTTP, and says in it who it is."""
    return write_source(tmp_path, _HANDLER)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


class AdoptingServer(Server):
    """``socketkeep adopt ADDRESS --from PID ... -- serve TARGET``."""

    def __init__(
        self, directory: Path, target: str, address: str, pids: Sequence[int], *options: str
    ) -> None:
        super().__init__(directory, target, *options)
        at = self._command.index("--bind")
        del self._command[at : at + 2]
        at = self._command.index("serve")
        pairs = [part for pid in pids for part in ("--from", str(pid))]
        self._command[at:at] = ["adopt", address, *pairs, "--"]


class Clients:
    """Two clients that connect, ask and read, one connection after the other, until told to stop.

    It counts who answered, and what went wrong when connecting and after it.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()
        self.refused: list[OSError] = []
        self.broken: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Connect no more; called while a server is there to answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        for _ in range(5000):
            # So that it is a bounded load.
            if self._stop.wait(0.002):
                return
            try:
                client = connect(self._address)
            except OSError as error:
                self.refused.append(error)
                continue
            with client:
                try:
                    client.sendall(_REQUEST)
                    reply = read_to_end(client)
                except OSError as error:
                    self.broken.append(repr(error))
                    continue
            who = [line for line in reply.splitlines() if line.lower().startswith(b"server:")]
            if who:
                self.answers[who[0].split()[1].decode().partition("/")[0]] += 1
            else:
                self.broken.append(f"answered {reply!r}")

    def wait_for(self, who: str, more: int = 20) -> None:
        enough = self.answers[who] + more
        wait_for(lambda: self.answers[who] >= enough, f"{more} answers of {who}", timeout=30)


@contextmanager
def running(
    command: Sequence[str], directory: Path, address: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run another server; it has ended when the context ends."""
    with (directory / "old.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: answers(address), f"{command} to listen", timeout=30)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def answers(address: str) -> bool:
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def http_server(directory: Path, address: str) -> list[str]:
    host, port = address.rsplit(":", 1)
    return [sys.executable, "-m", "http.server", "--bind", host, port]


def gunicorn(directory: Path, address: str) -> list[str]:
    (directory / "old.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '0')])\n"
        "    return [b'']\n"
    )
    options = ["--no-control-socket"] if _has_control_socket() else []
    return [sys.executable, "-m", "gunicorn", "-w", "2", "-b", address, *options, "old:app"]


def _has_control_socket() -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--help"], capture_output=True, check=True
    )
    return b"--no-control-socket" in done.stdout


def nginx(directory: Path, address: str, more: str = "") -> list[str]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "nginx is not installed: make packages"
    places = "".join(
        f"{kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 2; pid {directory}/pid; error_log {directory}/errors;\n"
        f"events {{ }}\nhttp {{\n{places}access_log off;\n"
        f"server {{ listen {address} {more}; return 200 'old'; }}\n}}\n"
    )
    return [program, "-e", f"{directory}/errors", "-p", str(directory), "-c", "nginx.conf"]


@pytest.mark.timeout(180)  # three servers start, one after the other, beside the load
@pytest.mark.parametrize(
    ("program", "name", "stop"),
    [
        (http_server, "SimpleHTTP", signal.SIGTERM),
        (gunicorn, "gunicorn", signal.SIGTERM),
        (nginx, "nginx", signal.SIGQUIT),
    ],
)
def test_a_server_is_replaced_under_load(
    program: object, name: str, stop: signal.Signals, tmp_path: Path, target: str
) -> None:
    """Not one connection is refused while the new one starts and the old one stops."""
    assert callable(program)
    address = f"{HOST}:{free_port()}"
    with ExitStack() as stack:
        old = stack.enter_context(running(program(tmp_path, address), tmp_path, address))
        clients = stack.enter_context(Clients(address))
        clients.wait_for(name)
        options = ("--backlog", "77")
        new = stack.enter_context(AdoptingServer(tmp_path, target, address, [old.pid], *options))
        clients.wait_for("the-new")
        clients.wait_for(name)  # both serve
        broken_before = list(clients.broken)
        old.send_signal(stop)
        old.wait(20)
        clients.wait_for("the-new", 40)
        (listener,) = new.ask("listeners")
        assert (listener["address"], listener["backlog"]) == (address, 77)
        if program is gunicorn:  # once is enough: the old one is gone
            new.reload()
            assert new.cli("upgrade").exit_code == 0
            clients.wait_for("the-new", 40)
        clients.stop()
    assert clients.refused == []
    assert broken_before == []
    if program is not http_server:  # which ends in the middle of what it answers
        assert clients.broken == []


def test_all_of_a_group_are_taken(tmp_path: Path, target: str) -> None:
    """nginx with reuseport listens once for each worker; a queue that is left would be lost."""
    address = f"{HOST}:{free_port()}"
    with ExitStack() as stack:
        command = nginx(tmp_path, address, "reuseport")
        old = stack.enter_context(running(command, tmp_path, address))
        clients = stack.enter_context(Clients(address))
        new = stack.enter_context(AdoptingServer(tmp_path, target, address, [old.pid]))
        clients.wait_for("the-new")
        old.send_signal(signal.SIGQUIT)
        old.wait(20)
        clients.wait_for("the-new", 40)
        assert [each["address"] for each in new.ask("listeners")] == [address, address]
        clients.stop()
    assert (clients.refused, clients.broken) == ([], [])


def test_a_member_of_another_process_is_named(cli: Cli) -> None:
    """What waits in a listener that is not adopted would be lost when its process stops."""
    with acting() as first, acting() as second:
        listen = (
            "listener = socket.socket()\n"
            "listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
            "listener.bind(('{}', {})); listener.listen(); out = listener.getsockname()[1]"
        )
        port = first.do(listen.format(HOST, 0))
        second.do(listen.format(HOST, port))
        finished = cli("adopt", f"{HOST}:{port}", "--from", f"{first.pid}", "--", "serve", "x:y")
        told = complaint(finished, 1)
        assert told.startswith(f"process {second.pid} (")
        assert told.endswith(f"lost when it stops: add --from {second.pid}")


def test_unix_by_a_relative_path(tmp_path: Path, target: str) -> None:
    """The path is relative to where the old server is, and is said whole."""
    program = (
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('old'); s.listen();"
        "s.setblocking(False); time.sleep(100)"
    )
    address = f"unix:{tmp_path}/old"
    with running([sys.executable, "-c", program], tmp_path, address) as old:
        # Its own --bind is the same listener.
        new = AdoptingServer(tmp_path / "new", target, address, [old.pid], "--bind", address)
        with new:
            old.kill()
            old.wait(20)
            with connect(address) as client:
                client.sendall(_REQUEST)
                assert b"the-new" in read_to_end(client)
            assert new.status()["listeners"][0]["backlog"] > 0
            assert len(new.ask("listeners")) == 1


def test_nothing_is_adopted_where_it_does_not_listen(cli: Cli) -> None:
    with acting() as actor:
        port = actor.listen()
        other = actor.do(f"more = socket.create_server(('{HOST}', 0)); out = more.getsockname()[1]")
        wanted = f"{HOST}:{free_port()}"
        finished = cli("adopt", wanted, "--from", f"{actor.pid}", "--", "serve", "x:y")
        assert complaint(finished, 1) == (
            f"process {actor.pid} does not listen on {wanted}, but on {HOST}:{port}, {HOST}:{other}"
        )
        with acting() as idle:
            wanted = f"{HOST}:{port}"
            finished = cli("adopt", wanted, "--from", f"{idle.pid}", "--", "serve", "x:y")
            told = complaint(finished, 1)
            assert told.startswith(
                f"process {idle.pid} does not listen on {wanted}, but on nothing; "
                f"{wanted} is held by process {actor.pid} ("
            )


def test_a_blocking_accept_is_not_broken(tmp_path: Path, target: str, cli: Cli) -> None:
    """The flag is the socket's, and its accept would fail when nothing waits."""
    address = f"{HOST}:{free_port()}"
    host, port = address.rsplit(":", 1)
    program = f"import socket; s = socket.create_server(('{host}', {port}))\nwhile 1: s.accept()"
    with running([sys.executable, "-c", program], tmp_path, address) as old:
        in_accept = Path(f"/proc/{old.pid}/syscall")
        wait_for(lambda: in_accept.read_text()[:4] in ("43 0", "288 ", "202 ", "242 "), "accept")
        arguments = ("adopt", address, "--from", f"{old.pid}", "--", "serve", target)
        told = complaint(cli(*arguments), 1)
        assert told.startswith(f"process {old.pid} waits in accept(2) on {address}")
        finished = cli(*arguments[:2], "--force", *arguments[2:], "--check-config")
        assert finished.exit_code == 0, finished
        assert old.poll() is None


def test_usage(cli: Cli) -> None:
    told = complaint(cli("adopt", ":8000", "--from", "1"), 2)
    assert told.startswith("say after -- what shall serve: socketkeep adopt :8000 --from 1 -- ")
    assert "Missing option '--from'" in complaint(cli("adopt", ":8000", "--", "serve", "x:y"), 2)
    assert "no process 4194303" in complaint(
        cli("adopt", ":8000", "--from", "4194303", "--", "serve", "x:y"), 1
    )
    fd = cli("adopt", "fd://3", "--from", f"{os.getpid()}", "--", "serve", "x:y")
    assert complaint(fd, 2) == "'fd://3' is not an address that a server listens on"


def test_the_missing_right_is_named(cli: Cli) -> None:
    with acting() as actor:
        port = actor.listen()
        command = [*as_other_user(), sys.executable, "-m", "socketkeep", "adopt", f"{HOST}:{port}"]
        command += ["--from", f"{actor.pid}", "--", "serve", "x:y"]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 1
        assert finished.stderr.startswith(
            f"socketkeep: error: no right to trace process {actor.pid} ("
        )
        assert "run this as root (sudo), which has CAP_SYS_PTRACE" in finished.stderr
        assert finished.stderr.count("\n") == 1
