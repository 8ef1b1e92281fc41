"""Every command that a page shows is run: here, by the tutorial's test, or as the table says."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.admin.web import admin_port
from tests.documentation.pages import ROOT, Shown, blocks, commands, name_of, pages
from tests.harness import Server, connect, read_reply
from tests.harness.command import main

#: The tests of other folders that run commands of a page: by the page and how the command begins.
RUN_BY: Final = {
    ("README", "make"): "Makefile",
    ("how-to/another-user", "socketkeep serve"): "tests/server/test_other_user.py",
    ("how-to/cluster", ""): "tests/cluster/test_examples.py",
    ("how-to/containers", "socketkeep guard"): "tests/conformance/test_contrib.py",
    ("how-to/containers", "kubectl"): "tests/conformance/test_contrib.py",
    ("how-to/deploy", ""): "tests/server/test_reload_report.py",
    ("how-to/errors-and-traces", ""): "tests/telemetry/test_page.py",
    ("how-to/existing-code", ""): "tests/serve/test_existing_code_page.py",
    ("how-to/inspect", ""): "tests/inspect/test_why.py",
    ("how-to/shell", "socketkeep disconnect"): "tests/cli/test_completion.py",
    ("how-to/socket-leaks-in-tests", "pytest"): "tests/plugin/test_socket_leaks.py",
    ("how-to/systemd", "apt install"): "tests/package/test_debian.py",
    ("how-to/systemd", "contrib/debian/build"): "tests/package/test_debian.py",
    ("how-to/systemd", ""): "tests/systemd/real.py",
    ("how-to/take-over-a-port", ""): "tests/cli/test_adopt.py",
    ("how-to/asgi", "pip"): "Makefile",
    ("operations", "socketkeep"): "tests/peer/test_between_versions.py",
    ("performance", "make bench"): "tests/test_benchmarks.py",
    ("tutorial/first-server", "python3 -m venv"): "Makefile",
    ("tutorial/first-server", "env/bin/pip"): "Makefile",
    ("tutorial/first-server", ". env"): "Makefile",
}
#: The pages whose commands a test of this folder runs, in the order in which they stand there.
RUN_HERE: Final = (
    "how-to/find-why-it-does-not-close",
    "how-to/leave-a-node",
    "how-to/push",
    "how-to/roll-back",
    "how-to/several-workers",
    "how-to/size-a-server",
    "how-to/watch",
    "tutorial/deploy-new-code",
    "tutorial/deploy-under-load",
    "tutorial/first-server",
    "tutorial/survive-a-crash",
)
SHOWN: Final = [shown for page in pages() for shown in commands(name_of(page))]


def run_by(shown: Shown) -> str | None:
    """Return the test of another folder that runs a command."""
    for (page, beginning), test in RUN_BY.items():
        if page == shown.page and shown.command.startswith(beginning):
            return test
    return None


SERVES: Final = [
    shown for shown in SHOWN if shown.words[:2] == ["socketkeep", "serve"] and not run_by(shown)
]


def test_every_command_is_run() -> None:
    for shown in SHOWN:
        test = run_by(shown)
        if test is None:
            serves = shown in SERVES or shown.words[:2] == ["socketkeep", "reload"]
            assert serves or shown.page in RUN_HERE, f"{shown}: say in {__file__} who runs it"
        else:
            assert (ROOT / test).exists()


# `serve`: with --check-config, which does all but serve.

_ASGI = """
async def app(scope, receive, send):
    raise NotImplementedError
"""
_COUNTER = blocks("README", "python")[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the pages' servers need."""
    place = tmp_path_factory.mktemp("place")
    for example in ("chat", "gateway"):
        shutil.copy(ROOT / "examples" / f"{example}.py", place)
    for name in ("counter", "app"):
        (place / f"{name}.py").write_text(_COUNTER)
    (place / "module.py").write_text(_ASGI)
    (place / "server.toml").write_text(blocks("tutorial/deploy-under-load", "toml")[0])
    issued = trustme.CA().issue_cert("site.example")
    issued.private_key_pem.write_to_path(str(place / "site.key"))
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(place / "site.pem"), append=number > 0)
    for token in ("push-token", "chat.service/admin-token"):
        file = place / "run/credentials" / token
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{token}-of-sixteen-letters")
    return place


