"""The files of wheel and sources, and what is said of them."""

from __future__ import annotations

import stat
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

from tests.package.conftest import ROOT

#: Of the package's folder, what the wheel has compiled of, or not at all.
SOURCES_ALONE = (".c", ".h")


def tracked(folder: str) -> set[str]:
    """Return the files of a folder that are in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(filter(None, listed.stdout.split("\0")))


def test_the_index_takes_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, archives())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def archives() -> list[Path]:
    return [*ROOT.glob("dist/*.whl"), *ROOT.glob("dist/*.tar.gz")]


def test_the_wheel_has_the_package_and_nothing_besides(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    said = {name for name in names if ".dist-info/" in name}
    assert {name.partition(".dist-info/")[2] for name in said} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"),
    }
    shared = {name for name in names if ".data/data/share/" in name}
    assert {Path(name).name for name in shared} >= {
        *("socketkeep.1", "socketkeep-serve.1", "_socketkeep", "socketkeep.fish"),
    }
    names -= shared
    compiled = {name for name in names - said if name.endswith((".so", "/guard"))}
    assert names - said - compiled == {
        name.removeprefix("src/")
        for name in tracked("src/socketkeep")
        if not name.endswith(SOURCES_ALONE)
    }
    tag = wheel.stem.split("-", 2)[2]
    if tag == "py3-none-any":
        assert not compiled
    else:
        core = f"socketkeep/_native/_core.cpython-{tag[2:5]}-x86_64-linux-gnu.so"
        assert compiled == {core, "socketkeep/_guard/guard"}


def test_the_guard_may_be_run(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        modes = {each.filename: each.external_attr >> 16 for each in archive.infolist()}
    guard = modes.get("socketkeep/_guard/guard")
    assert guard is None or guard & stat.S_IXUSR
    assert not any(mode & stat.S_IWOTH for mode in modes.values())


def test_the_sources_are_those_of_the_commit(sources: Path) -> None:
    """All that a build and the tests need."""
    with tarfile.open(sources) as archive:
        names = {each.name.partition("/")[2] for each in archive.getmembers()}
    assert names - {"PKG-INFO"} == tracked(".")


def test_they_are_described(metadata: str, version: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = message_from_string(metadata)
    assert (said["Name"], said["Version"]) == ("socketkeep", version)
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.11"
    assert set(said.get_all("Provides-Extra", [])) == set(declared["optional-dependencies"])
    needed = {each for each in said.get_all("Requires-Dist", []) if "extra ==" not in each}
    assert needed == set(declared["dependencies"])
    assert "Typing :: Typed" in said.get_all("Classifier", [])
    assert str(said.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
