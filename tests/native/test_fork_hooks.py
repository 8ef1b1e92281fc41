"""Hooks at fork that the fork server may withhold, as everybody else sees them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.native.cores import compiled

pytestmark = pytest.mark.skipif(compiled is None, reason="for the fork server in C")

#: As a template begins: nothing else has been imported yet.
PROGRAM = """
import os, sys
assert "threading" not in sys.modules and "logging" not in sys.modules
register = os.register_at_fork
from socketkeep._worker._fork_hooks import import_with_withholdable_hooks
import_with_withholdable_hooks()
assert os.register_at_fork is register
import logging, threading
lock = threading._active_limbo_lock
handler = logging.StreamHandler()
threading.Thread(target=(begun := threading.Event()).wait, daemon=True).start()
pid = os.fork()
if pid == 0:
    assert threading._active_limbo_lock is not lock, "threading's hook has run"
    assert threading.active_count() == 1
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_os_fork_runs_them() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
