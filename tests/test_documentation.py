"""The Python in the documentation is whole: it passes the type checker, and it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from socketkeep._handlers import inspect_handler

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

BLOCKS = {
    f"{page.stem}_{number}": source
    for page in PAGES
    if "_build" not in page.parts
    for number, source in enumerate(BLOCK.findall(page.read_text()))
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_runs_and_its_handler_is_one(name: str) -> None:
    names: dict[str, object] = {"__name__": name}
    exec(compile(BLOCKS[name], name, "exec"), names)
    if "handle" in names:
        inspect_handler(names["handle"])


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
