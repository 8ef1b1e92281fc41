"""How the package is built: with a compiler, without one, and with one that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAYS = "from socketkeep import _native; print(_native.CORE, '|', _native.__file__)"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as its sdist has it: a wheel is made of what was packed, and of nothing else."""
    packed = tmp_path_factory.mktemp("sdist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(packed)],
        cwd=ROOT,
        capture_output=True,
        timeout=50,
        check=True,
    )
    (archive,) = packed.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        members.extractall(packed, filter="data")
    sources = packed / archive.name.removesuffix(".tar.gz")
    assert not [*sources.rglob("*.so")]
    return sources


def build(sources: Path, to: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    outer = {k: v for k, v in os.environ.items() if not k.startswith("SOCKETKEEP_")}
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)],
        cwd=sources,
        env={**outer, "TMPDIR": str(to), **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def core_of(wheel: Path, to: Path, **environment: str) -> str:
    """Return which core a process says it has that runs what is in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to)
    path = os.pathsep.join([str(to), sysconfig.get_path("purelib")])
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        env={**os.environ, "SOCKETKEEP_PURE": "", "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    core, _, file = done.stdout.partition(" | ")
    assert file.startswith(str(to))
    return core


def test_with_a_compiler(sources: Path, tmp_path: Path) -> None:
    """The wheel is for this platform, has the core and no sources of it, and leaves no files."""
    done = build(sources, tmp_path, SOCKETKEEP_NATIVE="1")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.iterdir()
    assert "-py3-none-any" not in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        native = [name for name in archive.namelist() if "/_native/" in name]
        guard = archive.getinfo("socketkeep/_guard/guard")
        assert guard.external_attr >> 16 & 0o111 == 0o111, "installers make it executable by that"
        assert not [name for name in archive.namelist() if name.endswith("guard.c")]
    assert any(name.endswith(sysconfig.get_config_var("EXT_SUFFIX")) for name in native)
    assert not [name for name in native if name.endswith((".c", ".h"))]
    assert core_of(wheel, tmp_path / "x") == "compiled core"
    assert core_of(wheel, tmp_path / "x", SOCKETKEEP_PURE="1") == "pure Python"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CC": "/nowhere/cc"}, "/nowhere/cc"),
        ({"CFLAGS": "-include /nowhere/header.h"}, "the compiler failed"),
        ({"SOCKETKEEP_PURE": "1"}, "SOCKETKEEP_PURE=1"),
    ],
)
def test_without_a_compiler(
    sources: Path, tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    """The wheel is one of Python alone, runs, and one line says why."""
    done = build(sources, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "compiled core" in line]
    assert len(said) == 1
    assert reason in said[0]
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "socketkeep/_guard/guard" not in archive.namelist()
    assert core_of(wheel, tmp_path / "x") == "pure Python"


def test_where_it_must_be_compiled(sources: Path, tmp_path: Path) -> None:
    """As in this project's own environment, where tests of Python alone would hide the failure."""
    done = build(sources, tmp_path, SOCKETKEEP_NATIVE="1", CC="/nowhere/cc")
    assert done.returncode != 0
    assert "was not compiled: cannot run /nowhere/cc" in done.stderr
