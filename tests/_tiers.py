"""A pytest plugin: every test is in a tier, and one of the unit tier starts no process.

- ``unit``: all within the process that runs the tests, without a fork; `make test-unit` runs them
  in less than a minute.
- ``process``: starts processes of its own, or forks.
- ``system``: runs a whole server, or a program as a user would, and looks at it from outside.

The table says it of folders and files, the longest path first; a marker says it of a test in a file
of the unit tier.  `-m unit` imports no file of another tier.  A unit test that starts a process all
the same fails, and the process is not started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

TIERS: Final = {
    "unit": "starts no process and does not fork",
    "process": "starts processes of its own, or forks",
    "system": "runs a whole server, or a program as a user would",
}

#: By the path under `tests`; the collection refuses a test that has no tier.
TIER_OF: Final = {
    "admin": "unit",
    "admin/test_browser.py": "system",
    "admin/test_real.py": "system",
    "asgi": "unit",
    "asgi/test_served.py": "system",
    "cli": "system",
    "cli/test_client.py": "unit",
    "cli/test_commands.py": "unit",
    "cli/test_needs.py": "unit",
    "cli/test_options.py": "unit",
    "cli/test_proposals.py": "unit",
    "cli/test_renewal.py": "unit",
    "cli/test_runtime_directory.py": "unit",
    "cli/test_settings.py": "unit",
    "cli/test_shell_files.py": "unit",
    "cli/test_top.py": "unit",
    "cluster": "unit",
    "cluster/test_examples.py": "system",
    "cluster/test_node.py": "process",
    "cluster/test_presence.py": "process",
    "cluster/test_served.py": "system",
    "conformance": "system",
    "documentation": "system",
    "documentation/test_architecture.py": "unit",
    "edge": "system",
    "edge/test_certificates.py": "unit",
    "edge/test_process.py": "unit",
    "edge/test_relay.py": "unit",
    "examples": "system",
    "forking": "process",
    "guard": "system",
    "guard/test_guests.py": "unit",
    "guard/test_program.py": "process",
    "guard/test_siblings.py": "process",
    "guard/test_terms.py": "unit",
    "harness": "unit",
    "inspect": "process",
    "inspect/test_descriptors.py": "unit",
    "inspect/test_machine.py": "unit",
    "inspect/test_origins.py": "unit",
    "inspect/test_queue.py": "unit",
    "inspect/test_rights.py": "unit",
    "inspect/test_sock_diag.py": "unit",
    "inspect/test_what.py": "unit",
    "keeper": "unit",
    "keeper/test_system.py": "process",
    "lab": "process",
    "lab/test_drawing.py": "unit",
    "library": "unit",
    "library/test_other_holders.py": "process",
    "library/test_reply_killed.py": "process",
    "package": "system",
    "peer": "system",
    "model": "process",
    "model/test_replay.py": "system",
    "native": "process",
    "plugin": "process",
    "proxied": "system",
    "serve": "system",
    "serve/test_channels.py": "unit",
    "serve/test_kept_reader.py": "unit",
    "serve/test_pump.py": "unit",
    "serve/test_socket_view.py": "unit",
    "server": "system",
    "soak": "unit",
    "stdlib": "process",
    "stream": "unit",
    "surface": "unit",
    "telemetry": "unit",
    "telemetry/test_page.py": "system",
    "systemd": "system",
    "test_benchmarks.py": "process",
    "test_coverage.py": "unit",
    "test_documentation.py": "process",
    "test_errors_page.py": "unit",
    "test_events.py": "unit",
    "test_layers.py": "unit",
    "test_leaks.py": "process",
    "test_links.py": "unit",
    "test_pictures.py": "unit",
    "test_prose.py": "unit",
    "test_public_surface.py": "unit",
    "test_reference.py": "unit",
    "test_second_time.py": "process",
    "test_tiers.py": "unit",
    "websocket": "unit",
    "websocket/test_served.py": "system",
    "wire": "unit",
    "worker": "unit",
    "worker/test_fork.py": "process",
}

#: The audit events of all that makes a process, or replaces this one by another program.
_MAKES_A_PROCESS: Final = frozenset(
    (
        *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"),
        *("pty.spawn", "subprocess.Popen"),
    )
)
_HERE: Final = PurePosixPath("tests")


class StartsProcess(BaseException):
    """A unit test starts a process.

    No `Exception`: what the test calls must not take it for a machine without room.
    """


@cache
def tier_of(path: str) -> str | None:
    """Return the tier that the table gives to a file, by its path in the repository."""
    file = PurePosixPath(path)
    if not file.is_relative_to(_HERE):
        return None
    file = file.relative_to(_HERE)
    found = (TIER_OF.get(str(each)) for each in (file, *file.parents))
    return next(filter(None, found), None)


class Guard:
    """Knows the unit test that runs, and refuses to start a process meanwhile."""

    def __init__(self) -> None:
        """Watch this process from now on; an audit hook cannot be taken away."""
        self._pid = os.getpid()
        self._running: str | None = None
        self._refused: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._running is None or event not in _MAKES_A_PROCESS or os.getpid() != self._pid:
            return
        refused = f"{event} in a test of the tier `unit`: {self._running}"
        self._refused.append(refused)
        raise StartsProcess(refused)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Watch over a unit test, its fixtures included."""
        self._refused.clear()
        self._running = item.nodeid if item.get_closest_marker("unit") else None
        try:
            return (yield)
        finally:
            self._running = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Fail also a test that has swallowed the refusal."""
        report = yield
        if self._refused and report.outcome == "passed":
            report.outcome = "failed"
            report.longrepr = "\n".join(self._refused)
        self._refused.clear()
        return report


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of the tiers' markers, and watch."""
    for tier, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: {meaning}")
    config.pluginmanager.register(Guard())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files that have no unit test, where nothing else is wanted."""
    if config.option.markexpr != "unit" or collection_path.suffix != ".py":
        return None
    if not collection_path.is_relative_to(config.rootpath):
        return None
    tier = tier_of(collection_path.relative_to(config.rootpath).as_posix())
    return True if tier in ("process", "system") else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark each test with its tier.  Raises UsageError for one that has none."""
    if any(item.get_closest_marker(tier) for tier in TIERS):
        return
    tier = tier_of(item.nodeid.partition("::")[0])
    if tier is None:
        raise pytest.UsageError(f"{item.nodeid} has no tier: add it to TIER_OF in {__file__}")
    item.add_marker(tier)
