"""A reload by a settings file that has changed."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness.configuration import configuration_in, origins
from tests.keeper.bench import Bench, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import ServiceManager, sealed, stored_settings


@pytest.fixture
def bench(make_bench: MakeBench, tmp_path: Path) -> Bench:
    """A keeper of two workers whose options stand in server.toml."""
    bench = make_bench(workers=2, start_timeout=30.0, worker_timeout="off")
    text = 'workers = 2\nstart_timeout = 30\nworker_timeout = "off"\n'
    bench.keeper.origins = origins(tmp_path, text)
    return bench


def rewrite(directory: Path, text: str) -> None:
    whole = f'start_timeout = 30\nworker_timeout = "off"\n{text}'
    (directory / "server.toml").write_text(whole)


def test_workers_times_and_limits(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "socketkeep")
    old = bench.start()
    _, served = bench.serve(old[0])
    rewrite(
        tmp_path,
        "workers = 3\ngraceful_timeout = 5\nmax_connections = 7\nbacklog = 3\nthreads = 9\n"
        'model = "thread"\n',
    )
    bench.reload()
    new = bench.bring_up()
    assert configuration_in(bench.template.load.config).threads == 9
    assert bench.ended_rollouts == [(0, 2, "")]
    new += bench.fork()
    assert len(new) == 3, "one more, once the generation serves"
    new[2].ready()
    bench.settle()
    assert sum(worker.accept_below for worker in new) == 6, "of seven, one is to come"
    assert old[0].order.deadline < bench.clock.now + 5
    config = bench.keeper.config
    assert (config.graceful_timeout, config.model) == (5.0, "auto")
    told = {record.getMessage(): record.fields for record in caplog.records}  # type: ignore[attr-defined]
    assert told["options changed"]["workers"] == "2 -> 3"
    assert told["options need a restart"] == {"model": "auto -> thread"}
    served.detach()


def test_the_store_has_the_settings_that_are_gone_by(bench: Bench, tmp_path: Path) -> None:
    """From the first on, those of a reload once it is done; not those that were refused."""
    with closing(ServiceManager()) as manager:
        store = manager.store(bench.reactor)
        bench.keeper.use_store(store, connections=False)

        def stored() -> list[str]:
            return [name for name in store.names if "listener" not in name]

        bench.start()
        assert stored() == ["socketkeep.settings.1"]
        rewrite(tmp_path, "workers = 3\n")
        bench.reload()
        assert stored() == ["socketkeep.settings.1"]
        bench.bring_up()
        assert stored() == ["socketkeep.settings.2"]
        rewrite(tmp_path, "wokers = 3\n")
        bench.reload()
        assert stored() == ["socketkeep.settings.2"]


def test_the_latest_settings_are_stored(bench: Bench) -> None:
    """They take the place of those of before, where there is room for both in between."""
    with closing(ServiceManager()) as manager:
        store = manager.store(bench.reactor, ["socketkeep.settings.7"])
        store.put_settings(b"a")
        store.put_settings(b"b")
        assert store.names == ["socketkeep.settings.9"]
        assert manager.sent == ["+settings.8", "-settings.7", "+settings.9", "-settings.8"]

        full = manager.store(bench.reactor, [f"socketkeep.{n}" for n in range(99)])
        full.put_settings(b"a")
        full.put_settings(b"b")
        assert [name for name in full.names if "settings" in name] == ["socketkeep.settings.1"]


def test_the_latest_settings_are_gone_on_from() -> None:
    """Others, and what is not sealed, are left alone."""
    passed = [(f"socketkeep.settings.{n}", sealed("settings", b"%d" % n)) for n in (8, 10, 9)]
    writable = os.memfd_create("settings")
    others = [("socketkeep.settings.x", writable), ("socketkeep.connection.1-1-1.1", writable)]
    try:
        assert stored_settings([*passed, *others]) == b"10"
        assert stored_settings([("socketkeep.settings.1", writable)]) is None
        assert stored_settings(others) is None
    finally:
        for _, fd in (*passed, others[0]):
            os.close(fd)


def test_a_wrong_file_leaves_all_as_it_was(bench: Bench, tmp_path: Path) -> None:
    bench.start()
    before = bench.keeper.config
    rewrite(tmp_path, "workers = many\n")
    bench.reload()
    ((code, _, error),) = bench.ended_rollouts
    assert code == 2
    assert "server.toml" in error
    assert len(bench.system.templates) == 1
    assert bench.keeper.config is before
    rewrite(tmp_path, "workers = 1\n")
    bench.reload()
    bench.bring_up()
    assert bench.ended_rollouts[1:] == [(0, 3, "")]
    assert len(bench.keeper.slots) == 1


def test_code_that_cannot_be_loaded_takes_its_options_along(bench: Bench, tmp_path: Path) -> None:
    """The present generation goes by its own, in a template that is started again, too."""
    bench.start()
    first = bench.template
    rewrite(tmp_path, "workers = 3\nthreads = 9\n")
    bench.reload()
    bench.template.read()
    assert configuration_in(bench.template.load.config).threads == 9
    bench.template.load_failed("no such module")
    bench.settle()
    assert bench.keeper.config.threads == 64
    assert len(bench.keeper.slots) == 2
    first.die(1)
    bench.advance(3)
    assert bench.template is not first
    assert configuration_in(bench.template.load.config).threads == 64


def test_after_an_upgrade_too(bench: Bench, tmp_path: Path) -> None:
    """The next version of the keeper has the sources of its options, and reads them anew."""
    bench.start()
    rewrite(tmp_path, "workers = 1\n")
    bench.upgrade().passes()
    bench.settle()
    bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, "")]
    assert len(bench.keeper.slots) == 1
    rewrite(tmp_path, "workers = 2\n")
    bench.reload()
    bench.bring_up()
    assert len(bench.keeper.slots) == 2


def test_what_was_scaled_stays_so(bench: Bench, tmp_path: Path) -> None:
    """Unless the file says another number than before."""
    bench.start()
    bench.keeper.scale(1)
    bench.settle()
    rewrite(tmp_path, "workers = 2\nthreads = 9\n")
    bench.reload()
    bench.bring_up()
    assert len(bench.keeper.slots) == 1


def test_a_parked_connection_goes_by_the_new_limit(bench: Bench, tmp_path: Path) -> None:
    worker, _ = bench.start()
    peer, served = bench.serve(worker)
    served.park()
    bench.settle()
    served.settle()
    rewrite(tmp_path, "workers = 2\nidle_timeout = 3\n")
    bench.reload()
    bench.bring_up()
    assert not is_at_eof(peer)
    bench.advance(3.1)
    assert is_at_eof(peer)


def test_what_is_accepted_goes_by_what_the_kernel_is_told_now(bench: Bench, tmp_path: Path) -> None:
    """And no more by what the file does not say any more."""
    bench.start()
    tcp = bench.listeners[1].sock

    def told() -> tuple[int, ...]:
        return (
            tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )

    idle = told()[1]
    for text, expected in (
        ('tcp_keepalive = "9:5:2"\ntcp_user_timeout = 1.5', (1, 9, 1500)),
        ('tcp_keepalive = "off"', (0, 9, 0)),
    ):
        rewrite(tmp_path, f"workers = 2\n{text}\n")
        bench.reload()
        bench.bring_up()
        assert told() == expected
    assert idle != 9


def test_workers_live_as_long_as_the_file_says_now(bench: Bench, tmp_path: Path) -> None:
    bench.start()
    rewrite(tmp_path, 'workers = 2\nworker_lifetime = 10\nrebalance = "off"\n')
    bench.reload()
    bench.bring_up()
    forked = len(bench.fork())
    bench.advance(9)
    assert forked == len(bench.fork()) == 0
    bench.advance(3)
    assert len(bench.fork()) == 1, "one after another"
    rewrite(tmp_path, "workers = 2\n")
    assert bench.keeper.renewal().config.worker_lifetime == 0.0
