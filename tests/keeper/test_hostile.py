"""What a worker or a template says and leaves reaches nobody but itself.

`test_fuzz` is to be run for longer by hand, and with a seed that a run has printed at its head:

    FUZZ_SECONDS=600 FUZZ_SEED=1 pytest -s -k fuzz tests/keeper
"""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import pytest

from socketkeep.proxy import InetAddress, ProxyHeader, ProxyTls
from tests.harness.configuration import Model
from tests.harness.seam import LAST_EPOCH, connection_name, parts_of_name
from tests.keeper.bench import (
    LAST_RESORT_AFTER,
    LATE_AFTER,
    Bench,
    is_alive,
    is_at_eof,
    open_descriptors,
)
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import BOOT, FarWorker, Served
from tests.keeper.hostile import Hostile
from tests.wire.sending import ABSENT, changed, letter, letter_told, message, send_raw

STATE_LIMIT: Final = 65536
#: A header that says it is an edge's, and goes on with what no edge says.
NO_FACTS: Final = ProxyHeader(
    source=InetAddress("127.0.0.1", 1),
    destination=InetAddress("127.0.0.1", 2),
    tls=ProxyTls(),
    others=((0xE5, b"socketkeep-edge\0{"),),
).encode()
#: Where the ends of pairs of sockets are: they have no name.
PLAIN_END: Final = ("unix", "")
SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "9"))
SEED: Final = os.environ["FUZZ_SEED"]  # of the run: tests/conftest.py


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """A keeper of two workers that keeps connections through crashes."""
    return make_bench(workers=2, keep="crash")


def handoff(served: Served, **changes: Any) -> Any:
    return changed(served.handoff(), **changes)


def raw(worker: FarWorker, *parts: object, descriptors: Sequence[int] = ()) -> None:
    payload = b"\0" + msgspec.msgpack.encode(list(parts))
    send_raw(worker.channel, payload, descriptors)


