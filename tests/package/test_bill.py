"""What comes along is named, and may be used as this project's licence promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Licences that let whoever has it use, change and sell it; certifi's MPL holds for its own files.
ALLOWED = (
    *("Apache", "BSD", "ISC", "MIT", "PSF", "Python Software Foundation", "MPL-2.0", "Mozilla"),
)
#: What every environment has.
TOOLS = {"pip", "setuptools", "wheel"}


def installed(python: Path) -> dict[str, str]:
    done = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {each["name"].lower(): each["version"] for each in json.loads(done.stdout)}


def test_the_bill_names_all_that_is_installed(bill: Path, python: Path) -> None:
    said: dict[str, Any] = json.loads(bill.read_text())
    root = said["metadata"]["component"]
    assert (said["bomFormat"], root["name"]) == ("CycloneDX", "socketkeep")
    listed = {each["name"].lower(): each["version"] for each in said["components"]}
    assert listed | {"socketkeep": ""} == installed(python) | {"socketkeep": ""}
    assert {each["name"] for each in said["components"] if not each.get("licenses")} <= TOOLS
    (needs,) = (each for each in said["dependencies"] if each["ref"] == root["bom-ref"])
    names = {each["bom-ref"]: each["name"] for each in said["components"]}
    assert {"click", "msgspec"} <= {names[ref] for ref in needs["dependsOn"]}


def test_the_licences(python: Path) -> None:
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("pip-licenses")), "--python", str(python)),
            *("--format", "json", "--from", "mixed"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {each["Name"]: each["License"] for each in json.loads(done.stdout)}
    assert {"click", "msgspec", "uvloop", "nats-py"} <= set(found)
    others = {
        name: licence for name, licence in found.items() if not any(a in licence for a in ALLOWED)
    }
    assert others == {}
