"""The keeper's tables between two versions of the package."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from socketkeep._keeper.tables import _state
from tests.harness.configuration import configured, listener_options, tls_settings
from tests.keeper.bench import Bench, oldest_reader
from tests.keeper.fakes import real_system


@pytest.fixture
def state(bench: Bench) -> Any:
    """The state of a server of two workers, one of which parks a connection."""
    first, _ = bench.start()
    _, served = bench.serve(first)
    first.send(
        msgspec.structs.replace(served.handoff(b"state"), parked=True), (served.sock.fileno(),)
    )
    bench.settle()
    served.settle()
    return bench.upgrade().state


def memfd_of(data: bytes) -> int:
    memfd = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(memfd, data)
    return memfd


@pytest.fixture
def read() -> Iterator[Any]:
    """Read the state that is encoded as these builtins."""
    opened = []

    def read(builtins: object) -> Any:
        opened.append(memfd_of(msgspec.msgpack.encode(builtins)))
        return _state.read_state(opened[-1])

    yield read
    for fd in opened:
        os.close(fd)


def test_what_is_written_is_read(state: Any) -> None:
    memfd = _state.write_state(state)
    assert _state.read_state(memfd) == state
    assert _state.read_state(memfd) == state, "also a second time"
    seals = fcntl.fcntl(memfd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_WRITE
    os.close(memfd)


def test_fields_that_a_newer_version_added_are_ignored(state: Any, read: Any) -> None:
    def added(value: Any) -> Any:
        if isinstance(value, dict):
            return {"added": 7, **{key: added(each) for key, each in value.items()}}
        return [added(each) for each in value] if isinstance(value, list) else value

    builtins = msgspec.to_builtins(state, builtin_types=(bytes,))
    tables = ("totals", "unanswered", "deaths", "delayed")
    newer = added(builtins)
    for table in (
        newer["keeper"]["pool"],
        newer["keeper"]["connections"],
        newer["keeper"]["slots"],
    ):
        for name in tables:
            table.get(name, {}).pop("added", None)
    for each in newer["keeper"]["edges"]["ended"]:  # a message: its fields have no names
        if isinstance(each, dict):
            each.pop("added")
    assert read(newer) == state


def test_fields_that_an_older_version_lacks_have_defaults(state: Any, read: Any) -> None:
    builtins = msgspec.to_builtins(state, builtin_types=(bytes,))
    del builtins["config"]["poison_limit"]
    del builtins["watcher"]
    del builtins["keeper"]["connections"]["upgraded"]
    assert read(builtins) == state


def test_a_state_for_newer_readers_is_refused(state: Any, read: Any) -> None:
    builtins = msgspec.to_builtins(state, builtin_types=(bytes,))
    builtins |= {"format": 99, "readable_from": 98, "version": "9.9", "keeper": "quite different"}
    with pytest.raises(_state.StateError, match=r"version 9.9 .* format 98 or newer"):
        read(builtins)


@pytest.mark.parametrize(
    ("settings", "counted", "reader"),
    [
        (listener_options(), False, 1),
        (listener_options(), True, 3),
        (listener_options(proxy="optional"), False, 2),
        (listener_options(proxy="on", tls=tls_settings(("a", "a"))), False, 3),
        (listener_options(mode="0600"), False, 4),
        (listener_options(user="www-data"), False, 4),
        (listener_options(group="www-data", proxy="on"), True, 4),
    ],
)
def test_who_could_not_go_on_is_kept_from_it(settings: Any, counted: bool, reader: int) -> None:
    config = configured("a:b")
    assert oldest_reader(config, [listener_options(), settings], counted=counted) == reader


def test_a_version_that_would_serve_as_root_is_kept_from_it() -> None:
    config = configured("a:b", user="nobody")
    assert oldest_reader(config, [listener_options()], counted=False) == 4


def test_a_state_that_is_too_old_is_refused(
    state: Any, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = _state.FORMAT
    monkeypatch.setattr(_state, "OLDEST_READ", written + 1)
    line = f"in format {written}, and this version reads {written + 1} and newer"
    with pytest.raises(_state.StateError, match=line):
        read(msgspec.to_builtins(state, builtin_types=(bytes,)))


def test_what_cannot_be_read_is_refused_in_one_line(state: Any, read: Any) -> None:
    builtins = msgspec.to_builtins(state, builtin_types=(bytes,))
    builtins["keeper"]["pool"]["workers"][0]["state"] = "hibernating"
    with pytest.raises(_state.StateError, match=r"workers\[0\].state|hibernating") as caught:
        read(builtins)
    assert "\n" not in str(caught.value)
    with pytest.raises(_state.StateError, match="no state of a server"):
        read([1, 2, 3])


@pytest.mark.process
def test_an_execution_that_fails_leaves_no_descriptor_inheritable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    fds = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)]
    with pytest.raises(FileNotFoundError):
        real_system().become(fds[0], fds[1:])
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        os.close(fd)


#: The fields that version 0.1.0 reads of each record, and cannot do without.
READ_BY_0_1_0 = {
    ("pool", "workers"): {
        *("serial", "slot", "generation", "model", "resumable", "policy", "started_at", "memfd"),
        *("wake", "link", "state", "pid", "forked", "order", "seats", "accept_below", "arriving"),
        *("departures", "replaces", "error", "killed", "exit", "fork_children", "expires_at"),
        *("adopted", "stuck", "given", "promises"),
    },
    ("generations",): {"number", "state", "model", "resumable", "policy"},
    ("connections", "held"): {
        *("parcel", "fd", "state", "epoch", "worker", "since", "why", "redelivered", "row"),
        *("deaths", "stored_as", "parcel_as"),
    },
}


@pytest.mark.parametrize("path", READ_BY_0_1_0)
def test_the_names_of_saved_fields_stay(state: Any, path: tuple[str, ...]) -> None:
    records = msgspec.msgpack.decode(msgspec.msgpack.encode(state))["keeper"]
    for name in path:
        records = records[name]
    assert records
    for record in records:
        assert READ_BY_0_1_0[path] <= record.keys()


def test_a_saved_worker_is_as_version_0_1_0_writes_it(bench: Bench) -> None:
    """Values, too: an order, a policy and what is None have a form that the other reads."""
    bench.start()
    bench.reload()
    bench.bring_up()
    (saved, *_) = (each for each in bench.keeper.pool if each.order is not None)
    found = msgspec.msgpack.decode(msgspec.msgpack.encode(saved.snapshot(lambda fd: fd)))
    assert found["order"].keys() >= {"how", "deadline"}
    assert found["policy"] == {"on_crash": "close", "redeliver": False}
    assert (found["state"], found["exit"], found["adopted"]) == ("draining", None, None)
    assert found["fork_children"] == []
    assert found["link"].keys() == {"fd", "queue"}