#: By name: what a worker says of a connection of its own and of one of another's, and with how many
#: handles of its own.
NONSENSE: Final[dict[str, tuple[Callable[[Served, Served], Any], int]]] = {
    "epoch too high": (lambda own, _: handoff(own, epoch=LAST_EPOCH + 1), 1),
    "highest epoch": (lambda own, _: handoff(own, epoch=2**64 - 1), 1),
    "name of another": (lambda _, other: message("Registered", other.id, 1, "x", [], {}), 0),
    "name too long": (lambda own, _: message("Registered", own.id, 1, "x" * 129, [], {}), 0),
    "name that is a line": (lambda own, _: message("Registered", own.id, 1, "x\ny", [], {}), 0),
    "too many groups": (
        lambda own, _: message("Registered", own.id, 1, "x", [f"{n}" for n in range(65)], {}),
        0,
    ),
    "label of a terminal": (
        lambda own, _: message("Registered", own.id, 1, "", [], {"a": "\x1b[2J"}),
        0,
    ),
    "push too large": (lambda _own, _: message("Push", [letter(1, "x", bytes(65537), 1)]), 0),
    "push to nowhere": (lambda _own, _: message("Push", [letter(1, "", b"", 1)]), 0),
    "outcome": (lambda _own, _: message("Delivered", [letter_told(1, 77)]), 0),
    "negative number": (lambda _own, _: message("Delivered", [letter_told(-1, 1)]), 0),
    "epoch 0": (lambda own, _: handoff(own, epoch=0), 1),
    "no id": (lambda own, _: handoff(own, id="not an id"), 1),
    "id too large": (lambda own, _: handoff(own, id="1-1-fffffffffffffffffffffff"), 1),
    "id with zeros": (lambda own, _: handoff(own, id="01-1-1"), 1),
    "another's id": (lambda _, other: other.handoff(), 1),
    "listener": (lambda own, _: handoff(own, listener=999), 1),
    "negative listener": (lambda own, _: handoff(own, listener=-1), 1),
    "negative time": (lambda own, _: handoff(own, accepted_at=-5), 1),
    "time": (lambda own, _: handoff(own, active_at=2**63), 1),
    "bytes": (lambda own, _: handoff(own, bytes_in=2**64 - 1), 1),
    "negative bytes": (lambda own, _: handoff(own, bytes_out=-1), 1),
    "row": (lambda own, _: handoff(own, row=10**9), 1),
    "negative row": (lambda own, _: handoff(own, row=-2), 1),
    "state": (lambda own, _: handoff(own, state=b"s" * (STATE_LIMIT + 1)), 1),
    "written": (lambda own, _: handoff(own, written=-2), 1),
    "taken": (lambda own, _: handoff(own, taken_in=2**63), 1),
    "reply": (lambda own, _: handoff(own, reply=b"a record"), 1),
    "peer": (lambda own, _: handoff(own, peer="x" * 10_000), 1),
    "trace": (lambda own, _: handoff(own, trace="x" * 257), 1),
    "header": (lambda own, _: handoff(own, proxy=b"no header"), 1),
    "header that is cut": (lambda own, _: handoff(own, proxy=b"PROXY TCP4 127.0.0.1"), 1),
    "header and more": (lambda own, _: handoff(own, proxy=b"PROXY UNKNOWN\r\nmore"), 1),
    "header of no edge": (lambda own, _: handoff(own, proxy=NO_FACTS), 1),
    "three handles": (lambda own, _: own.handoff(), 3),
    "253 handles": (lambda own, _: own.handoff(), 253),
    "Keep of another's id": (
        lambda own, other: message("Keep", other.id, 1, own.row, 0, "x", ABSENT),
        1,
    ),
    "Keep of a row": (lambda own, _: message("Keep", own.id, 1, 10**9, 0, "x", ABSENT), 1),
    "Keep of a negative row": (lambda own, _: message("Keep", own.id, 1, -1, 0, "x", ABSENT), 1),
    "Keep without": (lambda own, _: message("Keep", own.id, 1, own.row, 0, "x", ABSENT), 0),
    "Keep of 250": (lambda own, _: message("Keep", own.id, 1, own.row, 0, "x", ABSENT), 250),
    "Keep of a listener": (lambda own, _: message("Keep", own.id, 1, own.row, -1, "x", ABSENT), 1),
    "StartTls where there is none": (
        lambda own, _: message("StartTls", own.id, 1, 0, "x", b"", b"", ABSENT, ABSENT),
        2,
    ),
    "Ready again": (lambda _, other: message("Ready", other.worker.pid), 0),
    "Ready with a handle": (lambda own, _: message("Ready", own.worker.pid), 1),
    "Attached to a row": (lambda own, _: message("Attached", own.id, 1, 10**9), 0),
    "Attached with a handle": (lambda own, _: message("Attached", own.id, 1, 0), 1),
    "Refused of no id": (lambda _, __: message("Refused", "no id", 1, ""), 0),
    "Ended of no id": (lambda _, __: message("Ended", [("x" * 1000, 1)]), 0),
    "Orphaned by no fork": (lambda own, _: message("Orphaned", own.id, 1, 0, None, 1, 1), 0),
    "Forked": (lambda _, other: message("Forked", 1, other.worker.pid), 0),
    "Loaded": (lambda _, __: message("Loaded", "fork", True, []), 0),
    "Seats": (lambda _, __: message("Seats", 7), 0),
    "Acknowledged": (lambda own, _: message("Acknowledged", own.id, 1, True), 0),
}


def scene(bench: Bench) -> tuple[FarWorker, Served, list[tuple[Any, Served]]]:
    """Return who is to be hostile, its connection, and those of the other one."""
    first, second = bench.start()
    _, own = bench.serve(first)
    innocent = [bench.serve(second), bench.kept(second)]
    return first, own, innocent


def require_untouched(bench: Bench, innocent: list[tuple[Any, Served]]) -> None:
    """The others serve, leave, and are entrusted as ever."""
    for peer, served in innocent:
        assert served.worker.process.exit is None
        assert is_alive(peer, served.sock)
        served.keep()
        bench.settle()
        assert served.is_kept()
        held = bench.keeper.connections.connection_table.get(served.id)
        assert held is not None
        assert held.ownership.worker == served.worker.serial
        assert is_alive(peer, held.sock)


