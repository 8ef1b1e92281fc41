"""The live page by axe-core: what a screen reader, keys and weak eyes need of it."""

from __future__ import annotations

import asyncio
import json
from importlib import resources
from typing import Any

import pytest
from msgspec.structs import replace

from tests.admin.browser import Browser
from tests.admin.web import LIVE, WITH_ALL, FakeSource, connection, pages, worker

_RUN = """axe.run({resultTypes: ['violations', 'passes']}).then((found) => JSON.stringify({
  violations: found.violations.map((each) =>
    `${each.id}: ${each.help}: ${each.nodes.map((node) => node.html.slice(0, 120)).join(' ')}`),
  passes: found.passes.map((each) => each.id)}))"""


_JUDGED = {
    *("color-contrast", "region", "button-name", "label", "aria-allowed-attr"),
    *("td-headers-attr", "empty-table-header"),
}


def _found(browser: Browser, axe: str) -> dict[str, list[str]]:
    # The dots lie over all, and are hidden from readers; nothing below them could be judged.
    browser.value("document.getElementById('dots').style.visibility = 'hidden'")
    browser.command("Runtime.evaluate", expression=axe)
    answer: Any = browser.command(
        "Runtime.evaluate", expression=_RUN, awaitPromise=True, returnByValue=True
    )
    found: dict[str, list[str]] = json.loads(answer["result"]["value"])
    return found


@pytest.mark.timeout(120)
def test_nothing_is_out_of_reach() -> None:
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
    report = replace(
        LIVE,
        status=WITH_ALL,
        workers=[worker(0, 71), worker(1, 72, 2), worker(2, 73, 2, state="starting")],
        connections=[connection("1-1-1", 71, 0), connection("1-1-2", 72, 1)],
        left_out=5,
    )

    def look(port: int) -> None:
        with Browser() as browser:
            for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
                browser.resize(width, 900, phone=width < 640)
                browser.prefer(reduced_motion="reduce", color_scheme=scheme)
                browser.open(f"http://127.0.0.1:{port}/")
                browser.wait("document.querySelectorAll('.dot').length === 2")
                browser.value("document.querySelector('.seat').click()")
                browser.wait("!document.getElementById('table').hidden")
                browser.value("document.getElementById('filter').focus()")
                browser.command("Input.insertText", text="age>x")
                browser.wait("!document.getElementById('wrong').hidden")
                browser.wait("document.querySelectorAll('#all-rows tr').length === 2")
                found = _found(browser, axe)
                assert found["violations"] == [], (width, scheme)
                assert {*found["passes"]} >= _JUDGED

    async def shown() -> None:
        async with pages(FakeSource(report)) as port:
            await asyncio.to_thread(look, port)

    asyncio.run(shown())
