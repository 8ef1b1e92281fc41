"""Every experiment holds on this kernel, and does not where a call does something else."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from docs._ext.lab import recorded

from tests.lab import breaks
from tests.lab.breaks import BREAKS

ROOT: Final = Path(__file__).parents[2]
CASES: Final = [(name, *case) for name, cases in BREAKS.items() for case in cases]


def performed(calls: type, *names: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.breaks", calls.__name__, *names],
        cwd=ROOT,
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout, object_hook=lambda fields: SimpleNamespace(**fields))  # type: ignore[no-any-return]


def test_every_experiment_is_broken_here() -> None:
    assert [finding.name for finding in recorded().findings] == list(BREAKS)


@pytest.mark.parametrize(
    ("name", "calls", "what"), CASES, ids=[f"{name}-{calls.__name__}" for name, calls, _ in CASES]
)
def test_a_kernel_that_does_otherwise_is_noticed(name: str, calls: type, what: str) -> None:
    (finding,) = performed(calls, name)
    assert finding.verdict == "does not hold", finding
    failed = [check for check in finding.checks if check.expected not in ("", check.observed)]
    assert what in [check.what for check in failed]
    first = failed[0]
    expected = f"{first.what}: expected {first.expected}, observed {first.observed}"
    assert finding.reason == expected


def test_want_of_descriptors_says_nothing_of_the_claim() -> None:
    (finding,) = performed(breaks.NoDescriptors, "last-close")
    assert finding.verdict == "could not be done"
    assert finding.reason == "server: accept(listener, conn): EMFILE (Too many open files)"


def test_a_process_that_ends_early_is_no_traceback() -> None:
    (finding,) = performed(breaks.Fails, "last-close")
    assert (finding.verdict, finding.reason) == ("could not be done", "process server has ended")


def test_every_statement_is_true_of_the_library_s_socket() -> None:
    findings = performed(breaks.OfSocketkeep, *BREAKS)
    assert {finding.name: finding.verdict for finding in findings} == dict.fromkeys(BREAKS, "holds")


def test_what_goes_wrong_without_the_closes_does_not_with_the_library_s_fork() -> None:
    names = ("the-loop", "loop-without-parents-close", "loop-without-childs-close")
    with_both, without_parents, without_childs = performed(breaks.ForkOfSocketkeep, *names)
    assert with_both.verdict == "holds", with_both.reason
    assert without_parents.reason == (
        "handles when the child has ended: expected server 1, observed none"
    )
    assert without_childs.reason == "handles of the listener: expected child 1, observed none"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_lab(number: int) -> None:
    """Each process holds the pipe's end, the one that hangs in its accept among them."""
    watch, held = os.pipe()
    try:
        program = (
            "from tests.lab.breaks import *\n"
            "class Hangs(Calls):\n"
            "    def accept(self, listener, name):\n"
            f"        os.write({held}, b'x')\n"
            "        super().accept(listener, name)\n"
            "try: EXPERIMENTS['blocking-suspends'].perform(Hangs, 60)\n"
            "except KeyboardInterrupt: pass\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, pass_fds=[held]) as lab:
            os.close(held)
            held = -1
            assert os.read(watch, 1) == b"x"
            lab.send_signal(number)
            assert lab.wait(30) in (0, -number)
            assert select.select([watch], [], [], 30)[0], "a process is left"
            assert os.read(watch, 1) == b""
    finally:
        os.close(watch)
        if held >= 0:
            os.close(held)