def check_config(directory: Path, arguments: list[str]) -> tuple[int, str]:
    """Run `serve` with --check-config in a child of this process; return its exit and words."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
        os.chdir(directory)
        code = main(["serve", *arguments, "--check-config"])
        sys.stdout.flush()
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as told:
        text = told.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


@pytest.mark.parametrize("shown", SERVES, ids=str)
def test_a_server_could_start_so(shown: Shown, place: Path) -> None:
    arguments = [
        re.sub(r"(?<![\w/])/run/", f"{place}/run/", word).replace("www-data", getpass.getuser())
        for word in shown.words[2:]
    ]
    code, text = check_config(place, arguments)
    assert code == 0, f"{shown}: {text}"
    assert "the options are good" in text


@pytest.mark.parametrize("number", range(len(blocks("how-to/listen", "toml"))))
def test_a_settings_file_is_good(number: int, place: Path) -> None:
    text = blocks("how-to/listen", "toml")[number].replace("/run/", f"{place}/run/")
    (place / "settings.toml").write_text(text)
    code, told = check_config(place, ["counter.py:handle", "-c", "settings.toml"])
    assert code == 0, told


@pytest.mark.parametrize(
    ("file", "argument"),
    [("kubernetes.yaml", r"^ {12}- (serve|\S+\.py:\S+|--\S+)$"), ("Dockerfile", r'"([^"]*)"')],
)
def test_a_container_could_start_so(
    file: str, argument: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "contrib/container" / file).read_text()
    if "SOCKETKEEP_ADMIN_TOKEN" in text:
        monkeypatch.setenv("SOCKETKEEP_ADMIN_TOKEN", TOKEN)
    serve, *arguments = re.findall(argument, text.partition("CMD")[2] or text, re.MULTILINE)
    assert serve == "serve"
    code, told = check_config(place, arguments)
    assert code == 0, told


def checked(*command: str) -> None:
    """Have another program look at files that a page shows."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_of_prometheus_are_good(tmp_path: Path) -> None:
    config, *rules = blocks("how-to/watch", "yaml")
    (tmp_path / "prometheus.yml").write_text(config)
    indented = "".join(f"    {line}\n" for rule in rules for line in rule.splitlines())
    (tmp_path / "rules.yml").write_text(f"groups:\n- name: socketkeep\n  rules:\n{indented}")
    # The token's file is not there.
    checked("promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))
    checked("promtool", "check", "rules", str(tmp_path / "rules.yml"))


def test_the_units_are_good(tmp_path: Path) -> None:
    for unit in blocks("how-to/systemd", "ini"):
        name = unit.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(unit.replace("/opt/app/bin/socketkeep", sys.executable))
    checked("systemd-analyze", "verify", "--man=no", str(tmp_path / "app.socket"))


# The commands for a running server.


def shape(text: str) -> str:
    """Return an output without what differs from run to run."""
    text = re.sub(r"\b[0-9a-f]{8}-\d+-\d+\b", "ID", text)
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r'File "[^"]*"', "File", text))


