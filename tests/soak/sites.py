"""The servers of a soak, what can happen to each, and which clients it has."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster.broker import Broker, free_port
from tests.edge.support import AUTHORITY, HOST, Files, client_context, host_and_port, issue
from tests.guard.support import GuardedServer
from tests.harness.processes import wait_exit
from tests.soak.clients import Client, Http, Lines, Named, Opening, Place, Short, Streams, WebSocket
from tests.soak.looking import clients_of

_ROOT: Final = Path(__file__).parents[2]
#: Seconds until a server has to have settled after an event.
SETTLES: Final = 60.0
_KEEP: Final = "--keep crash --keep-after 0 --graceful-timeout 20 --park-after"
#: How often in a row the new certificate is to be shown, since any edge may answer.
_ASKED: Final = 8
_PROXIED: Final = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 7000\r\n"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server.

    handler: its name in `served.py`.  binds: of the listeners, by the kind of the clients that use
    each.  deck: how often each event comes in a deal.  clients: how many of each kind.  joins:
    whether it is a node of the cluster.
    """

    handler: str
    options: str
    binds: Mapping[str, str]
    deck: Mapping[str, int]
    clients: Mapping[str, int]
    joins: bool = False


#: What happens to a server of each kind, and how often beside the others.
_USUAL: Final = {
    "reload": 2,
    "worker": 2,
    "template": 1,
    "keeper": 1,
    "guard": 1,
    "all": 1,
    "upgrade": 1,
    "scale": 1,
}

KINDS: Final = {
    "async": Kind(
        "count",
        f"-k async -w 2 {_KEEP} 0.4 --admin 127.0.0.1:{{port}} --cluster-lease 2 --edges 2",
        {
            "tcp": "127.0.0.1:0",
            "unix": "unix:{directory}/app.sock",
            "tls": "127.0.0.2:0,{tls}",
            "proxy": "127.0.0.3:0,proxy=on,proxy-from=127.0.0.1",
        },
        {
            "reload": 3,
            "worker": 3,
            "template": 1,
            "keeper": 1,
            "guard": 1,
            "all": 1,
            "edge": 2,
            "upgrade": 1,
            "scale": 2,
            "certificate": 2,
            "disconnect": 1,
            "broker": 1,
        },
        {"tcp": 3, "unix": 2, "tls": 4, "proxy": 2, "named": 3, "short": 1},
        joins=True,
    ),
    "thread": Kind(
        "count_blocking",
        f"-k thread -w 2 --threads 8 {_KEEP} 0.4 --cluster-lease 2",
        {"tcp": "127.0.0.1:0"},
        {**_USUAL, "disconnect": 1},
        {"tcp": 4, "named": 2, "short": 1},
        joins=True,
    ),
    "prefork": Kind(
        "count_blocking",
        f"-k prefork -w 3 {_KEEP} 0.4",
        {"tcp": "127.0.0.1:0"},
        _USUAL,
        {"tcp": 5, "short": 1},
    ),
    "fork": Kind(
        "count_blocking",
        f"-k fork -w 1 {_KEEP} 0.4",
        {"tcp": "127.0.0.1:0"},
        _USUAL,
        {"tcp": 3, "short": 1},
    ),
    "asgi": Kind(
        "site",
        f"--asgi -w 2 {_KEEP} 0.4 --ws-redeliver",
        {"tcp": "127.0.0.1:0"},
        _USUAL,
        {"http": 4, "websocket": 4},
    ),
}


