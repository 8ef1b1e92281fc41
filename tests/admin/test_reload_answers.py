"""The answers to who has asked for a reload, its cost, or an upgrade that a reload ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.admin.control import client, commands_of, guests, request
from tests.harness.configuration import origins
from tests.keeper.bench import Bench

Ask = Callable[..., "Asker"]


class Asker:
    """A client that has asked the keeper for something over its control socket."""

    def __init__(self, bench: Bench, command: str, **arguments: object) -> None:
        ours, self._sock = socket.socketpair()
        self._sock.setblocking(False)
        self._bench = bench
        self.client = client(ours, bench.reactor, commands_of(bench.keeper), guests(4, 4, 4))
        self._sock.sendall(request(command, **arguments))
        bench.settle()

    def heard(self) -> list[Any]:
        """Return what it was told since the last look: texts of progress, the end's (code, …)."""
        self._bench.settle()
        try:
            lines = self._sock.recv(1 << 20).splitlines()
        except BlockingIOError:
            return []
        found: list[Any] = []
        for line in lines:
            told = json.loads(line)
            found.append(told.get("text") or (told.get("exit", 0), told.get("result")))
        return found

    def close(self) -> None:
        self.client.close()
        self._sock.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(workers=1)
    bench.keeper.origins = origins(tmp_path, "workers = 1\nstart_timeout = 30\n")
    yield bench
    bench.close()


@pytest.fixture
def ask(bench: Bench) -> Iterator[Ask]:
    with ExitStack() as stack:

        def ask(command: str, **arguments: object) -> Asker:
            asker = Asker(bench, command, **arguments)
            stack.callback(asker.close)
            return asker

        yield ask


def test_a_reload_and_its_cost(bench: Bench, ask: Ask, tmp_path: Path) -> None:
    """Told before, when the new code serves, and when the old one has gone."""
    [old] = bench.start()
    _, served = bench.serve(old)
    served.become("sent")
    (tmp_path / "server.toml").write_text('workers = 1\nspare = 2\nmodel = "fork"')
    options = {
        "changed": [{"option": "spare", "was": "0", "now": "2"}],
        "restart": [{"option": "model", "was": "auto", "now": "fork"}],
    }
    stays = [{"reason": "uncommitted", "connections": 1}]
    before = ask("reload-forecast")
    assert before.heard() == [], "the worker is still to answer"
    bench.advance(1.1)
    [(code, forecast)] = before.heard()
    assert (code, [each["pid"] for each in forecast["silent"]]) == (0, [old.pid])
    assert options.items() <= forecast.items()
    at_once, waits = ask("reload"), ask("reload", wait=True)
    bench.bring_up()
    [(code, cost)] = at_once.heard()
    assert (code, cost["generation"], cost["moves"], cost["stays"]) == (0, 2, 0, stays)
    assert options.items() <= cost.items()
    assert waits.heard() == ["a reload is under way: this one follows it"]
    bench.bring_up()
    [progress] = waits.heard()
    assert progress.startswith("generation 3 serves; waiting for the earlier one, 29 s at most:")
    for worker in bench.system.templates[1].workers:
        worker.die(0)
    [(code, report)] = waits.heard()
    assert (code, report["generation"], report["cut"], report["changed"]) == (0, 3, [], [])


def test_a_file_that_is_wrong(bench: Bench, ask: Ask, tmp_path: Path) -> None:
    bench.start()
    (tmp_path / "server.toml").write_text("workers = 0.5")
    assert [code for code, _ in ask("reload").heard()] == [2]
    forecast = ask("reload-forecast")
    bench.advance(1.1)
    [(code, told)] = forecast.heard()
    assert (code, "workers: expected a whole number" in told["error"]) == (0, True)


def test_an_upgrade_in_between(bench: Bench, ask: Ask, tmp_path: Path) -> None:
    """A client waits for the end of the reload that ends the upgrade, in place of its own."""
    [old] = bench.start()
    (tmp_path / "server.toml").write_text("workers = 1\nspare = 2")
    bench.upgrade().passes()
    bench.settle()
    upgrade, waits = ask("upgrade"), ask("reload", wait=True)
    for asker in (upgrade, waits):
        asker.heard()
    commands_of(bench.keeper).finish_upgrade([upgrade.client, waits.client])
    bench.bring_up()
    bench.bring_up()
    progress, (code, told) = upgrade.heard()
    assert progress.startswith("the keeper is upgraded to ")
    assert (code, told["generation"], sorted(told)) == (
        *(0, 3),
        ["changed", "generation", "restart", "version"],
    )
    assert any("waiting for the earlier one" in text for text in waits.heard())
    old.die(0)
    for worker in bench.system.templates[1].workers:
        worker.die(0)
    bench.settle()
    [(code, told)] = waits.heard()
    assert (code, told["generation"], told["moved"]) == (0, 3, 0)