@pytest.mark.parametrize("name", NONSENSE)
def test_who_says_what_cannot_be_is_ended_and_nobody_else(bench: Bench, name: str) -> None:
    make, count = NONSENSE[name]
    hostile, own, innocent = scene(bench)
    if name == "Keep of another's id":  # in a row that says so, too
        own.record.name(*parts_of_name(innocent[0][1].id))
    said = make(own, innocent[0][1])
    itself = os.readlink(f"/proc/self/fd/{own.sock.fileno()}")
    hostile.send(said, (own.sock.fileno(),) * count)
    bench.settle()
    assert hostile.process.reaped
    assert hostile.process.signals == [signal.SIGKILL]
    assert itself not in open_descriptors().values()
    assert bench.keeper.counters()["refused_messages"] == 1
    require_untouched(bench, innocent)


@pytest.mark.parametrize("size", [STATE_LIMIT - 1, STATE_LIMIT])
def test_what_is_at_the_bound_is_taken(bench: Bench, size: int) -> None:
    hostile, own, innocent = scene(bench)
    hostile.send(
        handoff(own, state=b"s" * size, epoch=LAST_EPOCH, bytes_in=2**63 - 1),
        (own.sock.fileno(),),
    )
    bench.settle()
    own.settle()
    (receiver,) = [one for one in bench.template.workers if one.arrived]
    attach = receiver.arrived[0][0]
    assert (attach.state, attach.bytes_in) == (b"s" * size, 2**63 - 1)
    assert attach.epoch == 1, "the numbers of leases begin anew"
    receiver.attach()
    bench.settle()
    require_untouched(bench, innocent)


def test_a_connection_that_was_given_may_be_named(make_bench: MakeBench) -> None:
    """Also where the keeper has let go of it: it remembers to whom it gave it."""
    bench = make_bench(workers=3)
    first, second, third = bench.start()
    peer, served = bench.serve(first)
    served.detach()
    bench.settle()
    served.settle()
    (receiver,) = [one for one in (first, second, third) if one.arrived]
    again = receiver.attach()
    bench.settle()
    assert served.id not in bench.keeper.connections.connection_table
    thief = second if receiver is not second else third
    thief.send(again.handoff(), (again.sock.fileno(),))
    bench.settle()
    assert thief.process.reaped, "it was not given to that one"
    bench.upgrade().passes()
    bench.settle()
    again.detach()
    bench.settle()
    assert receiver.process.exit is None
    assert bench.keeper.connections.connection_table.get(served.id) is not None
    assert is_alive(peer, again.sock)


@pytest.mark.parametrize("parked", [False, True])
def test_one_connection_is_held_under_one_id(bench: Bench, parked: bool) -> None:
    """Or one worker could have the keeper hold as many descriptors as it likes."""
    hostile, own, innocent = scene(bench)
    for number in range(3):
        name = connection_name(BOOT, hostile.serial, 70 + number)
        hostile.send(handoff(own, id=name, parked=parked, row=-1), (own.sock.fileno(),))
    bench.settle()
    assert hostile.process.reaped
    kept = sum(served.is_kept() for _, served in innocent)
    assert len(bench.keeper.connections.connection_table) == kept + 1
    require_untouched(bench, innocent)


@pytest.mark.parametrize("kind", ["Keep", "Detached"])
def test_a_descriptor_that_a_handler_has_closed_is_not_the_workers_fault(
    bench: Bench, kind: str
) -> None:
    """A file has the number of the connection by then: the one is refused, the others stay."""
    worker, own, innocent = scene(bench)
    fd = os.open("/dev/full", os.O_RDONLY)
    if kind == "Keep":
        worker.send(own.keeping(ABSENT), (fd,))
    else:
        worker.send(own.handoff(), (fd,))
    os.close(fd)
    bench.settle()
    assert worker.process.exit is None
    assert "/dev/full" not in open_descriptors().values()
    if kind == "Keep":
        assert own.record.keep == "not kept"
    else:
        assert [each.taken for each in worker.acknowledged] == [False]
    require_untouched(bench, [*innocent, (bench._peers[0], own)])
    for again in range(300):
        # A worker that moves what it has offers it each tenth of a second.
        fd = os.open("/dev/null", os.O_RDONLY)
        name = own.id if again < 200 else connection_name(BOOT, worker.serial, again)
        worker.send(handoff(own, id=name), (fd,))
        os.close(fd)
        bench.settle()
        if worker.process.reaped:
            break
    assert again > 250, "that is the same mistake"
    assert worker.process.reaped, "who goes on so is ended"


