"""redis-py counts on connections whose workers are killed: each counter is to be exact.

``python -m tests.conformance.storm_of_kills MODEL KILLS [--tls] [--lossy]`` says what it showed.
With --lossy it is to run in a network namespace of its own (``unshare --net``), whose loopback
device it makes slow, and lossy in both directions.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.edge.support import issue
from tests.harness import Server

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "kv.py"
WORKERS: Final = 6
CLIENTS: Final = 6
#: Of each slot; what dies more often the server replaces more slowly.
KILLS_OF_A_WORKER: Final = 35
#: Seconds in which each reply has come, whatever is killed and lost meanwhile.
PATIENCE: Final = 30.0
#: What the kernel of a test machine is sure to have: one of twenty packets is lost, and the others
#: wait behind each other.
LOSSY: Final = (
    "ip link set lo up",
    "nft add table inet lossy",
    "nft add chain inet lossy in { type filter hook input priority 0 ; }",
    "nft add rule inet lossy in numgen random mod 100 < 5 drop",
    "tc qdisc add dev lo root tbf rate 20mbit burst 4kb latency 20ms",
)


@dataclass
class Result:
    """What a storm has shown."""

    kills: int = 0
    counted: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    crashes: int = 0  # after which a connection went on
    lost: int = 0


class Counter(threading.Thread):
    """One connection, on which a key is counted up; no reply is to be skipped or repeated."""

    def __init__(self, server: Server, *, tls: bool) -> None:
        super().__init__(daemon=True)
        self.counted = 0
        self.wrong = ""
        self.ends = False
        self._client = redis.Redis(
            port=server.port,
            single_connection_client=True,
            socket_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),  # type: ignore[no-untyped-call,unused-ignore]
            protocol=2,
            ssl=tls,
            ssl_cert_reqs="none",
            driver_info=None,
        )

    def run(self) -> None:
        try:
            while not self.ends:
                reply = self._client.incr("n")
                if reply != self.counted + 1:
                    self.wrong = f"{reply!r} after {self.counted}"
                    return
                self.counted += 1
            stored = self._client.get("n")
            if stored != b"%d" % self.counted:
                self.wrong = f"{stored!r} is stored after {self.counted}"
        except redis.RedisError as error:
            self.wrong = f"{error!r} after {self.counted}"


def victims(server: Server) -> list[int]:
    """Return the processes that serve a connection now."""
    return sorted({each["owner"] for each in server.connections() if each["owner"]})


def storm(directory: Path, model: str, kills: int, seed: int, *, tls: bool) -> Result:
    """Kill the workers of one server so often, as far as it replaces them at once."""
    drawn = random.Random(seed)
    result = Result()
    target = f"{EXAMPLE}:{'session' if model == 'async' else 'blocking_session'}"
    options: tuple[str, ...] = (
        "--model",
        model,
        "--workers",
        str(WORKERS),
        "--keep",
        "crash",
        "--keep-after",
        "0",
    )
    options += ("--poison-limit", "1000000")
    bind = [f"127.0.0.1:0,{issue(directory).text}"] if tls else None
    with Server(directory, target, *options, bind=bind) as server:
        counters = [Counter(server, tls=tls) for _ in range(CLIENTS)]
        for counter in counters:
            counter.start()
        server.wait_until(
            lambda: (
                server.status()["connections"]["kept"] == CLIENTS
                or any(each.wrong for each in counters)
            ),
            "all kept",
        )
        limit = kills if model == "fork" else min(kills, WORKERS * KILLS_OF_A_WORKER)
        counted = 0
        while result.kills < limit and not any(each.wrong for each in counters):
            goal, until = counted + drawn.randrange(1, 8), time.monotonic() + 2.0
            while (counted := sum(each.counted for each in counters)) < goal:
                if time.monotonic() > until:  # who is killed may be who has just begun
                    break
                time.sleep(0.0005)
            for pid in drawn.sample(found := victims(server), min(2, len(found))):
                time.sleep(drawn.uniform(0.0, 0.004))  # any moment of a message, or none
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    result.kills += 1
        for counter in counters:
            counter.ends = True
        for counter in counters:
            counter.join(2 * PATIENCE)
            if counter.is_alive():
                counter.wrong = f"no reply after {counter.counted}"
        totals = server.status()["totals"]
        fallen_back = [line for line in map(str, server.events) if "at least once" in line]
        assert not fallen_back, fallen_back
        result.counted = [each.counted for each in counters]
        result.wrong = [each.wrong for each in counters if each.wrong]
        result.crashes, result.lost = totals["attached"]["crash"], totals["lost"]
    return result


def storms(directory: Path, model: str, kills: int, seed: int, *, tls: bool = False) -> Result:
    """As many storms as it takes."""
    whole = Result()
    while whole.kills < kills and not whole.wrong:
        place = directory / str(whole.kills)
        place.mkdir()
        part = storm(place, model, kills - whole.kills, seed + whole.kills, tls=tls)
        whole.kills += part.kills
        whole.counted += part.counted
        whole.wrong += part.wrong
        whole.crashes += part.crashes
        whole.lost += part.lost
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["fork", "prefork", "thread", "async"])
    parser.add_argument("kills", type=int)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--lossy", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    said = parser.parse_args()
    if said.lossy:
        for command in LOSSY:
            subprocess.run(command.split(), check=True)
    with tempfile.TemporaryDirectory() as directory:
        result = storms(Path(directory), said.model, said.kills, said.seed, tls=said.tls)
    print(
        f"seed {said.seed}: {said.model}, {result.kills} kills, {sum(result.counted)} counted on"
        f" {len(result.counted)} connections, {result.crashes} went on after a crash,"
        f" {result.lost} lost, wrong: {result.wrong or 'none'}"
    )
    raise SystemExit(bool(result.wrong or result.lost))


if __name__ == "__main__":
    main()
