"""One run: servers, clients, events, and a look at what a server holds after each of its events."""

from __future__ import annotations

import os
import platform
import random
import re
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tests.admin.web import fetch
from tests.cluster.broker import Broker
from tests.soak.clients import Named, Tally
from tests.soak.crowd import Crowd
from tests.soak.looking import descriptors, own_memory, processes
from tests.soak.pushing import Pusher, wait_heard
from tests.soak.result import Done, Plan, Result
from tests.soak.schedule import Happening, schedule
from tests.soak.sites import SoakServer
from tests.soak.trends import Sample, trends

#: Seconds until a push that was told delivered has come.
_ARRIVES: Final = 10.0
#: How a line of the log names a connection.
_ONE: Final = re.compile(r"connection \S+ on \S+")
#: What no server may have counted.
_NEVER: Final = (
    "handler_errors",
    "poisoned",
    "unserved",
    "refused_messages",
    "overdue",
)


class Soak:
    """A run under way."""

    def __init__(self, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._directory = directory
        self._say = say
        self._drawn = random.Random(plan.seed)
        self._began = 0.0
        self._happened: Counter[str] = Counter()
        self._upgraded: Counter[str] = Counter()
        self._renewed: dict[str, frozenset[str]] = {}
        self.result = Result(plan, _where())

    def run(self) -> Result:
        """Run it, to its end or to the first thing that is not as promised."""
        plan, drawn = self._plan, self._drawn
        with ExitStack() as stack:
            self._broker = stack.enter_context(Broker(self._directory / "broker"))
            self._servers = {
                name: stack.enter_context(
                    SoakServer(self._directory / name, name, self._broker.url, leaky=plan.leaky)
                )
                for name in plan.sites
            }
            nodes = sum(server.kind.joins for server in self._servers.values())
            for server in self._servers.values():
                server.joined = ("connected", nodes)
            self._crowd = stack.enter_context(Crowd(plan.seed))
            clients = [each for server in self._servers.values() for each in server.clients(drawn)]
            self._named = [client for client in clients if isinstance(client, Named)]
            self._crowd.add(clients)
            self._pusher = stack.enter_context(self._pushing())
            self._began = time.monotonic()
            try:
                self._go_through()
                self.result.seconds = time.monotonic() - self._began
                self._pusher.end()
                self.result.faults += wait_heard(self._pusher, _ARRIVES)
            except (TimeoutError, RuntimeError, OSError) as error:
                self.result.seconds = time.monotonic() - self._began
                self.result.faults.append(f"{type(error).__name__}: {error}")
                raise
            finally:
                self._sum_up()
        result = self.result
        result.faults += self._crowd.faults
        # The servers' is not known: a keeper whose guard was killed is waited for by init.
        used = resource.getrusage(resource.RUSAGE_SELF)
        result.processor = used.ru_utime + used.ru_stime
        return result

    def _go_through(self) -> None:
        for name in self._servers:
            self._look(name, "")
        decks = {
            name: {
                kind: count
                for kind, count in server.kind.deck.items()
                if not self._plan.only or kind in self._plan.only
            }
            for name, server in self._servers.items()
        }
        for happening in schedule(self._plan.seed, decks, self._plan.every):
            time.sleep(happening.pause)  # clients go on meanwhile
            if self._elapsed() > self._plan.seconds or self._crowd.faults:
                break
            self._happen(happening)
        for name in self._servers:
            self._look(name, "")

    def _happen(self, happening: Happening) -> None:
        server, at = self._servers[happening.site], self._elapsed()
        others = [name for name, each in self._servers.items() if each.kind.joins]
        met = others if happening.kind == "broker" else [happening.site]
        threatened = server.threatened(happening.kind, self._drawn)
        with self._crowd.happening(met, happening.kind, threatened):
            server.happen(happening.kind, self._drawn, self._broker)
            for name in met:
                self._servers[name].settle()
        took = self._elapsed() - at
        self.result.events.append(Done(at, happening.site, happening.kind, took))
        self._say(f"{at:8.1f} s  {happening.site:8} {happening.kind:12} settled after {took:.1f} s")
        self._happened[happening.site] += 1
        if happening.kind in ("upgrade", "keeper", "all"):
            self._upgraded[happening.site] += happening.kind == "upgrade"
            self._renewed[happening.site] = frozenset({"tls"})  # who is with an edge that leaves
        self._look(happening.site, happening.kind)

    def _look(self, name: str, after: str) -> None:
        """Have its clients wait, all parked, and note what its processes hold."""
        server = self._servers[name]
        with (
            self._pusher.waiting(),
            self._crowd.waiting(name, renewed=self._renewed.pop(name, frozenset())) as stay,
        ):
            status = server.settle(stay)
            self._check_totals(name, status["totals"])
            self._check_names(server)
            if "--admin" in server.kind.options:
                fetch(server.admin, "/metrics")
            at, events, image = self._elapsed(), self._happened[name], self._upgraded[name]
            for role, pids in server.pids(status).items():
                process = "+".join(map(str, pids))
                program = f"{process}.{image if role in ('keeper', 'guard') else 0}"
                held: Counter[str] = Counter(descriptors=0, registrations=0, memory=0)
                for pid in pids:
                    has, watches = descriptors(pid)
                    held.update(descriptors=has, registrations=watches, memory=own_memory(pid))
                self.result.samples.append(
                    Sample(at, name, role, process, program, events, after, dict(held))
                )
            count = processes(server.pid) - status["workers"]["ready"]
            self.result.samples.append(
                Sample(at, name, "server", name, "", events, after, {"processes": count})
            )

    def _check_names(self, server: SoakServer) -> None:
        """Stop a run in which a server does not know any more what a connection is called."""
        called = {each["name"] for each in server.connections()}
        if missing := {each.name for each in self._named if each.site == server.name} - called:
            raise RuntimeError(f"{server.name}: nothing is called {sorted(missing)} any more")

    def _check_totals(self, name: str, totals: dict[str, Any]) -> None:
        """Stop a run in which a server has counted what never should be."""
        counted = {what: totals[what] for what in _NEVER if totals[what]}
        if counted:
            raise RuntimeError(f"{name} has counted {counted}")

    def _pushing(self) -> Pusher:
        controls = [each.control for each in self._servers.values() if each.kind.joins]
        return Pusher(self._named, controls, 0.5, random.Random(self._plan.seed))

    def _sum_up(self) -> None:
        result = self.result
        result.trends = trends(result.samples)
        result.faults += [
            f"{each.site}: {each.role}: {each.measure} rise by {each.rise:.4g} and more over"
            f" {max(s.events for s in result.samples if s.site == each.site)} events, and may by"
            f" {each.bound:.4g}; by kind: {each.steps}"
            for each in result.trends
            if each.rises
        ]
        tallies: dict[str, dict[str, Tally]] = defaultdict(dict)
        for (site, kind), tally in sorted(self._crowd.tallies.items()):
            tallies[site][kind] = tally
        result.tallies = dict(tallies)
        result.pushes = dict(sorted(self._pusher.told.items()))
        logs = Counter(
            f"{event['level']}: {_ONE.sub('a connection', event['event'])}"
            for server in self._servers.values()
            for event in server.events
            if event["level"] in ("warning", "error", "critical")
        )
        result.logs = dict(sorted(logs.items()))

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


def _where() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": version("socketkeep"),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "processors": str(os.cpu_count()),
        "python": platform.python_version(),
    }
