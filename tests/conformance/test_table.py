"""The table of 50,000 connections, all of them real, in Chromium."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.admin.browser import Browser
from tests.admin.web import admin_port
from tests.harness import Server

_CROWDS: Final = 4  # each from an address of its own, since each address has 28,000 ports
_EACH: Final = 12_500
_ALL: Final = _CROWDS * _EACH
#: Seconds for which the page may be busy at a time; a table of all the rows takes many.
_BOUND: Final = 1.0
_HANDLER: Final = """
from socketkeep import AsyncConnection, resumable

@resumable
async def handle(conn: AsyncConnection) -> None:
    if conn.attached == "accepted":
        if conn.id.endswith("77"):
            conn.name = f"pump {conn.id}"
        await conn.send(b"hi\\n")
        conn.commit()
    async for line in conn.lines(commit=True):
        await conn.send(line)
"""
#: Kept by the page itself: how long each of its tasks took that took more than 50 ms.
_WATCH: Final = """window.long = [];
const note = (list) => window.long.push(...list.getEntries().map((each) => each.duration));
new PerformanceObserver(note).observe({ type: "longtask", buffered: true });"""
_COUNT: Final = "document.getElementById('all-count').textContent"
_CELLS: Final = (
    "[...document.querySelectorAll('#all-rows tr')].map((row) => row.children[%d].textContent)"
)
_PEERS: Final = _CELLS % 1
_FOCUSED: Final = "document.activeElement"


@contextlib.contextmanager
def _crowds(server: Server) -> Iterator[None]:
    host, _, port = server.address.rpartition(":")
    crowds: list[subprocess.Popen[str]] = []
    with contextlib.ExitStack() as stack:
        for number in range(1, _CROWDS + 1):
            command = (sys.executable, "-m", "tests.conformance.crowd")
            crowd = subprocess.Popen(
                (*command, host, port, str(_EACH), f"127.0.{number}.1"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            stack.enter_context(crowd)
            crowds.append(crowd)
        for crowd in crowds:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == "there\n"
        yield


@pytest.mark.timeout(180)
def test_fifty_thousand(tmp_path: Path) -> None:
    """Sorted and filtered by keys, while the page answers and the keeper serves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 20_000, f"the test needs 20,000 descriptors a process, and there are {hard}"
    (tmp_path / "app.py").write_text(_HANDLER)
    options = ("--admin", "127.0.0.1:0", "-w", "4", "-k", "async")
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, hard))
    try:
        with Server(tmp_path, "app.py:handle", *options) as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with _crowds(server), Browser() as browser:
                longest = _look(browser, admin_port(server))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"the longest task of the page took {longest * 1000:.0f} ms")
    assert longest < _BOUND


def _look(browser: Browser, port: int) -> float:
    """Sort and filter the table, and return how long the longest task of the page took."""
    browser.resize(1280, 900)
    browser.command("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
    browser.open(f"http://127.0.0.1:{port}/")
    browser.wait("document.title.includes('50,000 connections')")
    _tab_to(browser, f"{_FOCUSED}.id === 'filter'")
    browser.wait(f"/^Rows 1 to 50 of 50,000(; as of .+)?[.]$/.test({_COUNT})", timeout=60)
    assert browser.value(f"new Set({_CELLS % 0}).size") == 50
    _tab_to(browser, f"{_FOCUSED}.textContent === 'peer'")
    browser.press(" ", 32)
    browser.wait(f"{_PEERS}.every((peer) => peer.startsWith('127.0.1.1:'))")
    browser.press(" ", 32)
    browser.wait(f"{_PEERS}.every((peer) => peer.startsWith('127.0.4.1:'))")
    browser.value("document.getElementById('filter').focus()")
    browser.command("Input.insertText", text="127.0.3.1: state=owned")
    browser.wait(f"{_COUNT}.startsWith('Rows 1 to 50 of 12,500 that match, of 50,000')")
    assert browser.value(f"{_PEERS}.every((peer) => peer.startsWith('127.0.3.1:'))")
    browser.command("Input.insertText", text=" name=pump")
    browser.wait(f"{_COUNT}.startsWith('Rows 1 to ') && !{_COUNT}.includes('12,500')")
    assert browser.value(f"({_CELLS % 13}).every((name) => name.startsWith('pump '))")
    assert browser.value("document.querySelectorAll('#all-rows tr').length") <= 50
    assert browser.complaints == []
    return float(browser.value("Math.max(0, ...window.long)")) / 1000


def _tab_to(browser: Browser, condition: str) -> None:
    for _ in range(60):
        if browser.value(f"{_FOCUSED}.matches(':focus-visible') && {condition}"):
            return
        browser.press("Tab", 9)
    raise AssertionError(f"no Tab leads to {condition}")
