"""Versions of the package beside each other, one of which is installed."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import socketkeep

PACKAGE: Final = Path(socketkeep.__file__).parent
#: The first one there was, see `tests/data/README.md`.
FIRST_WHEEL: Final = Path(__file__).parents[1] / "data" / "socketkeep-0.1.0-py3-none-any.whl"


@dataclass(frozen=True, slots=True)
class Versions:
    """Copies of the package in a directory; a server gets `path` as its ``PYTHONPATH``."""

    directory: Path

    @property
    def path(self) -> str:
        """Where Python finds the one that is installed."""
        return str(self.directory / "installed")

    def package(self, version: str) -> Path:
        """The directory of the package of that version."""
        return self.directory / version / "socketkeep"

    def add(self, version: str) -> None:
        """Make a copy of the present code that says it is of this version."""
        place = self.directory / version
        shutil.copytree(PACKAGE, place / "socketkeep", ignore=shutil.ignore_patterns("__pycache__"))
        self._name(version)

    def unpack(self, wheel: Path, version: str) -> None:
        """Unpack a wheel, and have it say that it is of this version."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.directory / version)
        self._name(version)

    def install(self, version: str) -> None:
        """Have Python find that one from now on."""
        new = self.directory / "new"
        new.symlink_to(self.directory / version)
        new.replace(self.directory / "installed")

    def _name(self, version: str) -> None:
        (self.package(version) / "_version.py").write_text(f'VERSION = "{version}"\n')
