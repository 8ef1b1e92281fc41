"""Tests of asyncio's and of aiosmtpd's, with transports of ours in the place of the loop's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import aiosmtpd
import pytest

_ROOT: Final = Path(__file__).parents[2]
_RUN: Final = """
import sys, unittest
from tests.conformance import in_place
result = unittest.main(module=None, argv=sys.argv, exit=False).result
print("ours:", in_place.made)
sys.exit(not result.wasSuccessful())
"""


def run(directory: Path, *arguments: str) -> int:
    """Run tests that are to pass; return how many transports were ours."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    ours = re.search(r"^ours: (\d+)$", done.stdout, re.MULTILINE)
    assert ours, done.stdout[-8000:]
    return int(ours[1])


@pytest.mark.parametrize(
    ("names", "fewest"),
    [(("streams", "server", "buffered_proto", "sslproto"), 30), (("ssl",), 5)],
    ids=["streams", "ssl"],
)
def test_of_asyncio(names: tuple[str, ...], fewest: int, tmp_path: Path) -> None:
    modules = (f"test.test_asyncio.test_{name}" for name in names)
    assert run(tmp_path, "-c", _RUN, *modules) >= fewest


def test_of_aiosmtpd(tmp_path: Path) -> None:
    """Its SMTP sessions, STARTTLS among them, where it puts asyncio's TLS on the transport."""
    theirs = Path(aiosmtpd.__file__).parent / "tests"
    files = [str(theirs / f"test_{name}.py") for name in ("smtp", "smtpsmuggling", "starttls")]
    plugins = ("-p", "tests.conformance.in_place", "-p", "no:cacheprovider", "-p", "no:xdist")
    options = ("-q", "-c", os.devnull, "--rootdir", str(theirs), *plugins)
    assert run(tmp_path, "-m", "pytest", *options, *files) > 500
