"""The tiers themselves: each test has one, and a unit test that starts a process fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests._tiers import TIER_OF, TIERS, tier_of

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent

SUITE = """
import multiprocessing, os, subprocess, threading
from contextlib import suppress
import pytest

def start():
    subprocess.run(["true"], check=True)

@pytest.fixture
def started():
    start()

@pytest.fixture
def starts_at_its_end():
    yield
    start()

def test_computes():
    assert 1 + 1 == 2

@pytest.mark.process
def test_of_another_tier():
    start()

def test_forks():
    if os.fork() == 0:
        os._exit(0)
    os.wait()

def test_spawns():
    os.posix_spawn("/bin/true", ["true"], {})

def test_executes():
    os.execv("/bin/true", ["true"])

def test_calls_the_shell():
    os.system("true")

def test_by_multiprocessing():
    process = multiprocessing.get_context("fork").Process(target=print)
    process.start()
    process.join()

def test_swallows():
    with suppress(BaseException):
        start()

def test_in_a_thread():
    def quietly():
        with suppress(BaseException):
            start()
    thread = threading.Thread(target=quietly)
    thread.start()
    thread.join()

def test_by_a_fixture(started):
    pass

def test_by_a_fixture_at_its_end(starts_at_its_end):
    pass
"""


def run_suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> pytest.RunResult:
    """Run a suite of one file, `name`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    place = pytester.path / name
    place.parent.mkdir(parents=True)
    place.write_text(source)
    options = ("-p", "tests._tiers", "-p", "no:cacheprovider", "--strict-markers", "-rfE")
    return pytester.runpytest_subprocess(*options, name, timeout=50)


@pytest.mark.process
def test_a_unit_test_that_starts_a_process_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_suite(pytester, monkeypatch, "tests/wire/test_suite.py", SUITE)
    result.assert_outcomes(passed=3, failed=7, errors=2)
    for name, event in {
        "forks": "os.fork",
        "spawns": "os.posix_spawn",
        "executes": "os.exec",
        "calls_the_shell": "os.system",
        "by_multiprocessing": "os.fork",
        "swallows": "subprocess.Popen",
        "in_a_thread": "subprocess.Popen",
        "by_a_fixture": "subprocess.Popen",
        "by_a_fixture_at_its_end": "subprocess.Popen",
    }.items():
        test = f"tests/wire/test_suite.py::test_{name}"
        result.stdout.fnmatch_lines(f"*{event} in a test of the tier `unit`: {test}")


@pytest.mark.process
def test_a_test_without_a_tier_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def test_nothing():\n    pass\n"
    result = run_suite(pytester, monkeypatch, "tests/fresh/test_suite.py", source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*tests/fresh/test_suite.py::test_nothing has no tier: add it *")


def test_the_table_has_nothing_that_is_gone() -> None:
    assert set(TIER_OF.values()) <= TIERS.keys()
    assert [path for path in TIER_OF if not (ROOT / "tests" / path).exists()] == []


def test_the_longest_path_decides() -> None:
    assert tier_of("tests/keeper/test_moves.py") == "unit"
    assert tier_of("tests/keeper/test_system.py") == "process"
    assert tier_of("src/keeper/test_moves.py") is None