class Shell:
    """Whoever types the commands of the pages, for one server."""

    def __init__(self, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self._capsys = capsys

    def run(self, page: str, exit_codes: dict[str, int] | None = None) -> None:
        """Run a page's commands, but `serve`; require the output that the page shows."""
        for shown in commands(page):
            if shown.words[:2] != ["socketkeep", "serve"]:
                self.type(shown, (exit_codes or {}).get(shown.command, 0))

    def type(self, shown: Shown, exit_code: int = 0, *more: str) -> None:
        """Run a command of a page."""
        if shown.words[0] == "socketkeep":
            self._capsys.readouterr()
            done = main([*shown.words[1:], *more, "--control", str(self.server.control)])
            told = self._capsys.readouterr()
            output = told.out + told.err
        else:
            done, output = self._in_bash(shown)
        assert done == exit_code, f"{shown}: {output}"
        if shown.output:
            assert shape(output).rstrip() == shape(shown.output).rstrip(), shown

    def _in_bash(self, shown: Shown) -> tuple[int, str]:
        program = f'{sys.executable} -m socketkeep "$@" --control {self.server.control}'
        command = shown.command
        if "127.0.0.1:9000" in command:
            command = command.replace("9000", str(admin_port(self.server)))
        script = f"socketkeep() {{ {program}; }}\n{command}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.server.directory,
            env={**os.environ, "TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout


TOKEN: Final = "a-token-of-sixteen-letters"


@contextlib.contextmanager
def called(server: Server, *words: bytes) -> Iterator[socket.socket]:
    """A client that has said these words to the program of the page on pushes."""
    with connect(server.address) as peer:
        for each in words:
            peer.sendall(each + b"\n")
        yield peer


def test_a_device_is_pushed_to_and_sent_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pushes by the command line and over HTTP, looking on, and two ends."""
    (tmp_path / "gateway.py").write_text(blocks("how-to/push", "python")[0])
    (tmp_path / "token").write_text(TOKEN)
    options = ("-w", "4", "--admin", "127.0.0.1:0", "--push-token-file", "token")
    with (
        Server(tmp_path, "gateway.py:handle", *options) as server,
        called(server, b"i-am device-17") as device,
        called(server, b"join room:1") as member,
    ):
        shell = Shell(server, capsys)
        server.wait_until(
            lambda: (
                {(each["name"], *each["groups"]) for each in server.connections()}
                == {("device-17",), ("", "room:1")}
            ),
            "both have said who they are",
        )
        shell.run("how-to/push")
        assert [read_reply(device), read_reply(device)] == [b"turn on", b"turn on"]
        assert [read_reply(member), read_reply(member)] == [b"maintenance at noon", b"at noon"]
        shell.run("how-to/several-workers")
        (top,) = (each for each in commands("how-to/watch") if each.words[1:] == ["top"])
        shell.type(top, 0, "-n", "1")
        disconnect, drain = commands("how-to/leave-a-node")
        shell.type(disconnect)
        assert device.recv(1) == b""
        shell.type(drain)
        assert member.recv(1) == b""
        server.wait_exit()


def test_a_release_is_rolled_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that does not load by itself, and one that does by the link to the one before."""
    (later,) = blocks("how-to/roll-back", "python")
    earlier = re.sub(r"^    language.*\n", "", later, flags=re.MULTILINE)
    earlier = earlier.replace("session.language.encode()", 'b"earlier"')
    assert earlier.count("language") == 0
    for number, source in ((41, earlier), (42, later)):
        (tmp_path / f"releases/{number}").mkdir(parents=True)
        (tmp_path / f"releases/{number}/counter.py").write_text(source)
    (tmp_path / "current").symlink_to("releases/42")
    chdir = ("--chdir", str(tmp_path / "current"))
    with (
        Server(tmp_path, "counter.py:handle", *chdir) as server,
        connect(server.address) as peer,
    ):
        shell = Shell(server, capsys)
        refused, link, back = commands("how-to/roll-back")
        peer.sendall(b"a\n")
        assert read_reply(peer) == b"en 1 a"
        (tmp_path / "current/counter.py").write_text(
            blocks("tutorial/deploy-new-code", "python")[0].replace("-> None:", "-> None")
        )
        shell.type(refused, 4)
        shell.type(link)
        shell.type(back)
        server.wait_event("earlier code gone")
        peer.sendall(b"b\n")
        assert read_reply(peer) == b"earlier 2 b"


def test_the_machine_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    (doctor,) = commands("how-to/size-a-server")
    assert main(doctor.words[1:]) in (0, 1)
    told = capsys.readouterr().out
    for line in doctor.output.splitlines():
        level, _, rest = line.partition(" ")
        if rest.strip().startswith("kernel"):
            assert f"{level}  {rest.strip().partition(', ...')[0]}" in told


def test_handlers_are_tested_as_the_page_does(tmp_path: Path) -> None:
    _, fixture, tests = blocks("how-to/test-a-handler", "python")
    (tmp_path / "conftest.py").write_text(fixture)
    (tmp_path / "test_app.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "SOCKETKEEP_GUARD": "off"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


# A connection that does not close.


@contextlib.contextmanager
def program(directory: Path, source: str) -> Iterator[tuple[int, int]]:
    """The page's server, in a session of its own, which is ended whole; its pid and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "app.py").write_text(source.replace("7070", str(port)))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(
        ["python", "app.py"],
        cwd=directory,
        env={**os.environ, "PATH": path},
        start_new_session=True,
    )
    try:
        yield server.pid, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def asked(port: int) -> socket.socket:
    """A client that has asked for a report, and was told that it has started."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            client = connect(f"127.0.0.1:{port}")
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two attempts
    client.sendall(b"report\n")
    assert read_reply(client) == b"started"
    return client


def test_a_connection_that_does_not_close(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "how-to/find-why-it-does-not-close"
    text = (ROOT / f"docs/{page}.md").read_text()
    before, guarded = re.findall(
        r"^```\{code-block\} python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    line, *_ = guarded.splitlines(keepends=True)
    after = before.replace("listener = ", f"{line}listener = ").replace("import time", IMPORTS)
    holders, leaks, why, fin, no_leaks = commands(page)

    def told(shown: Shown, exit_code: int, *given: tuple[str, int]) -> str:
        command = shown.command
        for what, number in given:
            command = command.replace(what, str(number))
        capsys.readouterr()
        assert main(Shown(page, command, "").words[1:]) == exit_code
        return capsys.readouterr().out.partition("\nnot seen: ")[0]  # the machine's own

    with program(tmp_path, before) as (server, port):
        client = asked(port)
        who = told(holders, 0, ("7070", port))
        job = int(re.findall(r"(\d+):3 \w+ python app.py, inherited at a fork", who)[0])
        # Of the program alone: by chance another's connection has the number, at its own end.
        states = re.compile(r"^tcp +(\w+).* python app\.py", re.MULTILINE)
        assert states.findall(who) == states.findall(holders.output)
        assert f"{job}:4 " in who
        assert shape(told(leaks, 1, ("28661", server))) == shape(leaks.output)
        client.close()
        assert shape(why.output) in shape(told(why, 0, ("7070", port)))
        assert shape(told(fin, 0, ("28679", job))) == shape(fin.output)
    with program(tmp_path, after) as (server, port):
        with asked(port) as client:
            assert client.recv(1) == b""
        assert shape(told(no_leaks, 0, ("PID", server))) == shape(no_leaks.output)


IMPORTS: Final = "import time\n\nimport socketkeep"
