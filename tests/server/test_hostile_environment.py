"""Whatever a server inherits: it serves, reloads and stops, or says in one line why it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import ControlError, ask, connect, read_reply, write_handler
from tests.harness.processes import session_processes
from tests.server.hostile import REFUSED, SERVED, Setting
from tests.server.support import complaint, run


def _environment(setting: Setting, directory: Path) -> dict[str, str]:
    changed = {**os.environ, **setting.variables}
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


@pytest.mark.parametrize("setting", SERVED, ids=lambda setting: setting.name)
def test_served(tmp_path: Path, setting: Setting) -> None:
    """A peer is served through a reload, by command or by HUP, and TERM ends all of it."""
    for name, text in setting.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
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