class SoakServer(GuardedServer):
    """One server of a soak.

    leaky: whether its keepers leak at each reload.
    """

    def __init__(self, directory: Path, name: str, broker: str, *, leaky: bool) -> None:
        self.kind = KINDS[name]
        self.name = name
        directory.mkdir(parents=True)
        served = (Path(__file__).parent / "served.py").read_text()
        # All nodes of a cluster are to serve one target.
        (directory / "served.py").write_text(f"{served}\n\nhandle = {self.kind.handler}\n")
        self.files: Files | None = None
        if "tls" in self.kind.binds:
            self.files = issue(directory)
        tls = self.files.text if self.files else ""
        self.admin = free_port()
        options = self.kind.options.format(port=self.admin).split()
        if self.kind.joins:
            options += ["--cluster", broker, "--cluster-name", "soak"]
        super().__init__(
            directory,
            "served.py:handle",
            *("--name", name, *options),
            bind=[bind.format(tls=tls, directory=directory) for bind in self.kind.binds.values()],
        )
        if leaky:
            self._command[1:3] = ["-m", "tests.soak.leaky"]
            self._environment["PYTHONPATH"] = str(_ROOT)
        self.wanted: int | None = None  # workers, where it was told how many

    def clients(self, drawn: random.Random) -> list[Client]:
        """Return its clients, which are yet to begin."""
        addresses = dict(zip(self.kind.binds, self.addresses, strict=False))
        made: list[Client] = []
        for kind, count in self.kind.clients.items():
            address = addresses.get(kind, addresses["tcp"])
            for number in range(count):
                pause = drawn.choice((0.3, 0.6, 2.0))
                place = Place(self.name, kind, number, pause, random.Random(drawn.random()))
                made.append(_client(place, address))
        return made

    # What is seen of it.

    def pids(self, status: Any) -> dict[str, list[int]]:
        """Return the processes that outlive reloads, by their role."""
        roles = {"guard": [status["pid"]], "keeper": [status["guard"]["keeper"]]}
        if status["edges"]["pids"]:
            roles["edge"] = status["edges"]["pids"]
        if status["cluster"] is not None:
            roles["cluster"] = [status["cluster"]["pid"]]
        if "--admin" in self.kind.options:
            roles["admin"] = self.matching(("socketkeep: admin", "_admin._http"))
        return roles

    def matching(self, words: Sequence[str]) -> list[int]:
        """Return its processes whose command line has one of these."""
        found = self.processes().items()
        return sorted(pid for pid, command in found if any(word in command for word in words))

    def settle(self, connections: int | None = None) -> Any:
        """Wait until nothing is under way, and return the status then.

        connections: that are all to be parked, and held by the guard.
        """
        seen: Any = None
        until = time.monotonic() + SETTLES
        while time.monotonic() < until:
            with suppress(ConnectionError, FileNotFoundError):  # between two keepers
                seen = self.status()
                if self._is_settled(seen, connections):
                    return seen
            time.sleep(0.1)  # so that asking costs little
        raise TimeoutError(f"{self.name}: not settled, {connections} to be parked: {seen}")

    def _is_settled(self, seen: Any, connections: int | None) -> bool:
        workers, open_ = seen["workers"], seen["connections"]
        cluster, guard = seen["cluster"], seen["guard"]
        return bool(
            seen["state"] == "running"
            and seen["accepting"]
            and not workers["starting"] + workers["draining"]
            and workers["ready"] == (self.wanted or workers["ready"])
            and not open_["moving"] + open_["orphaned"]
            and len(seen["edges"]["pids"]) == (2 if self.files else 0)
            and (cluster is None or (cluster["state"], len(cluster["nodes"])) == self.joined)
            and (
                connections is None
                or (
                    not seen["edges"]["leaving"]
                    and open_["open"] == open_["parked"] == guard["connections"] == connections
                    and not guard["unheld"]
                )
            )
        )

    #: The state of its cluster, and how many nodes that has, when all is well.
    joined: tuple[str, int] = ("connected", 1)

    # What happens to it.

    def threatened(self, kind: str, drawn: random.Random) -> frozenset[int] | None:
        """Prepare an event; return from which ports those are connected whom it may cut.

        None: this does not tell.
        """
        if kind != "edge":
            return None
        self._chosen = drawn.choice(self.status()["edges"]["pids"])
        os.kill(self._chosen, signal.SIGSTOP)  # so that it takes no more of them
        return frozenset(clients_of(self._chosen))

    def happen(self, kind: str, drawn: random.Random, broker: Broker) -> None:
        """Have this event happen, and wait for what it announces."""
        getattr(self, f"_{kind}")(drawn, broker)

    def _reload(self, _drawn: random.Random, _broker: Broker) -> None:
        self.ask("reload", SETTLES)

    def _upgrade(self, _drawn: random.Random, _broker: Broker) -> None:
        done = self.cli("upgrade")
        if done.exit_code:
            raise RuntimeError(f"{self.name}: upgrade: {done}")

    def _scale(self, drawn: random.Random, _broker: Broker) -> None:
        now = self.status()["workers"]["ready"]
        for self.wanted in (drawn.choice([n for n in (1, 2, 3, 4) if n != now]), now):
            self.ask("scale", SETTLES, workers=self.wanted)
            self.settle()

    def _worker(self, drawn: random.Random, _broker: Broker) -> None:
        owners = {each["owner"] for each in self.connections() if each["owner"]}
        workers = {each["pid"] for each in self.workers()}
        pid = drawn.choice(sorted(owners | workers))
        _kill(pid)
        wait_exit(pid, SETTLES)

    def _template(self, _drawn: random.Random, _broker: Broker) -> None:
        before = self._templates()
        for pid in before:
            _kill(pid)
        self.wait_until(lambda: bool(self._templates() - before), "another template", SETTLES)

    def _templates(self) -> set[int]:
        return set(self.matching(("socketkeep: template", "_worker._template")))

    def _keeper(self, _drawn: random.Random, _broker: Broker) -> None:
        self.kill_keeper()

    def _guard(self, _drawn: random.Random, _broker: Broker) -> None:
        self.kill_guard()

    def _all(self, _drawn: random.Random, _broker: Broker) -> None:
        self.kill_all_but_guard()

    def _edge(self, _drawn: random.Random, _broker: Broker) -> None:
        since = self.mark()
        _kill(self._chosen)
        self.wait_event("edge ended, and its connections with it", since=since, pid=self._chosen)
        self.wait_event("edge ready", since=since)

    def _certificate(self, _drawn: random.Random, _broker: Broker) -> None:
        assert self.files is not None
        since = self.mark()
        issued = AUTHORITY.issue_cert(HOST)
        self.files.put(issued)
        self.wait_event("certificates renewed", since=since)
        address = self.addresses[list(self.kind.binds).index("tls")]
        wanted = issued.cert_chain_pems[0].bytes().decode().strip()

        def shown() -> bool:
            found = ssl.get_server_certificate(host_and_port(address), timeout=20)
            return found.strip() == wanted

        # Each edge looks for itself, and which one answers is the kernel's choice.
        self.wait_until(lambda: all(shown() for _ in range(_ASKED)), "the new certificate")

    def _disconnect(self, drawn: random.Random, _broker: Broker) -> None:
        name = f"{self.name}-{drawn.randrange(self.kind.clients['named'])}"
        done = self.cli("disconnect", name)
        if done.exit_code:
            named = {each["id"]: (each["name"], each["state"]) for each in self.connections()}
            raise RuntimeError(f"{self.name}: disconnect {name}: {done.stderr} of {named}")

    def _broker(self, drawn: random.Random, broker: Broker) -> None:
        since = self.mark()
        broker.kill()
        self.wait_event("cluster left", since=since)
        time.sleep(drawn.uniform(0.2, 3.0))  # pushes find no broker meanwhile
        broker.start()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGKILL)


def _client(place: Place, address: str) -> Client:
    match place.kind:
        case "http":
            return Http(place, _opening(place, address))
        case "websocket":
            return WebSocket(place, f"ws://{address}", compressed=bool(place.number % 2))
        case "named":
            return Named(place, _opening(place, address))
        case "short":
            return Short(place, _opening(place, address))
    return Lines(place, _opening(place, address))


def _opening(place: Place, address: str) -> Opening:
    async def open_() -> Streams:
        if place.kind == "unix":
            return await asyncio.open_unix_connection(address.removeprefix("unix:"))
        host, port = host_and_port(address)
        if place.kind == "tls":
            context = client_context()
            return await asyncio.open_connection(host, port, ssl=context, server_hostname=HOST)
        reader, writer = await asyncio.open_connection(host, port)
        if place.kind == "proxy":
            writer.write(_PROXIED)
        return reader, writer

    return open_
