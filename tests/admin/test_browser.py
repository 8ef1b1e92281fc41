"""The page in a real browser, while its server is reloaded, loses a worker and is upgraded."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.admin.browser import Browser
from tests.admin.web import (
    LIVE,
    STATUS,
    WITH_ALL,
    FakeSource,
    admin_pid,
    admin_port,
    connection,
    pages,
    worker,
)
from tests.harness import Load, Server, write_handler
from tests.harness.processes import wait_exit

pytestmark = pytest.mark.timeout(120)

TOKEN = "0123456789abcdef"
_DOTS = (
    "Object.fromEntries([...document.querySelectorAll('.dot:not(.gone)')]"
    ".map((dot) => [dot.dataset.id, Number(dot.dataset.pid)]))"
)
_SEATS = "[...document.querySelectorAll('.seat[data-pid]')].map((seat) => Number(seat.dataset.pid))"
_FIRST = "document.querySelector('.generation h2').textContent"
#: Whether each dot is drawn inside of the seat of its worker, once it has come to rest.
_SEATED = """[...document.querySelectorAll('.dot:not(.gone)')].every((dot) => {
  const seat = document.querySelector(`.seat[data-pid="${dot.dataset.pid}"]`);
  if (!seat) return false;
  const at = dot.getBoundingClientRect(), box = seat.getBoundingClientRect();
  return at.left >= box.left && at.right <= box.right
    && at.top >= box.top && at.bottom <= box.bottom;
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of this module."""
    with Browser() as browser:
        yield browser


def test_reload_kill_and_upgrade(tmp_path: Path, browser: Browser) -> None:
    """The page shows each, and every connection in the seat that it then has."""
    target = write_handler(tmp_path, "v0", is_async=True)
    options = ("--admin", "127.0.0.1:0", "-w", "2", "--keep", "crash", "--keep-after", "0")

    def seated(generation: int, without: int = 0) -> dict[str, int]:
        """Wait until all dots are where the server says; return by connection its worker."""

        def agrees() -> bool:
            there = {each["id"]: each["worker"] for each in server.connections()}
            shown = browser.value(_DOTS)
            pids = set(browser.value(_SEATS))
            return (
                len(there) == 12
                and shown == there
                and set(there.values()) <= pids
                and without not in pids
                and bool(browser.value(_SEATED))
            )

        browser.wait(f"document.title.includes('generation {generation}')")
        server.wait_until(agrees, "the dots are in their seats")
        return dict(browser.value(_DOTS))

    with Server(tmp_path, target, *options) as server, Load(server.address, 12, pause=0.05) as load:
        browser.resize(1280, 900)
        browser.open(f"http://127.0.0.1:{admin_port(server)}/")
        before = seated(1)
        write_handler(tmp_path, "v1", is_async=True)
        server.reload()
        reloaded = seated(2)
        assert reloaded.keys() == before.keys()
        assert not set(reloaded.values()) & set(before.values())
        said = "document.getElementById('log').innerText"
        browser.wait(f"{said}.includes('connections moved by the reload: 12')")
        browser.wait("/^waited .+, at most /.test(document.getElementById('waits').textContent)")
        victim = next(iter(reloaded.values()))
        os.kill(victim, signal.SIGKILL)
        killed = seated(2, without=victim)
        assert killed.keys() == before.keys()
        browser.wait(f"{said}.includes('worker {victim} in seat')")
        shows = admin_pid(server)
        assert server.cli("upgrade").exit_code == 0
        assert wait_exit(shows, 10.0)
        assert seated(3).keys() == before.keys()
        assert browser.value("document.getElementById('notice').hidden")
        assert load.finish(10.0).clean
    # That the stream broke off is the upgrade's; nothing else was wrong with the page.
    assert [each for each in browser.complaints if "/events" not in each] == []


def test_hostile_names_keyboard_and_phone(browser: Browser) -> None:
    """What peers and paths are called is text; all can be reached by keys and fits a phone."""
    evil = "<img src=x onerror='document.title=1'><script>document.title=2</script>"
    report = replace(
        LIVE,
        status=replace(STATUS, name=evil, target=evil),
        workers=[worker(0, 71), worker(1, 72, 2), worker(2, 73, 2, state="starting")],
        connections=[connection("1-1-1", 71, 0, peer=evil, listener=evil)],
        left_out=5,
    )
    browser.complaints.clear()

    def look(port: int) -> None:
        browser.resize(390, 844, phone=True)
        browser.prefer(reduced_motion="reduce", color_scheme="dark")
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait("document.querySelectorAll('.dot').length === 1")
        for _ in range(20):
            if browser.value("document.activeElement.dataset.pid") == "71":
                break
            browser.press("Tab", 9)
        assert browser.value("document.activeElement.matches('.seat:focus-visible')")
        browser.press(" ", 32)
        browser.wait("document.activeElement.ariaPressed === 'true'")
        assert evil in browser.value("document.getElementById('rows').innerText")
        assert browser.value("document.getElementById('name').textContent") == evil
        assert browser.value("document.querySelectorAll('img').length") == 0
        assert "1 of 3 connections are drawn" in browser.value("document.body.innerText")
        assert browser.value("document.documentElement.scrollWidth <= 390")
        assert browser.value(_FIRST).startswith("Generation 2"), "the later code is on top"
        assert browser.value("document.getAnimations().length") == 0

    async def shown() -> None:
        async with pages(FakeSource(report)) as port:
            await asyncio.to_thread(look, port)
            browser.complaints[:] = [each for each in browser.complaints if "/events" not in each]

    asyncio.run(shown())
    assert browser.complaints == []


def test_table_by_keyboard(browser: Browser) -> None:
    """Sorted, filtered and turned over by keys alone; what is wrong is said, and mended."""
    rows = [
        connection(
            *(f"1-1-{n:x}", 71, 0),
            peer=f"10.0.0.{n}:9",
            age=1000.0 - n,
            idle=float(n),
            name=f"pump-{n % 7}",
        )
        for n in range(1, 121)
    ]
    source = FakeSource(replace(LIVE, connections=rows))
    browser.complaints.clear()
    column = (
        "[...document.querySelectorAll('#all-rows tr')].map((row) => row.children[%d].textContent)"
    )
    ids, ages = column % 0, column % 7
    focused, said = "document.activeElement", "document.getElementById('all-count').textContent"
    heard = "document.getElementById('heard').textContent"
    wrong = "document.getElementById('wrong')"

    def tab_to(condition: str) -> None:
        for _ in range(40):
            if browser.value(f"{focused}.matches(':focus-visible') && {condition}"):
                return
            browser.press("Tab", 9)
        raise AssertionError(f"no Tab leads to {condition}")

    def look(port: int) -> None:
        browser.resize(1280, 900)
        browser.open(f"http://127.0.0.1:{port}/?token={TOKEN}")
        browser.wait("document.readyState === 'complete' && !location.search")
        tab_to(f"{focused}.id === 'filter'")
        browser.wait(f"{said} === 'Rows 1 to 50 of 120.'")
        assert browser.value(f"{ids}[0]") == "1-1-1", "the oldest is first"
        tab_to(f"{focused}.textContent === 'idle'")
        for order, first in (("ascending", "1-1-1"), ("descending", "1-1-78")):
            browser.press(" ", 32)
            browser.wait(
                f"{focused}.parentElement.ariaSort === '{order}' && {ids}[0] === '{first}'"
            )
        assert browser.value("document.querySelectorAll('[aria-sort]').length") == 1
        browser.wait(f"{heard}.endsWith('Sorted by idle, descending.')")
        tab_to(f"{focused}.id === 'to-next'")
        browser.press(" ", 32)
        browser.wait(f"{said} === 'Rows 51 to 100 of 120.' && {ids}[0] === '1-1-46'")
        tab_to(f"{focused}.id === 'to-last'")
        browser.press(" ", 32)
        browser.wait(f"{said} === 'Rows 101 to 120 of 120.' && {ids}.length === 20")
        assert browser.value(f"{focused}.ariaDisabled") == "true"
        assert browser.value(f"{ages}[0]").startswith("16 min")
        browser.value("document.getElementById('filter').focus()")
        browser.command("Input.insertText", text="pump-3 idle>60")
        browser.wait(f"{said} === 'Rows 1 to 8 of 8 that match, of 120 connections.'")
        browser.command("Input.insertText", text=" idle>x")
        browser.wait(f"{wrong}.textContent === \"filter: idle is a number, not 'x'\"")
        assert browser.value(f"{focused}.ariaInvalid") == "true"
        for _ in range(8):
            browser.press("Backspace", 8)
        browser.wait(f"{wrong}.hidden && {focused}.ariaInvalid === 'false'")
        browser.command("Network.clearBrowserCookies")
        browser.wait(f"{wrong}.textContent.startsWith('This server wants a token now: open')")

    async def shown() -> None:
        async with pages(source, TOKEN) as port:
            await asyncio.to_thread(look, port)

    asyncio.run(shown())
    # Refusals are the test's; its policy kept nothing out, and no script failed.
    assert [each for each in browser.complaints if "'source': 'network'" not in each] == []


def test_edges_cluster_and_the_cost_of_moves(browser: Browser) -> None:
    """The page says of each where it is; without any it says nothing of them."""
    plain = replace(LIVE, workers=[worker(0, 71), worker(1, 72, 2)])
    report = replace(plain, status=WITH_ALL)
    browser.complaints.clear()

    def look(port: int, *said: str) -> None:
        browser.resize(1280, 900)
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait("document.querySelectorAll('.seat').length === 2")
        assert browser.value(_FIRST).startswith("Generation 1"), "the earlier code is on the left"
        shown = browser.value("document.body.innerText")
        for text in said:
            assert text in shown
        assert ("TLS:" in shown, "Cluster" in shown) == (bool(said), bool(said))

    async def shown() -> None:
        async with pages(FakeSource(plain)) as port:
            await asyncio.to_thread(look, port)
        async with pages(FakeSource(report)) as port:
            await asyncio.to_thread(
                look,
                port,
                "waited 50 ms, at most 125 ms by reload; 250 ms, at most 300 ms by crash",
                "TLS: 2 edges, 12 connections, 0 in a handshake",
                "40 handshakes done, 7 resumed, 0 failed",
                "Cluster chat: node a, away for 31 s, 2 nodes: no broker",
            )

    asyncio.run(shown())
    assert [each for each in browser.complaints if "/events" not in each] == []
