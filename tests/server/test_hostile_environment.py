"""Whatever a server inherits: it serves, reloads and stops, or says in one line why it does not.

Two of the environments at a time: each is there in every run, and FUZZ_SEED, which every run
prints, draws which of them come together.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.harness import ControlError, ask, connect, read_reply, write_handler
from tests.harness.processes import session_processes
from tests.server.hostile import REFUSED, SERVED, Setting
from tests.server.support import complaint, run


def _environment(setting: Setting, directory: Path) -> dict[str, str]:
    own = {name: text for name, text in os.environ.items() if not name.startswith("SOCKETKEEP_")}
    changed = {**own, **setting.variables}
    if "PYTHONPATH" in setting.variables:
        changed["PYTHONPATH"] = str(directory / str(changed["PYTHONPATH"]))
    return {name: text for name, text in changed.items() if text is not None}


def _wait(reached: Callable[[], bool], log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for what a server without standard error announces nowhere else."""
    deadline = time.monotonic() + 30
    while not reached():
        said = log.read_text() if log.exists() else ""
        assert process.poll() is None, f"it ended with {process.returncode}:\n{said}"
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


def _together(drawn: Sequence[Setting]) -> Setting:
    """Return several environments in one."""
    return Setting(
        " and ".join(each.name for each in drawn),
        "\n".join(each.program for each in drawn if each.program),
        {name: text for each in drawn for name, text in each.variables.items()},
        {name: text for each in drawn for name, text in each.files.items()},
        next((each.options for each in drawn if each.options), ()),
        any(each.hup for each in drawn),
    )


_SHUFFLED: Final = random.Random(os.environ["FUZZ_SEED"]).sample(SERVED, len(SERVED))
_PAIRS: Final = [_together(_SHUFFLED[at : at + 2]) for at in range(0, len(SERVED), 2)]


@pytest.mark.parametrize("setting", _PAIRS, ids=range(len(_PAIRS)))
def test_served(tmp_path: Path, setting: Setting) -> None:
    """A peer is served through a reload, by command or by HUP, and TERM ends all of it."""
    for name, text in setting.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    print(setting.name)
    target = write_handler(tmp_path, "v0", is_async=False)
    place, control, log = tmp_path / "peers", tmp_path / "control", tmp_path / "log"
    process = subprocess.Popen(
        [
            *setting.prefix,
            *(sys.executable, "-P", "-m", "socketkeep", "serve", target, "-k", "thread"),
            *("--bind", f"unix:{place}", "--control", str(control), "--log-file", str(log)),
            *setting.options,
        ],
        cwd=tmp_path,
        env=_environment(setting, tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def generation() -> int:
        try:
            found: int = ask(control, "status")["generation"] or 0
        except (OSError, ControlError):
            return 0
        return found

    try:
        _wait(lambda: generation() == 1, log, process)
        with connect(f"unix:{place}") as peer:
            peer.sendall(b"a\n")
            assert read_reply(peer) == b"1 a v0"
            write_handler(tmp_path, "v1", is_async=False)
            if setting.hup:
                process.send_signal(signal.SIGHUP)
                _wait(lambda: generation() == 2, log, process)
            else:
                ask(control, "reload")
            _wait(lambda: not ask(control, "status")["workers"]["draining"], log, process)
            peer.sendall(b"b\n")
            assert read_reply(peer) == b"2 b v1"
            ask(control, "upgrade", 60)
            peer.sendall(b"c\n")
            assert read_reply(peer) == b"3 c v1"
        process.terminate()
        assert process.wait(20) == 0, log.read_text()
        assert not session_processes(process.pid, timeout=5.0)
        assert " error " not in log.read_text()
        assert not list(tmp_path.rglob("*.imported")), "ours imported what is the application's"
    finally:
        for pid in session_processes(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("setting", "code", "words"), REFUSED, ids=[setting.name for setting, _, _ in REFUSED]
)
def test_refused(tmp_path: Path, setting: Setting, code: int, words: str) -> None:
    """One line, the exit code, and no process that is left."""
    write_handler(tmp_path, "v0", is_async=False)
    finished = run(
        tmp_path,
        *("serve", "handlers:handle", "--bind", "127.0.0.1:0"),
        prefix=setting.prefix,
    )
    error = complaint(finished, code)
    assert words in error
    assert "\n" not in error


_FIRST_IMPORTS = """
import _signal, sys

def note(event, arguments):
    if event == "import" and _signal.SIGHUP not in _signal.pthread_sigmask(_signal.SIG_BLOCK, ()):
        print(arguments[0])

sys.addaudithook(note)
from socketkeep._cli import main
sys.argv[1:] = ["serve", "nowhere:handle", "--check-config"]
main()
"""


def test_signals_wait_before_anything_else_is_read(tmp_path: Path) -> None:
    """HUP and USR1 would end the process in the time that all of its modules take."""
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_IMPORTS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == [
        *("socketkeep._cli", "socketkeep", "socketkeep._base._held_signals", "socketkeep._base")
    ], done.stderr
