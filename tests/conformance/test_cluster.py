"""Three nodes, three brokers, HAProxy in front, and all that can befall them, one after another.

Each is a machine of its own, as far as the network goes: a namespace with an address.  A crowd of
devices is connected through HAProxy; meanwhile pushes go to random names from random nodes.  Each
has a number, so that it is seen at the device whether it came once, and told at the sender what
became of it.

CLUSTER_CLIENTS says how many devices there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import nkeys  # type: ignore[import-untyped]
import pytest
import trustme

from socketkeep import Client, SocketkeepError
from tests.cluster.broker import Broker
from tests.cluster.test_served import joined, serve
from tests.harness.network import Namespace, namespace
from tests.server.support import PrefixedServer

CLIENTS: Final = int(os.environ.get("CLUSTER_CLIENTS", "3000"))
_SENDERS: Final = 3
_PATIENCE: Final = 60.0 + CLIENTS / 20
_FRONT: Final = "10.98.0.1"

HANDLER: Final = """
from socketkeep import *

@resumable
async def handle(conn):
    async for line in conn.lines():
        conn.name = line.decode().partition(" ")[2]
        await conn.send(b"ok\\n")
        conn.commit()
"""

PROXY: Final = """
global
    maxconn 8000
defaults
    mode tcp
    maxconn 8000
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    retries 6
    option redispatch 1
    default-server check inter 200ms fall 2 rise 1
frontend devices
    bind 10.98.0.1:7100
    default_backend nodes
backend nodes
    balance leastconn
    server n1 10.98.0.11:7100
    server n2 10.98.0.12:7100
    server n3 10.98.0.13:7100
"""


class Machines:
    """A switch, with an address at which HAProxy listens, and machines that are plugged in."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.hub: Namespace = stack.enter_context(namespace())
        self.hub.run("ip", "link", "add", "switch", "type", "bridge")
        self.hub.run("ip", "addr", "add", f"{_FRONT}/24", "dev", "switch")
        self.hub.run("ip", "link", "set", "switch", "up")

    def machine(self, number: int) -> Namespace:
        """Return a new one, with the address 10.98.0.NUMBER."""
        made: Namespace = self._stack.enter_context(namespace())
        self.hub.run(*f"ip link add port{number} type veth peer name net netns {made.pid}".split())
        self.hub.run("ip", "link", "set", f"port{number}", "master", "switch", "up")
        made.run("ip", "addr", "add", f"10.98.0.{number}/24", "dev", "net")
        made.run("ip", "link", "set", "net", "up")
        return made

    def plug(self, number: int, *, into: bool) -> None:
        """Pull a machine's cable, or plug it in again."""
        self.hub.run("ip", "link", "set", f"port{number}", "up" if into else "down")


