"""The Python in the documentation is whole: it passes the type checker, and it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.pages import blocks, name_of, pages
from tests.worker.fakes import inspected

#: The pages whose blocks are programs, some of which fork: each runs in a process of its own.
PROGRAMS = ("explained-modes-and-handles",)

BLOCKS = {
    f"{name_of(page).replace('/', '-')}_{number}": source
    for page in pages()
    for number, source in enumerate(blocks(name_of(page), "python"))
}


@pytest.mark.parametrize("name", [name for name in BLOCKS if name.startswith(PROGRAMS)])
def test_block_is_a_program_that_runs(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", BLOCKS[name]],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("name", [name for name in BLOCKS if not name.startswith(PROGRAMS)])
def test_block_runs_and_its_handler_is_one(name: str) -> None:
    names: dict[str, object] = {"__name__": name}
    exec(compile(BLOCKS[name], name, "exec"), names)
    if "handle" in names:
        inspected(names["handle"])


def test_blocks_pass_the_type_checker(tmp_path: Path) -> None:
    for name, source in BLOCKS.items():
        (tmp_path / f"{name}.py").write_text(source)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
