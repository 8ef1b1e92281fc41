"""The present state of a keeper, as the reports that the inspecting commands show."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

import msgspec

from socketkeep._admin._reports import (
    AttachedByReason,
    CertificateReport,
    ClusterReport,
    ConnectionReport,
    ConnectionsByState,
    ConnectionsPart,
    EdgesReport,
    GuardReport,
    ListenerReport,
    LiveReport,
    OptionReport,
    OverLimits,
    PushesByOutcome,
    RefusedHeaders,
    ReloadCost,
    ReloadForecast,
    ReloadReport,
    StatusReport,
    StayingReport,
    Totals,
    UpgradeReport,
    WaitReport,
    WaitReportByReason,
    WorkerReport,
    WorkersByState,
    WorkerStayingReport,
)
from socketkeep._base._admission import LIMITS, REASONS, counter_of
from socketkeep._base._mistakes import OptionError
from socketkeep._config._chosen import handlers_time
from socketkeep._config._renewal import Change, Renewal
from socketkeep._config._server_options import listener_settings, parse_metrics_label
from socketkeep._inspect._queue import listen_drops, listen_queue
from socketkeep._keeper._keeper import Keeper
from socketkeep._keeper.rollout._superseded import Fate
from socketkeep._keeper.tables._connection_table import HeldConnection
from socketkeep._keeper.tables._ownership import Ownership
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.tables._staying import Staying, why_it_stays
from socketkeep._keeper.tables._waits import BOUNDS
from socketkeep._keeper.workers._workers import Worker
from socketkeep._names._pushing import PushOutcome
from socketkeep._native import CORE
from socketkeep._stream import _record as record
from socketkeep._stream._lease import Attached
from socketkeep._wire._scoreboard import connection_id, id_of, parse_connection_id

#: In one answer for a shell: more are of no use to who has typed so little.
MOST_WORDS: Final = 200
_SHOWN = (WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING)


def status(keeper: Keeper, name: str) -> StatusReport:
    """Return the answer to ``status``."""
    states = [worker.state for worker in keeper.pool]
    owned, moving = keeper.pool.connections, len(keeper.connections.moves)
    parked = len(keeper.connections.parking)
    generation = keeper.current or keeper.reloads.coming
    return StatusReport(
        name=name,
        pid=keeper.guard.pid if keeper.guard is not None else os.getpid(),
        version=keeper.version,
        python=sys.version.split()[0],
        core=CORE,
        uptime=time.monotonic() - keeper.started_at,
        state=keeper.state,
        target=keeper.config.target,
        model=generation.model if generation else "auto",
        keep=keeper.config.keep,
        generation=keeper.current.number if keeper.current else 0,
        listeners=listeners(keeper),
        workers=WorkersByState(**{state.value: states.count(state) for state in _SHOWN}),
        connections=ConnectionsByState(
            open=open_connections(keeper),
            owned=max(0, owned),
            moving=moving,
            parked=parked,
            kept=len(keeper.connections.connection_table) - len(keeper.connections.porch),
            awaiting_header=len(keeper.connections.porch),
            named=len(keeper.connections.post.names),
            groups=keeper.connections.post.names.groups,
            by_label=_by_label(keeper),
        ),
        totals=_totals(keeper),
        accepting=keeper.accepting,
        last_reload=keeper.reloads.last_duration,
        waits=WaitReportByReason(
            reload=_waits(keeper, "reload"),
            parked=_waits(keeper, "parked"),
            crash=_waits(keeper, "crash"),
            upgrade=_waits(keeper, "upgrade"),
        ),
        edges=_edges(keeper),
        full=keeper.fullness.full,
        child_requests=keeper.config.child_requests,
        spare=keeper.config.spare,
        guard=_guard(keeper),
        cluster=_cluster(keeper),
        holding=keeper.holding.why,
        fork_snapshot=keeper.config.fork_snapshot,
    )


def _cluster(keeper: Keeper) -> ClusterReport | None:
    elsewhere = keeper.connections.post.elsewhere
    if elsewhere is None:
        return None
    told = elsewhere.state
    sent = {key.removeprefix("out "): n for key, n in told.counts.items() if key[:4] == "out "}
    return ClusterReport(
        name=elsewhere.cluster,
        node=elsewhere.label,
        state=told.state,
        for_seconds=max(0.0, time.monotonic() - told.since),
        broker=told.server,
        error=told.error,
        pid=elsewhere.pid,
        nodes=told.nodes,
        received=told.counts.get("in", 0),
        sent=sent,
        claims=told.counts.get("claims", 0),
        taken=told.counts.get("taken", 0),
        joined=told.counts.get("sessions", 0),
    )


def _guard(keeper: Keeper) -> GuardReport | None:
    if keeper.guard is None or keeper.store is None:
        return None
    return GuardReport(
        pid=keeper.guard.pid,
        keeper=os.getpid(),
        starts=keeper.guard.starts,
        stored=len(keeper.store),
        connections=sum(1 for each in keeper.connections.connection_table if each.stored_as),
        unheld=keeper.store.unheld,
        most=keeper.store.most,
    )


def _edges(keeper: Keeper) -> EdgesReport:
    edges = keeper.edges
    told = edges.totals()
    now = time.time()
    return EdgesReport(
        pids=sorted(edge.pid for edge in edges if edge.leaves_by is None),
        leaving=sorted(edge.pid for edge in edges if edge.leaves_by is not None),
        connections=told.open,
        shaking=told.shaking,
        handshakes=told.handshakes,
        resumed=told.resumed,
        failed=told.failed,
        certificates=[
            CertificateReport(
                path=each.path,
                listener=keeper.listeners[each.listener].text,
                names=each.names,
                expires_in=each.expires and each.expires - now,
            )
            for each in told.certificates
        ],
    )


def listeners(keeper: Keeper) -> list[ListenerReport]:
    """Return the answer to ``listeners``."""
    reports = []
    settings = listener_settings(keeper.config, len(keeper.listeners))
    for listener, said in zip(keeper.listeners, settings, strict=True):
        queue = listen_queue(listener.sock) if listener.fileno() >= 0 else None
        reports.append(
            ListenerReport(
                address=listener.text,
                backlog=queue.backlog if queue else keeper.config.backlog,
                queued=queue.queued if queue else None,
                proxy=said.proxy,
                tls=said.tls is not None,
                dropped=listen_drops(listener.sock) if listener.fileno() >= 0 else None,
            )
        )
    return reports


def workers(keeper: Keeper) -> list[WorkerReport]:
    """Return the answer to ``workers``."""
    now = time.monotonic()
    return [
        WorkerReport(
            slot=worker.slot,
            pid=worker.pid,
            generation=worker.generation,
            state=worker.state.value,
            connections=worker.open,
            busy=_busy(worker),
            uptime=now - worker.started_at,
            rss=keeper.system.resident_bytes(worker.pid),
        )
        for worker in sorted(keeper.pool, key=lambda worker: (worker.slot, worker.generation))
    ]


def connections(keeper: Keeper) -> list[ConnectionReport]:
    """Return the answer to ``connections``: those in workers, then those that none has."""
    return _connections(keeper)


def connections_part(keeper: Keeper, part: int, parts: int) -> ConnectionsPart:
    """Return the answer to ``connections-part``: one of so many parts of the connections.

    The part that a connection is in depends on its id alone: it is in no other, wherever it moves
    from one answer to the next.
    """
    began = time.thread_time()
    reports = _connections(keeper, parts, part)
    return ConnectionsPart(
        connections=reports,
        open=open_connections(keeper),
        cost=time.thread_time() - began,
    )


def open_connections(keeper: Keeper) -> int:
    """Return how many connections there are, wherever they are."""
    held = len(keeper.connections.moves) + len(keeper.connections.parking)
    return keeper.pool.connections + held


def reload_forecast(keeper: Keeper, silent: Collection[Worker] = ()) -> ReloadForecast:
    """Return the answer to ``reload-forecast``; silent: workers that do not answer."""
    told = [worker for worker in keeper.pool if worker.order is None and worker not in silent]
    moves, stays = _moves_and_stays(told, keeper.config.keep)
    seconds = handlers_time(keeper.config)
    error = ""
    try:
        renewal = keeper.renewal()
    except OptionError as wrong:
        error, renewal = str(wrong), Renewal(keeper.config, None)
    return ReloadForecast(
        target=keeper.config.target,
        resumable=keeper.current is not None and keeper.current.resumable,
        moves=moves,
        held=len(keeper.connections),
        stays=_staying(stays),
        seconds=seconds,
        silent=[_left_with(worker, seconds) for worker in silent if worker.order is None],
        earlier=[
            _left_with(worker, max(0.0, worker.order.deadline - time.monotonic()))
            for worker in keeper.pool
            if worker.order is not None and worker.open
        ],
        changed=_options(renewal.applied),
        restart=_options(renewal.waiting),
        error=error,
    )


def reload_cost(keeper: Keeper, generation: int) -> ReloadCost:
    """Return the answer to ``reload``, at the moment when this generation begins to serve."""
    moves, stays = _moves_and_stays(keeper.superseded.workers_of(generation), keeper.config.keep)
    renewal = _renewal_of(keeper, generation)
    return ReloadCost(
        generation=generation,
        target=keeper.config.target,
        moves=moves,
        held=len(keeper.connections),
        stays=_staying(stays),
        seconds=handlers_time(keeper.config),
        changed=_options(renewal.applied),
        restart=_options(renewal.waiting),
    )


def reload_report(cost: ReloadCost, fate: Fate) -> ReloadReport:
    """Return the end of ``reload`` that waited until the earlier code was gone."""
    return ReloadReport(
        generation=cost.generation,
        moved=fate.moved,
        ended=fate.ended,
        cut=_staying(fate.cut),
        target=cost.target,
        changed=cost.changed,
        restart=cost.restart,
    )


def upgrade_report(keeper: Keeper) -> UpgradeReport:
    """Return the answer to ``upgrade``, once a generation of this version serves."""
    generation = keeper.current.number if keeper.current is not None else 0
    renewal = _renewal_of(keeper, generation)
    return UpgradeReport(
        generation=generation,
        version=keeper.version,
        changed=_options(renewal.applied),
        restart=_options(renewal.waiting),
    )


def _moves_and_stays(workers: Iterable[Worker], keep: str) -> tuple[int, Counter[Staying]]:
    moves = 0
    stays: Counter[Staying] = Counter()
    for worker in workers:
        found = Counter(status for _, _, status in worker.scoreboard.columns(record.STATUS))
        for status, count in found.items():
            why = why_it_stays(worker.resumable, keep, status)
            if why is None:
                moves += count
            else:
                stays[why] += count
    return moves, stays


def _left_with(worker: Worker, seconds: float) -> WorkerStayingReport:
    return WorkerStayingReport(
        slot=worker.slot,
        pid=worker.pid,
        generation=worker.generation,
        connections=worker.open,
        seconds=seconds,
    )


def _renewal_of(keeper: Keeper, generation: int) -> Renewal:
    current = keeper.current
    if current is None or current.number != generation or current.renewal is None:
        return Renewal(keeper.config, None)
    return current.renewal


def _options(changes: Iterable[Change]) -> list[OptionReport]:
    return [
        OptionReport(
            option=change.option.key,
            was=change.option.shown(change.was),
            now=change.option.shown(change.now),
        )
        for change in changes
    ]


def _staying(counts: Counter[Staying]) -> list[StayingReport]:
    return [
        StayingReport(reason=why.value, connections=count) for why, count in counts.most_common()
    ]


def _by_label(keeper: Keeper) -> dict[str, int]:
    if not keeper.config.metrics_label:
        return {}
    return keeper.connections.post.names.count_label(
        *parse_metrics_label(keeper.config.metrics_label)
    )


def live(keeper: Keeper, name: str, most: int) -> LiveReport:
    """Return the answer to ``live``, with at most so many connections.

    Which ones are left out depends on their ids alone, so that those that are shown stay the same
    ones wherever they move.
    """
    began = time.thread_time()
    about = status(keeper, name)
    there = about.connections.open
    step = 1
    while step * most < there:
        step *= 2
    shown = _connections(keeper, step)[:most]
    everybody = workers(keeper)
    return LiveReport(
        status=about,
        workers=everybody,
        connections=shown,
        left_out=max(0, there - len(shown)),
        cost=time.thread_time() - began,
    )


def _connections(keeper: Keeper, parts: int = 1, part: int = 0) -> list[ConnectionReport]:
    """Return one of so many parts of the connections: those whose numbers leave that remainder."""
    now = time.monotonic_ns()
    names = [listener.text for listener in keeper.listeners]
    reports: dict[str, ConnectionReport] = {}
    for worker in keeper.pool:
        for row, number in worker.scoreboard.rows_of_part(parts, part):
            words = worker.scoreboard.record(row)
            report = _of_row(worker, row, words, names, now)
            if words[record.NUMBER] != number:
                continue  # it was freed while it was read
            other = reports.get(report.id)
            # The row where it was is freed a moment after it has another one.
            if other is None or other.epoch < report.epoch:
                reports[report.id] = report
    for held in _of_part((*keeper.connections.moves, *keeper.connections.parking), parts, part):
        handoff = held.handoff
        other = reports.get(handoff.id)
        if other is None or not _is_in_rows(held.ownership, other.epoch):
            reports[handoff.id] = ConnectionReport(
                id=handoff.id,
                peer=handoff.peer,
                listener=names[handoff.listener],
                state=held.ownership.state.value,
                owner=None,
                generation=keeper.current.number if keeper.current else 0,
                epoch=held.ownership.epoch,
                age=(now - handoff.accepted_at) / 1e9,
                idle=now / 1e9 - held.since,
                bytes_in=handoff.bytes_in,
                bytes_out=handoff.bytes_out,
                busy=False,
            )
    names_of = keeper.connections.post.names
    for name, report in reports.items() if len(names_of) else ():
        known = names_of.get(name)
        if known is not None:
            reports[name] = msgspec.structs.replace(
                report, name=known.name, groups=sorted(known.groups), labels=dict(known.labels)
            )
    for name, report in reports.items() if keeper.store is not None else ():
        there = keeper.connections.connection_table.get(name)
        if there is not None and there.stored_as:
            reports[name] = msgspec.structs.replace(report, stored=True)
    return list(reports.values())


def _of_part(held: Iterable[HeldConnection], parts: int, part: int) -> Iterable[HeldConnection]:
    """Return those of a part, by the number at the end of their ids.

    By its last two digits first: they are read of each of many thousands, at each look.
    """
    if parts == 1:
        return held
    step = min(parts, 256)
    ends = {f"{number:02x}" for number in range(part % step, 256, step)}
    ends |= {f"-{number:x}" for number in range(part % step, 16, step)}
    return [
        each
        for each in held
        if each.id[-2:] in ends and parse_connection_id(each.id)[2] % parts == part
    ]


def _busy(worker: Worker) -> int:
    return sum(not waits for _, _, waits in worker.scoreboard.columns(record.WAITING))


def _is_in_rows(ownership: Ownership, epoch: int) -> bool:
    """Tell whether a row with this epoch is where it goes, and not where it comes from."""
    return ownership.worker is not None and epoch >= ownership.epoch


def _of_row(
    worker: Worker,
    row: int,
    words: record.Record,
    names: Sequence[str],
    now: int,
) -> ConnectionReport:
    listener = worker.listener(record.listener_in(words))
    return ConnectionReport(
        id=id_of(words),
        peer=worker.scoreboard.peer(row),
        listener=names[listener] if 0 <= listener < len(names) else "",
        state="owned",
        owner=words[record.PID],
        generation=worker.generation,
        epoch=words[record.EPOCH],
        age=(now - words[record.ACCEPTED_AT]) / 1e9,
        # A worker may have written between the reading of the clock and of the word.
        idle=max(0.0, (now - words[record.ACTIVE_AT]) / 1e9),
        bytes_in=words[record.BYTES_IN],
        bytes_out=words[record.BYTES_OUT],
        busy=not words[record.WAITING],
        worker=worker.pid,
        slot=worker.slot,
        committed=words[record.STATUS] == record.CLEAN,
    )


def _totals(keeper: Keeper) -> Totals:
    counters = keeper.counters()
    return Totals(
        accepted=counters["accepted"],
        closed=counters["closed"],
        reset=counters["reset"],
        detached=counters["detached"],
        attached=AttachedByReason(
            accepted=counters["accepted"],
            reload=counters["attached_reload"],
            parked=counters["attached_parked"],
            crash=counters["attached_crash"],
            upgrade=counters["attached_upgrade"],
        ),
        lost=counters["lost"],
        reloads=max(0, keeper.reloads.completed - 1),
        upgrades=keeper.upgrades.completed,
        worker_deaths=counters["worker_deaths"],
        handler_errors=counters["handler_errors"],
        poisoned=counters["poisoned"],
        unserved=counters["unserved"],
        overdue=counters["overdue"],
        refused_messages=counters["refused_messages"],
        proxy_refused=RefusedHeaders(**{why: counters[counter_of(why)] for why in REASONS}),
        over_limit=OverLimits(**{why: counters[counter_of(why)] for why in LIMITS}),
        pushes=PushesByOutcome(
            **{
                each.name.lower(): counters[f"pushes {each.text}"]
                for each in PushOutcome
                if each is not PushOutcome.UNREACHABLE  # it is for no connection of this server
            }
        ),
    )


def _waits(keeper: Keeper, why: Attached) -> WaitReport:
    waits = keeper.connections.moves.waits[why]
    upto = list(accumulate(waits.counts))
    return WaitReport(
        count=upto[-1],
        seconds=waits.seconds,
        longest=waits.longest,
        within=list(zip(BOUNDS, upto, strict=False)),
    )


def words(keeper: Keeper, what: str, beginning: str) -> list[tuple[str, str]]:
    """Return the words that begin so, each with a few about it: at most `MOST_WORDS`.

    what: "id", "name" or "group".  Raises ValueError for others.
    """
    if what not in _WORDS_OF:
        raise ValueError(f"what is one of {', '.join(_WORDS_OF)}, not {what!r}")
    return list(islice(_WORDS_OF[what](keeper, beginning), MOST_WORDS))


def _ids_of(keeper: Keeper, beginning: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()  # while it moves, two have one
    for worker in keeper.pool:
        columns = worker.scoreboard.columns(record.BOOT, record.MINTED_BY)
        for row, number, boot, minted_by in columns:
            word = connection_id(boot, minted_by, number)
            if word.startswith(beginning) and word not in seen:
                seen.add(word)
                yield word, worker.scoreboard.peer(row)
    for held in (*keeper.connections.moves, *keeper.connections.parking):
        if held.handoff.id.startswith(beginning) and held.handoff.id not in seen:
            seen.add(held.handoff.id)
            yield held.handoff.id, held.handoff.peer


def _names_of(keeper: Keeper, beginning: str) -> Iterator[tuple[str, str]]:
    table = keeper.connections.post.names
    for word in table.all_names():
        known = table.named(word) if word.startswith(beginning) else None
        if known is not None:
            yield word, known.id


def _groups_of(keeper: Keeper, beginning: str) -> Iterator[tuple[str, str]]:
    table = keeper.connections.post.names
    for word in table.all_groups():
        if word.startswith(beginning):
            count = sum(map(len, table.members(word).values()))
            yield word, f"{count} connection{'' if count == 1 else 's'}"


_WORDS_OF: Final[dict[str, Callable[[Keeper, str], Iterator[tuple[str, str]]]]] = {
    "id": _ids_of,
    "name": _names_of,
    "group": _groups_of,
}
