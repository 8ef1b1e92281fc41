"""The examples as a user has them: copies, to be edited and reloaded."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import pytest

from tests.harness import Server

EXAMPLES: Final = Path(__file__).parents[2] / "examples"


class Example:
    """A copy of one example and the server that serves it."""

    def __init__(self, name: str, directory: Path, *options: str) -> None:
        self.path = directory / f"{name}.py"
        shutil.copy(EXAMPLES / self.path.name, self.path)
        attribute = "service" if "\nservice = " in self.path.read_text() else "handle"
        self.server = Server(directory, f"{self.path}:{attribute}", *options)

    def edit(self, before: str, after: str) -> None:
        """Replace one piece of the code, and reload."""
        source = self.path.read_text()
        assert source.count(before) == 1, before
        self.path.write_text(source.replace(before, after))
        self.server.reload()


class Talk:
    """A program to talk to line by line, such as nc; a context manager."""

    def __init__(self, *command: str) -> None:
        self._command = command

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def hear(self) -> str:
        """Return the next line that it prints, empty at its end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def hear_up_to(self, end: str) -> None:
        """Read the lines that it prints up to one with this end; its own end fails."""
        while line := self.hear():
            if line.endswith(end):
                return
        pytest.fail(f"it ended without {end!r}")

    def ask(self, line: str) -> str:
        """Write a line, return the next."""
        self.say(line)
        return self.hear()

    def finish(self) -> tuple[str, int]:
        """End its input; return what it still printed, and its exit code."""
        rest, _ = self._process.communicate(timeout=20)
        return rest, self._process.returncode


Serve: TypeAlias = Callable[..., Example]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve a copy of the example of that name, until the end of the test."""
    with ExitStack() as stack:

        def start(name: str, *options: str) -> Example:
            example = Example(name, tmp_path, *options)
            stack.enter_context(example.server)
            return example

        yield start
