"""Offering connections to the keeper from a worker with an event loop."""

from __future__ import annotations

import asyncio
import os

import pytest

from socketkeep import resumable
from socketkeep._worker import _handle_backup
from tests.worker.fakes import Place, a_place


@resumable
async def handle(conn: object) -> None: ...


async def next_offer(place: Place) -> tuple[str, list[int]]:
    """Return the id of the offer that reaches the keeper, and its descriptors."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(place.keeper.fileno(), arrived.set)
    async with asyncio.timeout(10):
        await arrived.wait()
    loop.remove_reader(place.keeper.fileno())
    message, descriptors = place.wait_for("Keep")
    return message.id, descriptors


def test_the_next_one_does_not_wait_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is offered at its time, though the timer is set for when an earlier one is due again."""
    monkeypatch.setattr(_handle_backup, "_SOON", 1000.0)

    async def offered(place: Place) -> None:
        roster = place.roster()
        offers = _handle_backup.HandleBackups(lambda _entry: True)
        for _ in range(2):
            _, accepted = place.connection()
            entry = roster.accepted(accepted, 0)
            assert entry is not None
            assert entry.offer is not None
            offers.add(entry, entry.offer)
            name, descriptors = await next_offer(place)
            assert name == entry.lease.id
            for fd in descriptors:
                os.close(fd)
            accepted.close()

    with a_place(handle, "async", keep="crash", keep_after=0.01) as place:
        asyncio.run(offered(place))