def test_a_pair_that_no_edge_has_made_is_no_connection(bench: Bench) -> None:
    """Whoever has an end of it by then: the kernel has noted who made it."""
    worker, own, innocent = scene(bench)
    bench.keeper.screening._places.add(PLAIN_END)  # as where an edge has the TLS
    one, other = socket.socketpair()
    with one, other:
        worker.send(own.keeping(ABSENT), (one.fileno(),))
        bench.settle()
        assert own.record.keep == "not kept"
        assert worker.process.exit is None
        bench.keeper.screening.believe_maker(os.getpid())
        worker.send(own.keeping(ABSENT), (one.fileno(),))
        bench.settle()
        assert own.is_kept()
    require_untouched(bench, innocent)


def test_makers_of_pairs_are_bounded(bench: Bench) -> None:
    """Edges may die and be started again for years."""
    for pid in range(1, 3000):
        bench.keeper.screening.believe_maker(pid)
    assert len(bench.keeper.screening.makers) == 1024
    assert 2999 in bench.keeper.screening.makers


@pytest.mark.parametrize("full", [False, True])
def test_a_pipe_for_the_answer_is_not_waited_for(bench: Bench, full: bool) -> None:
    worker, own, _ = scene(bench)
    read, write = os.pipe()
    if full:
        os.set_blocking(write, False)
        while True:
            try:
                os.write(write, b"x" * 4096)
            except BlockingIOError:
                break
        os.set_blocking(write, True)
    own.detach(pipe=write)
    os.close(write)
    bench.settle()
    assert (worker.process.exit is not None) is full
    if not full:
        assert os.read(read, 10) == b"\1"
    os.close(read)


def test_who_closes_its_channel_and_goes_on_is_ended(bench: Bench) -> None:
    hostile, _, innocent = scene(bench)
    hostile.hang_up()
    bench.advance(1.5)
    assert hostile.process.exit is None, "it may be about to end"
    bench.advance(1.0)
    assert hostile.process.reaped
    require_untouched(bench, innocent)


def test_who_never_reads_and_asks_on_is_ended(bench: Bench) -> None:
    """Each answer that waits is memory."""
    hostile, _ = bench.start("prefork")
    _, own = bench.serve(hostile)
    for _ in range(6000):
        if hostile.process.exit is not None:
            break
        hostile.send(own.handoff())  # without a handle: it is told that nothing was taken
        bench.reactor.run_once()
    bench.settle()
    assert hostile.process.reaped
    assert bench.keeper.counters()["refused_messages"] == 1


# Pids.


def test_a_row_kills_nobody(bench: Bench) -> None:
    """A `fork` worker's rows name its children: a template, a worker and a stranger are none."""
    bench.keeper.start()
    first, second = bench.bring_up("fork")
    _, own = bench.serve(first)
    stranger = bench.system.add("stranger")
    victims = [bench.template.process, second.process, stranger]
    for victim in victims:
        row = first.board.claim()
        assert row is not None
        record = first.record(row)
        record.name(0, 1, 77)
        record.epoch, record.pid = 1, victim.pid
    own.record.pid = 2**64 - 1
    first.die(-9)
    bench.settle()
    bench.keeper.stop("close")
    bench.advance(60)
    assert [victim.signals for victim in victims[1:]] == [[signal.SIGKILL], []]
    assert second.process.signals == [signal.SIGKILL], "it was too late, and killed for that"
    stranger.reaped = True


@pytest.mark.parametrize("says", ["stranger", "worker", "template", "own again", "another's"])
def test_a_template_gives_only_what_it_has_forked(bench: Bench, says: str) -> None:
    first, second = bench.start()
    stranger = bench.system.add("stranger")
    bench.keeper.scale(3)
    bench.settle()
    template = bench.template
    template.read()
    ((wanted, _),) = template.unforked
    pid = {
        "stranger": stranger.pid,
        "worker": first.pid,
        "template": template.pid,
    }.get(says, bench.system.add("worker of nobody").pid)
    serial = {"own again": second.serial, "another's": 10**9}.get(says, wanted.serial)
    template.send(message("Forked", serial, pid))
    bench.settle()
    assert template.process.reaped
    assert [first.process.exit, second.process.exit, stranger.exit] == [None, None, None]
    stranger.reaped = True
    for process in bench.system.processes.values():
        process.reaped = process.reaped or process.name == "worker of nobody"


