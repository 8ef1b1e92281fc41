"""Make what a release has: sources, wheel, and the bill of what `socketkeep[all]` brings along.

`python scripts/release.py [DIRECTORY]`, by default into `dist`.  The same commit gives the same
bytes: the times in the archives are the commit's.  The wheel is built from the sources as they were
packed, so that what they lack is missed here.  It is then installed with all extras in an
environment of its own, `build/alone`, of which the bill is made and in which `tests/package` tries
it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ALONE: Final = ROOT / "build" / "alone"


def run(*command: str | Path, **more: str) -> str:
    """Run a command in the checkout, with `more` in its environment; return what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def build(directory: Path) -> Path:
    """Build sources and wheel into `directory`, which is emptied first; return the wheel."""
    shutil.rmtree(directory, ignore_errors=True)
    epoch = run("git", "log", "-1", "--format=%ct").strip()
    run(
        *(sys.executable, "-m", "build", "--outdir", directory),
        SOURCE_DATE_EPOCH=epoch,
        # What builds is of the versions that the tests ran with.
        PIP_CONSTRAINT=str(ROOT / "requirements" / "package.txt"),
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


def install_alone(wheel: Path, extras: str) -> Path:
    """Install the wheel where nothing else is; return that environment's Python."""
    venv.create(ALONE, clear=True, with_pip=True)
    python = ALONE / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}{extras}")
    return python


def write_bill(python: Path, wheel: Path) -> Path:
    """Write the bill of materials of an environment beside the wheel, as CycloneDX has it."""
    path = wheel.with_name("-".join(wheel.name.split("-")[:2]) + ".cdx.json")
    run(
        *(Path(sys.executable).with_name("cyclonedx-py"), "environment", "--output-reproducible"),
        *("--pyproject", ROOT / "pyproject.toml", "--gather-license-texts"),
        *("--output-format", "JSON", "--output-file", path, python),
    )
    return path


def main(directory: Path) -> None:
    """Make all of it."""
    wheel = build(directory)
    python = install_alone(wheel, "[all]")
    bill = write_bill(python, wheel)
    components = len(json.loads(bill.read_text())["components"])
    print(f"{wheel.name}, its sources, and the bill of {components} packages, in {directory}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist").absolute())
