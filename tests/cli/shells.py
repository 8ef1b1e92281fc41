"""Real shells at a terminal of their own, that complete what is typed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

PROGRAM: Final = f"{sysconfig.get_path('scripts')}/socketkeep"
_PATIENCE: Final = 30.0
#: Keys: complete; put the line out on descriptor 3, and empty it.
_ALL, _TELL = b"\x14", b"\x19"

_BASH: Final = """\
bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
bind '"\\C-t": insert-completions'
bind -x '"\\C-y": printf "%s\\n" "$READLINE_LINE" >&3; READLINE_LINE='
source {script}; echo begun >&3
"""
_ZSH: Final = """\
autoload -U compinit; compinit -u -D
tell() {{ print -r -- "$BUFFER" >&3; BUFFER= }}; zle -N tell
bindkey '^Y' tell; bindkey '^T' menu-complete
source {script}; echo begun >&3
"""


class Shell:
    """A shell that waits for keys."""

    def __init__(self, keys: int, told: int) -> None:
        self._keys = keys
        self._told = told
        self._buffer = b""

    def completed(self, line: str) -> list[str]:
        """Return the words of the line after the key that completes it."""
        os.write(self._keys, line.encode() + _ALL + _TELL)
        return self.read_line().split()[1:]

    def read_line(self) -> str:
        until = time.monotonic() + _PATIENCE
        while b"\n" not in self._buffer:
            if not select.select([self._told], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the shell does not say what it has completed")
            piece = os.read(self._told, 4096)
            assert piece, "the shell has ended"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


@contextmanager
def _at_terminal(directory: Path, begin: str, *command: str) -> Iterator[Shell]:
    ours, theirs = pty.openpty()
    told, tell = os.pipe()
    script = f"exec 3>&{tell}"
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=directory,
        env={**os.environ, "TERM": "dumb", "PATH": _path(), "HOME": str(directory)},
        pass_fds=[tell],
        start_new_session=True,
    )
    os.close(theirs)
    os.close(tell)
    shown = bytearray()
    reader = threading.Thread(target=_read_all, args=(ours, shown))
    reader.start()
    shell = Shell(ours, told)
    try:
        os.write(ours, f"{script}\n{begin}".encode())
        assert shell.read_line() == "begun"
        yield shell
    except BaseException as error:
        error.add_note(f"the terminal: {shown.decode(errors='replace')}")
        raise
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)
        os.close(told)


def _read_all(terminal: int, shown: bytearray) -> None:
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the last process that had it has ended
            return


def _path() -> str:
    return os.pathsep.join((os.path.dirname(PROGRAM), os.environ["PATH"]))


def script_of(shell: str, directory: Path) -> Path:
    """Return a file with what the program gives a shell to read, as its documentation has it."""
    environment = {**os.environ, "_SOCKETKEEP_COMPLETE": f"{shell}_source"}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, timeout=30, check=True)
    path = directory / f"completion.{shell}"
    path.write_bytes(done.stdout)
    return path


@contextmanager
def bash(directory: Path) -> Iterator[Shell]:
    """Start bash, without its user's files, with all that completes put into the line."""
    begin = _BASH.format(script=script_of("bash", directory))
    with _at_terminal(directory, begin, "bash", "--norc", "--noprofile", "-i") as shell:
        yield shell


@contextmanager
def zsh(directory: Path) -> Iterator[Shell]:
    """Start zsh, without its user's files, with the first that completes put into the line."""
    begin = _ZSH.format(script=script_of("zsh", directory))
    with _at_terminal(directory, begin, need("zsh"), "-f", "-i") as shell:
        yield shell


def fish(directory: Path, line: str) -> list[str]:
    """Return what fish completes a line to, each with what it says about it behind a tab."""
    script = script_of("fish", directory)
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", f"source {script}; complete -C '{line}'"],
        cwd=directory,
        env={**os.environ, "PATH": _path(), "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def need(program: str) -> str:
    """Return the path of a program, which `make test` installs; the test fails without it."""
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"{program} is not installed: bash tests/install-debian-packages")
    return found