@pytest.mark.parametrize(
    ("kind", "fields"), [("Loaded", ("async", True, [])), ("Seats", (1,)), ("Ready", (1,))]
)
def test_a_template_that_says_what_cannot_be_is_ended(
    bench: Bench, kind: str, fields: tuple[Any, ...]
) -> None:
    workers = bench.start()
    old = bench.template
    if kind == "Loaded":  # once more, while the next generation starts
        bench.keeper.reload()
        bench.settle()
        old = bench.template
        old.loaded()
        bench.settle()
    old.send(message(kind, *fields))
    bench.settle()
    assert old.process.reaped
    assert [worker.process.exit for worker in workers] == [None, None]
    bench.advance(1.1)
    if kind != "Loaded":
        assert bench.template is not old
        bench.template.loaded()
        bench.settle()
    assert bench.keeper.state == "running"


# The end.


class Broken(Exception):
    """What a table that makes no sense may raise."""


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
@pytest.mark.parametrize("broken", ["moving", "pool", "kill", "connections", "closer"])
def test_a_stop_has_an_end_whatever_the_tables_say(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, broken: str
) -> None:
    first, _, _ = scene(bench)
    failed: list[Exception] = []
    monkeypatch.setattr(bench.reactor, "failed", failed.append)
    keeper = bench.keeper

    def fail(*_: object) -> None:
        raise Broken

    match broken:
        case "moving":
            _, lost = bench.serve(first)
            lost.detach()
            bench.settle()
            keeper.connections.moves._waiting.clear()
        case "pool":
            monkeypatch.setattr(keeper.pool, "retire", fail)
        case "kill":
            monkeypatch.setattr(keeper.pool, "kill", fail)
        case "connections":
            monkeypatch.setattr(keeper.connections, "stop", fail)
            monkeypatch.setattr(keeper.templates, "kill_all", fail)
        case "closer":
            monkeypatch.setattr(keeper.closer, "finish_all", fail)
            monkeypatch.setattr(keeper.pool, "retire", fail)
    bench.act_on_signal(number)
    bench.settle()
    if number == signal.SIGTERM:
        assert not bench.has_stopped()
        bench.advance(keeper.config.graceful_timeout + LATE_AFTER + 0.1)
    bench.advance(LAST_RESORT_AFTER + 0.1)
    assert bench.has_stopped()
    assert not [p.name for p in bench.system.processes.values() if p.exit is None]
    monkeypatch.undo()
    # The keeper's process ends with this; here what it still had is let go of.
    keeper.connections.moves._waiting.update(keeper.connections.moves._moving)
    keeper.connections.stop()


def test_a_second_term_after_the_deadline_is_the_sudden_end(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, graceful_timeout=2)
    (worker,) = bench.start()
    bench.serve(worker)
    bench.act_on_signal(signal.SIGTERM)
    bench.act_on_signal(signal.SIGTERM)
    bench.advance(1.9)
    assert worker.process.exit is None
    bench.act_on_signal(signal.SIGTERM)
    bench.advance(0.2)
    assert worker.process.exit is None, "that was in time"
    bench.act_on_signal(signal.SIGTERM)
    bench.settle()
    assert bench.has_stopped()


# All of it, at random.


def believe(arrived: FarWorker) -> None:
    """Take what was given, as a worker does that believes its keeper."""
    while arrived.arrived:
        attach = arrived.arrived[0][0]
        boot, minted_by, number = parts_of_name(attach.id)
        words = (boot, minted_by, number, attach.epoch, attach.accepted_at)
        struct.pack("=7Q", *words, attach.bytes_in + 2**40, attach.bytes_out + 2**40)
        assert attach.attached in ("accepted", "reload", "parked", "upgrade", "crash")
        assert len(attach.state or b"") <= STATE_LIMIT
        assert len(attach.peer) <= 1024
        arrived.attach()


