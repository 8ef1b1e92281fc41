"""Another guard, in the place of one that has died, begins with all that there is to be stored."""

from __future__ import annotations

import errno
import os

import msgspec
import pytest

from tests.keeper.bench import Bench, is_alive
from tests.keeper.fakes import Served, ServiceManager
from tests.keeper.test_restoring import killed, successors


def given_up(bench: Bench) -> Served:
    """Have a connection that is kept lose its worker."""
    (worker,) = bench.start()
    _, served = bench.kept(worker)
    killed(bench, served, worker)
    return served


def parked(bench: Bench) -> Served:
    """Have a connection that was served by one worker, and by another from then on, be parked."""
    (worker,) = bench.start()
    peer, served = bench.kept(worker)
    killed(bench, served, worker)
    (heir,) = successors(bench)
    assert is_alive(peer, heir.attach().sock)
    bench.settle()
    return served


def test_it_begins_with_all_by_the_names_that_it_had(
    storing: tuple[Bench, ServiceManager],
) -> None:
    """So a sidecar, which has it by these, need not have it twice, and is never without it."""
    bench, manager = storing
    served = parked(bench)
    before = bench.keeper.store
    assert before is not None
    names = before.names
    assert f"socketkeep.connection.{served.id}.1" in names, "its epoch is 2 by now"
    store = manager.store(bench.reactor)
    manager.sent.clear()
    store.gather()
    bench.keeper.store_anew(store, connections=True)
    assert sorted(store.gathered) == store.names == names
    assert all(os.fstat(fd) for fd in store.gathered.values())
    store.begun()
    before.abandon()
    assert manager.sent == []
    assert not before.names
    store.remove(names[0])
    assert manager.sent == [f"-{names[0].removeprefix('socketkeep.')}"]


def test_a_row_tells_until_another_guard_has_the_handoff(
    storing: tuple[Bench, ServiceManager],
) -> None:
    """A sidecar has the row alone by then: freed, it would say that the connection has ended."""
    bench, manager = storing
    served = given_up(bench)
    store = manager.store(bench.reactor)
    manager.sent.clear()
    store.gather()
    bench.keeper.store_anew(store, connections=True)
    assert f"socketkeep.parcel.{served.id}.1" in store.gathered
    assert served.record.epoch == 1
    store.begun()
    assert served.record.epoch == 0
    assert manager.sent == []


def test_a_handoff_of_what_is_on_its_way_is_of_the_lease_before(
    storing: tuple[Bench, ServiceManager],
) -> None:
    """Whoever has read it by now may have served: its row is to be the later one."""
    bench, manager = storing
    served = given_up(bench)
    (heir,) = successors(bench)
    assert heir.arrived[0][0].epoch == 2
    (held,) = bench.keeper.connections.connection_table
    assert (held.ownership.epoch, held.ownership.worker) == (2, heir.serial)
    store = manager.store(bench.reactor)
    store.gather()
    bench.keeper.store_anew(store, connections=True)
    memfd = store.gathered[f"socketkeep.parcel.{served.id}.2"]
    handoff = msgspec.msgpack.decode(os.pread(memfd, 10_000, 0))
    assert (handoff["epoch"], handoff["state"], handoff["worker"]) == (1, "moving", None)
    store.begun()


def test_who_waits_for_one_that_has_gone_is_called(storing: tuple[Bench, ServiceManager]) -> None:
    bench, manager = storing
    store = bench.keeper.store
    assert store is not None
    manager.has_room = False
    called: list[str] = []
    store.add("socketkeep.a", 1)
    store.when_sent(lambda: called.append("called"))
    assert not called
    store.abandon()
    assert called == ["called"]
    manager.has_room = True
    bench.advance(1.0)
    assert not any(word.endswith("a") for word in manager.sent)


def test_what_there_is_no_descriptor_for_is_sent_when_it_has_begun(
    storing: tuple[Bench, ServiceManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, manager = storing
    (worker,) = bench.start()
    _, served = bench.kept(worker)
    store = manager.store(bench.reactor)
    manager.sent.clear()
    store.gather()

    def full(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", full)
        bench.keeper.store_anew(store, connections=True)
    assert not store.gathered
    assert store.unheld == 1
    store.begun()
    assert f"+connection.{served.id}.1" in manager.sent
    assert store.unheld == 0


def test_what_is_taken_back_meanwhile_it_does_not_begin_with(
    storing: tuple[Bench, ServiceManager],
) -> None:
    bench, manager = storing
    store = manager.store(bench.reactor)
    store.gather()
    store.add("socketkeep.a", 1)
    store.add("socketkeep.b", 1)
    store.remove("socketkeep.a")
    assert list(store.gathered) == ["socketkeep.b"]
    store.begun()


def test_settings_have_a_higher_number_than_those_of_before(
    storing: tuple[Bench, ServiceManager],
) -> None:
    """A sidecar may have the earlier ones still, and the latest count."""
    bench, manager = storing
    assert manager.store(bench.reactor).put_settings(b"a", 7) == 8
