"""The files that `scripts/release.py` has made."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def only(pattern: str) -> Path:
    """Return the one file in `dist` that has such a name."""
    (path,) = (ROOT / "dist").glob(pattern)
    return path


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel."""
    return only("*.whl")


@pytest.fixture(scope="session")
def sources() -> Path:
    """The sources."""
    return only("*.tar.gz")


@pytest.fixture(scope="session")
def bill() -> Path:
    """The bill of materials."""
    return only("*.cdx.json")


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of an environment that has the wheel with all its extras, and nothing besides."""
    return ROOT / "build" / "alone" / "bin" / "python"


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> str:
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


@pytest.fixture(scope="session")
def version() -> str:
    """The version that the code says it is."""
    found = re.search(
        r'^VERSION = "(.*)"$', (ROOT / "src/socketkeep/_version.py").read_text(), re.MULTILINE
    )
    assert found is not None
    return found[1]