@pytest.mark.parametrize(
    ("model", "keep"), [("async", "crash"), ("async", "reload"), ("fork", "crash")]
)
def test_fuzz(make_bench: MakeBench, model: Model, keep: str) -> None:
    """Two workers are hostile, in turn with all who come after them; the third serves."""
    rng = random.Random(f"{SEED} {model} {keep}")
    bench = make_bench(workers=3, keep=keep, orphan_timeout=1.0)
    bench.start(model)
    safe = bench.template.workers[2]
    innocent = [bench.serve(safe) for _ in range(3)]
    if keep == "crash":
        innocent += [bench.kept(safe) for _ in range(2)]
    before, memory = len(open_descriptors()), resident()
    end = time.monotonic() + SECONDS / 3
    acts: list[str] = []
    made: dict[FarWorker, Hostile] = {}
    try:
        while time.monotonic() < end:
            acts.append(step(bench, rng, safe, innocent, made))
            del acts[:-20]
            assert len(open_descriptors()) < before + 400
    except BaseException as error:
        error.add_note(f"FUZZ_SEED={SEED}, after:\n" + "\n".join(acts))
        raise
    for peer, served in innocent:
        assert is_alive(peer, served.sock)
    assert bench.keeper.counters()["refused_messages"] > 0
    assert resident() < memory + 64 * 1024 * 1024
    # And all goes on: a new generation serves, and what moves is taken.
    for worker in [each for each in bench.template.workers if each is not safe]:
        worker.die(-9)
    bench.settle()
    bench.reload()
    for worker in bench.bring_up(model):
        assert worker.process.exit is None
    assert bench.outcomes[-1].error == ""
    assert safe.told() == "move"
    for _, served in innocent:
        served.detach()
    bench.settle()
    for worker in bench.template.workers:
        believe(worker)
    bench.settle()
    for worker in bench.template.workers:
        for name, served in worker.connections.items():
            for peer, was in innocent:
                assert name != was.id or is_alive(peer, served.sock)
    kept = {name for worker in bench.template.workers for name in worker.connections}
    assert {was.id for _, was in innocent} <= kept


def step(
    bench: Bench,
    rng: random.Random,
    safe: FarWorker,
    innocent: Sequence[tuple[Any, Served]],
    made: dict[FarWorker, Hostile],
) -> str:
    hostile = [
        worker
        for template in bench.system.templates
        for worker in template.workers
        if worker is not safe and worker.process.exit is None
    ]
    chance = rng.random()
    if not hostile or chance < 0.01:
        bench.advance(6.0)
        for template in bench.system.templates:
            if template.process.exit is None and template.model_told:
                for worker in template.fork():
                    worker.ready()
                    bench.settle()
        return "time"
    if chance < 0.02:
        bench.upgrade().passes()
        bench.settle()
        bench.keeper.reloads.cancel("not now")
        bench.settle()
        return "upgrade"
    worker = rng.choice(hostile)
    if chance < 0.03:
        worker.die(-9)
        bench.settle()
        return "death"
    if chance < 0.035:
        worker.hang_up()
        bench.advance(3.0)
        return "hang-up"
    if worker not in made:
        row = worker.board.claim()
        pids = [process.pid for process in bench.system.processes.values()]
        made[worker] = Hostile(
            rng,
            worker.channel,
            worker.board,
            lambda: accepted(bench),
            [served.id for _, served in innocent],
            [*pids, 0, 1, 2**31, 2**63],
            connection_name(BOOT, worker.serial, (row or 0) + 1),
        )
    act = made[worker].act()
    bench.settle()
    for peer in bench._peers[len(innocent) + 40 :]:
        peer.close()
    del bench._peers[len(innocent) + 40 :]
    believe(safe)
    for name in [name for name in safe.connections if name not in {s.id for _, s in innocent}]:
        served = safe.connections[name]
        if served.record.keep != "not offered":
            served.say_ended()
        served.settle("closed")
    if rng.random() < 0.1:
        peer, served = rng.choice(innocent)
        assert is_alive(peer, served.sock)
        assert not is_at_eof(peer)
    assert safe.process.exit is None
    return act


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def accepted(bench: Bench) -> int:
    """Return the number of a descriptor of a new connection of the server."""
    return bench.connect()[1].detach()
