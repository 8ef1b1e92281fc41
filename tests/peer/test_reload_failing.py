"""Reloads that fail, that meet each other, and in which workers die."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from tests.harness import Finished, Load, Server, write_source
from tests.peer.conftest import Site

# A generation that becomes ready only once a file is there; the test decides when.
_GATED = """
from contextlib import contextmanager
from socketkeep import Service

@contextmanager
def wait_for_the_gate():
    while not Path({gate!r}).exists():
        time.sleep(0.01)
    yield

handle = Service(handle, lifespan=wait_for_the_gate)
"""


def _gated(site: Site, version: str, gate: Path) -> str:
    return site.write(version, tail=_GATED.format(gate=str(gate)))


def _in_background(server: Server, *arguments: str) -> tuple[threading.Thread, list[Finished]]:
    outcome: list[Finished] = []
    thread = threading.Thread(target=lambda: outcome.append(server.cli(*arguments)))
    thread.start()
    return thread, outcome


def test_code_that_does_not_load(some_site: Site) -> None:
    """A syntax error is shown, with exit code 4; the old code serves on, and the mended loads."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        before = server.workers()
        write_source(some_site.directory, "VERSION = b'v1'\n\ndef handle(conn:\n")
        failed = server.cli("reload")
        assert failed.exit_code == 4, failed
        assert "SyntaxError" in failed.stderr
        assert "handlers.py" in failed.stderr
        server.wait_event("reload failed")
        assert [each["pid"] for each in server.workers()] == [each["pid"] for each in before]
        load.wait_replies(100)
        some_site.write("v2")
        server.reload()
        load.wait_version("v2")
        tally = load.finish()
        assert tally.clean, tally.summary()
        assert set(tally.versions) == {"v0", "v2"}


def test_workers_that_do_not_become_ready(some_site: Site) -> None:
    """A generation that is not ready in time is given up, with exit code 3; the old serves on."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, "--start-timeout", "4", clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        before = server.workers()
        _gated(some_site, "v1", some_site.directory / "never")
        failed = server.cli("reload")
        assert failed.exit_code == 3, failed
        assert failed.stderr.strip()
        server.wait_event("reload failed")
        server.wait_until(
            lambda: [each["pid"] for each in server.workers()] == [each["pid"] for each in before],
            "the old workers alone",
        )
        load.wait_replies(100)
        tally = load.finish()
        assert tally.clean, tally.summary()
        assert set(tally.versions) == {"v0"}


def test_workers_that_fail_to_start(some_site: Site) -> None:
    """A lifespan that raises is a generation that cannot start: exit code 3, its error shown."""
    target = some_site.write("v0")
    tail = _GATED.format(gate="/").replace("    yield\n", "    raise RuntimeError('no database')\n")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        some_site.write("v1", tail=tail)
        failed = server.cli("reload")
        assert failed.exit_code == 3, failed
        assert "no database" in failed.stderr + "".join(server.stderr)
        load.wait_replies(100)
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_second_reload_during_a_first(some_site: Site) -> None:
    """Both succeed, and what serves in the end is the code as it was at the second."""
    gate = some_site.directory / "gate"
    target = some_site.write("v0")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        _gated(some_site, "v1", gate)
        first, first_outcome = _in_background(server, "reload")
        server.wait_event("reload started", generation=2)
        server.wait_until(
            lambda: server.status()["workers"]["starting"] > 0, "the first reload under way"
        )
        _gated(some_site, "v2", gate)
        second, second_outcome = _in_background(server, "reload")
        load.wait_replies(100)
        gate.touch()
        first.join()
        second.join()
        assert first_outcome[0].exit_code == 0, first_outcome
        assert second_outcome[0].exit_code == 0, second_outcome
        load.wait_version("v2")
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_worker_killed_during_a_reload(some_site: Site) -> None:
    """The reload goes on to its end; only the connections of the dead worker are lost."""
    gate = some_site.directory / "gate"
    target = some_site.write("v0")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        _gated(some_site, "v1", gate)
        command, outcome = _in_background(server, "reload")
        server.wait_event("reload started", generation=2)
        victim = next(each for each in server.workers() if each["connections"])
        os.kill(victim["pid"], signal.SIGKILL)
        server.wait_event("worker exited", pid=victim["pid"])
        gate.touch()
        command.join()
        assert outcome[0].exit_code == 0, outcome
        load.wait_version("v1")
        tally = load.finish()
        assert tally.fin + tally.reset == victim["connections"], tally.summary()
        assert tally.disordered == 0, tally.summary()


def test_new_worker_killed_during_a_reload(some_site: Site) -> None:
    """A worker that dies before its generation is ready ends the reload; the next one succeeds."""
    gate = some_site.directory / "gate"
    target = some_site.write("v0")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        _gated(some_site, "v1", gate)
        command, outcome = _in_background(server, "reload")

        def starting() -> list[int]:
            workers = server.workers()
            return [each["pid"] for each in workers if each["generation"] == 2 and each["pid"]]

        server.wait_until(lambda: bool(starting()), "a worker of the new generation")
        os.kill(starting()[0], signal.SIGKILL)
        command.join()
        assert outcome[0].exit_code == 3, outcome
        load.wait_replies(100)
        assert set(load.tally.versions) == {"v0"}
        gate.touch()
        server.reload()
        load.wait_version("v1")
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_reload_by_signal(some_site: Site) -> None:
    """SIGHUP is a reload."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        some_site.write("v1")
        server.signal(signal.SIGHUP)
        load.wait_version("v1")
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_killed_worker_is_replaced(some_site: Site) -> None:
    """A worker that dies takes its own connections with it, and its seat is filled at once."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        ready = server.status()["workers"]["ready"]
        victim = next(each for each in server.workers() if each["connections"])
        os.kill(victim["pid"], signal.SIGKILL)
        server.wait_event("worker exited", pid=victim["pid"])
        server.wait_until(
            lambda: server.status()["workers"]["ready"] == ready, "the worker replaced"
        )
        tally = load.finish()
        assert tally.fin + tally.reset == victim["connections"], tally.summary()
        assert tally.disordered == 0, tally.summary()
        with Load(server.address, victim["connections"]) as newcomers:
            newcomers.wait_version("v0")
            assert newcomers.finish().clean