class Crowd:
    """The devices."""

    def __init__(self, hub: Namespace) -> None:
        module = ("-m", "tests.conformance.cluster_crowd")
        self._process = subprocess.Popen(
            [*hub.prefix, sys.executable, *module, _FRONT, "7100", str(CLIENTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def came(self) -> int:
        """How often devices have come, and come back, in all."""
        return sum(times for times, _ in self.ask("got").values())

    def wait_named(self, came: int = 0) -> float:
        """Wait until all are there, after `came` arrivals in all; return how long that took."""
        began = time.monotonic()
        wait_until(lambda: self.ask("named") == CLIENTS, "all devices are named")
        wait_until(lambda: self.came >= came, "those that were cut have come back")
        wait_until(lambda: self.ask("named") == CLIENTS, "all devices are named")
        return time.monotonic() - began

    def close(self) -> None:
        with self._process:
            pass  # which ends its input


def wait_until(reached: Any, what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Senders:
    """Pushes to random names from random nodes, and remembers what was told of each."""

    def __init__(self, controls: list[Path]) -> None:
        self._controls = controls
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self.told: dict[int, tuple[str, str]] = {}  # by number: to whom, and the outcome
        self.nodes: Counter[str] = Counter()
        self.times: list[float] = []
        self._threads = [
            threading.Thread(target=self._send, args=(random.Random(each),))
            for each in range(_SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, chance: random.Random) -> None:
        while not self._over.is_set():
            to, control = f"device-{chance.randrange(CLIENTS)}", chance.choice(self._controls)
            self.push(to, control)

    def push(self, to: str, control: Path) -> str:
        with self._lock:
            self._number = number = self._number + 1
        began = time.monotonic()
        try:
            told = Client(control).push(to, b"%d\n" % number, timeout=2)
        except (OSError, SocketkeepError):  # the node itself has ended, or is upgraded
            outcome = "no answer"
            time.sleep(0.05)
        else:
            outcome = told.outcome
            if outcome == "delivered":
                self.times.append(time.monotonic() - began)
                self.nodes["elsewhere" if told.node else "here"] += 1
        self.told[number] = (to, outcome)
        return outcome

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)


@contextmanager
def proxy(hub: Namespace, directory: Path) -> Iterator[None]:
    configuration = directory / "haproxy.cfg"
    configuration.write_text(PROXY)
    with (directory / "haproxy.log").open("w") as log:
        running = subprocess.Popen(
            [*hub.prefix, "haproxy", "-db", "-f", str(configuration)], stdout=log, stderr=log
        )
    try:
        yield
    finally:
        running.kill()
        running.wait()


def brokers_of(stack: ExitStack, machines: Machines, directory: Path) -> list[Broker]:
    """Start three brokers, which are a cluster of their own."""
    routes = ",".join(f"nats://10.98.0.{each}:6222" for each in (21, 22, 23))
    made = []
    for each in (21, 22, 23):
        host = f"10.98.0.{each}"
        options = (
            *("-n", f"broker-{each}", "--cluster_name", "brokers", "--routes", routes),
            *("--cluster", f"nats://{host}:6222"),
        )
        prefix = machines.machine(each).prefix
        broker = Broker(directory / host, *options, host=host, port=4222, prefix=prefix)
        made.append(stack.enter_context(broker))
    return made


def node(machines: Machines, number: int, directory: Path, prefix: Any) -> PrefixedServer:
    directory.mkdir(exist_ok=True)
    (directory / "app.py").write_text(HANDLER)
    urls = ",".join(f"nats://10.98.0.{each}:4222" for each in (21, 22, 23))
    cluster = ("--cluster", urls, "--cluster-lease", "5", "--name", f"n{number}")
    more = ("-w", "2", "--max-connections", "5000", "--backlog", "4096")
    return PrefixedServer(
        *(prefix, directory, "app:handle", *cluster, *more),
        bind=[f"10.98.0.{10 + number}:7100"],
    )


def connected(server: PrefixedServer, nodes: int) -> None:
    def there() -> bool:
        cluster = server.status()["cluster"]
        return bool(cluster["state"] == "connected" and len(cluster["nodes"]) == nodes)

    wait_until(there, f"{server.directory.name} is in a cluster of {nodes}")


def longest_away(server: PrefixedServer) -> float:
    """Return for how long at most a node was without a broker."""
    longest, left = 0.0, None
    for event in server.events:
        at = datetime.fromisoformat(event["time"]).timestamp()
        if event["event"] == "cluster left":
            left = at
        if event["event"] == "cluster joined" and left is not None:
            longest, left = max(longest, at - left), None
    return longest


def crash(server: PrefixedServer) -> None:
    """End a node as a machine's end would, but for the network."""
    for pid in (server.pid, *server.processes()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()


@pytest.mark.timeout(180)
def test_each_push_comes_once_or_is_reported(tmp_path: Path) -> None:
    with ExitStack() as stack:
        machines = Machines(stack)
        brokers = brokers_of(stack, machines, tmp_path)
        places = {each: machines.machine(10 + each).prefix for each in (1, 2, 3)}
        nodes = {
            each: stack.enter_context(node(machines, each, tmp_path / f"n{each}", places[each]))
            for each in (1, 2, 3)
        }
        for each in nodes.values():
            connected(each, 3)
        stack.enter_context(proxy(machines.hub, tmp_path))
        crowd = Crowd(machines.hub)
        stack.callback(crowd.close)
        report = {"named": crowd.wait_named()}
        senders = Senders([each.control for each in nodes.values()])
        stack.callback(senders.stop)

        nodes[1].reload()
        brokers[0].kill()
        for each in nodes.values():
            connected(each, 3)
        came = crowd.came + nodes[2].status()["connections"]["named"]
        crash(nodes[2])
        report["named again after a crash"] = crowd.wait_named(came)
        connected(nodes[1], 2)
        brokers[0].start()
        nodes[2] = stack.enter_context(node(machines, 2, tmp_path / "n2", places[2]))
        machines.plug(23, into=False)
        for each in nodes.values():
            connected(each, 3)
        came = crowd.came + nodes[3].status()["connections"]["named"]
        nodes[3].signal(signal.SIGTERM)
        report["named again after a leave"] = crowd.wait_named(came)
        assert nodes.pop(3).wait_exit() == 0
        nodes[2].reload()
        machines.plug(23, into=True)
        for each in nodes.values():
            connected(each, 2)

        # At rest each name is reached from each node.
        senders.stop()
        crowd.wait_named()
        sample = random.Random(1).sample(range(CLIENTS), min(CLIENTS, 100))
        for server in nodes.values():
            for number in sample:
                to = f"device-{number}"
                wait_until(lambda to=to, c=server.control: senders.push(to, c) == "delivered", to)
        report["longest without a broker"] = max(map(longest_away, nodes.values()))
        judge(crowd, senders, report)


def judge(crowd: Crowd, senders: Senders, report: dict[str, float]) -> None:
    """See that what was told of each push is what the device has got."""
    delivered = {number for number, (_, outcome) in senders.told.items() if outcome == "delivered"}
    deadline = time.monotonic() + 10
    while True:
        got = crowd.ask("got")
        came = Counter(number for _, numbers in got.values() for number in numbers)
        if delivered <= came.keys() or time.monotonic() > deadline:
            break
    outcomes = Counter(outcome for _, outcome in senders.told.values())
    times = sorted(senders.times)
    print(f"\n{CLIENTS} clients, {len(senders.told)} pushes: {dict(outcomes)}")
    print(f"delivered {dict(senders.nodes)}, half within {times[len(times) // 2] * 1000:.1f} ms,")
    print(f"99 % within {times[len(times) * 99 // 100] * 1000:.1f} ms")
    print({what: f"{seconds:.1f} s" for what, seconds in report.items()})
    print(f"came back {sum(times - 1 for times, _ in got.values())} times")
    for name, (_, numbers) in got.items():
        assert all(senders.told[number][0] == name for number in numbers), name
    assert not [number for number, times in came.items() if times > 1]
    silent = [number for number in delivered if number not in came]
    assert not silent, f"told delivered, and never came: {silent}"
    maybe = ("delivered", "uncertain", "no answer")
    wrong = [senders.told[number] for number in came if senders.told[number][1] not in maybe]
    assert not wrong, f"told otherwise, and came: {wrong}"
    assert senders.nodes["elsewhere"] > 0
    assert outcomes["delivered"] > len(senders.told) / 3


def test_tls_with_a_certificate_and_a_key_for_a_user(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    for name, issued in (
        ("broker", authority.issue_cert("127.0.0.1")),
        ("node", authority.issue_cert("node.example")),
    ):
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "node.nk").write_bytes(seed)
    user = nkeys.from_seed(bytearray(seed)).public_key.decode()
    tls = f'cert_file: "{tmp_path}/broker.pem", key_file: "{tmp_path}/broker.pem"'
    (tmp_path / "nats.conf").write_text(
        f'tls {{ {tls}, ca_file: "{tmp_path}/ca.pem", verify: true }}\n'
        f"authorization {{ users = [ {{ nkey: {user} }} ] }}\n"
    )
    certificate = ("--cluster-certificate", str(tmp_path / "node.pem"))
    key = ("--cluster-credentials", str(tmp_path / "node.nk"))
    with (
        Broker(tmp_path / "broker", "-c", str(tmp_path / "nats.conf")) as broker,
        serve(
            *(tmp_path, "a", broker.url, *certificate, *key),
            *("--cluster-ca", str(tmp_path / "ca.pem")),
        ) as a,
    ):
        joined(a, 1)
        for name, options, said in (
            ("stranger", ("stranger.pem", *certificate, *key), "its certificate is not trust"),
            ("unknown", ("ca.pem", *certificate), "the broker refuses the credentials"),
            (
                "unread",
                ("ca.pem", "--cluster-credentials", "/nowhere"),
                "--cluster-credentials /n",
            ),
        ):
            ca, *more = options
            with serve(
                tmp_path, name, broker.url, "--cluster-ca", str(tmp_path / ca), *more
            ) as other:
                error = other.wait_event("cluster not joined")["error"]
                assert said in error
