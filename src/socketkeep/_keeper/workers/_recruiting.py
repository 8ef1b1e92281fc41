"""The keeper's record of a worker that is to be forked, or that another keeper has left behind."""

from __future__ import annotations

import os
from contextlib import ExitStack

from socketkeep._keeper.tables._crash_policy import Policy
from socketkeep._keeper.tables._records import AdoptedWorker, WorkerState
from socketkeep._keeper.workers._generations import Generation
from socketkeep._keeper.workers._workers import Worker
from socketkeep._wire._channel import Channel, channel_pair
from socketkeep._wire._messages import ABSENT, ForkWorker, ReattachOffer
from socketkeep._wire._scoreboard import DETACHED, Scoreboard, create_memfd


def new_worker(
    serial: int,
    slot: int,
    generation: Generation,
    rows: int,
    *,
    states: bool,
    census: int = ABSENT,
    lane: int = 0,
) -> tuple[Worker, Channel, ForkWorker]:
    """Return a worker that is to be forked, this side of its channel, and the word to fork it.

    rows: of its scoreboard.  states: whether that has room for committed states.  census: the memfd
    in which it counts by address, and its lane there.  Raises OSError.
    """
    with ExitStack() as undo:
        memfd = create_memfd(rows, states=states)
        undo.callback(os.close, memfd)
        scoreboard = Scoreboard(memfd, rows)
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        undo.callback(os.close, wake)
        our_memfd = os.dup(memfd)
        undo.callback(os.close, our_memfd)
        their_wake = os.dup(wake)
        undo.callback(os.close, their_wake)
        their_census = ABSENT
        if census != ABSENT:
            their_census = os.dup(census)
            undo.callback(os.close, their_census)
        ours, theirs = channel_pair()
        undo.pop_all()
    worker = Worker(
        serial=serial,
        slot=slot,
        generation=generation.number,
        model=generation.model,
        resumable=generation.resumable,
        policy=generation.policy,
        scoreboard=scoreboard,
        memfd=our_memfd,
        wake=wake,
        lane=lane,
    )
    fork = ForkWorker(serial, slot, theirs.detach(), memfd, their_wake, their_census, lane)
    return worker, Channel(ours, wary=True), fork


def adopted_worker(serial: int, offer: ReattachOffer, adopted: AdoptedWorker) -> Worker:
    """Return a worker of a keeper that has died, which accepts no more.

    Raises OSError, and Unfit when it offers no scoreboard.
    """
    scoreboard = Scoreboard(offer.scoreboard, wary=True)
    return Worker(
        serial=serial,
        slot=offer.slot,
        generation=0,  # of none of this keeper's
        model=offer.model,
        resumable=offer.resumable and adopted.moves,
        policy=Policy(offer.on_crash, offer.redeliver),
        scoreboard=scoreboard,
        memfd=offer.scoreboard,
        wake=offer.wake,
        state=WorkerState.DRAINING,
        given=scoreboard.attached,
        departures=scoreboard.count(DETACHED),
        pid=offer.pid,
        forked=True,
        adopted=adopted,
    )
