"""When a worker's heap is trimmed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from socketkeep._serve.websocket import _trim
from tests.native.cores import compiled


def test_all_who_ask_meanwhile_have_it_trimmed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        trimmed: list[asyncio.Future[None]] = [loop.create_future(), loop.create_future()]
        calls = iter(trimmed)
        trimmer = _trim.Trimmer()
        monkeypatch.setattr(trimmer, "_trim", lambda: next(calls).set_result(None))
        for _ in range(5):
            trimmer.soon()
        await asyncio.wait_for(trimmed[0], 5)
        assert not trimmed[1].done()
        trimmer.soon()
        await asyncio.wait_for(trimmed[1], 5)

    monkeypatch.setattr(_trim, "_TOGETHER", 0.01)
    asyncio.run(main())


@pytest.mark.skipif(compiled is None, reason="Python alone cannot")
def test_the_compiled_core_trims() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytearray(b"x" * 8192) for _ in range(4000)]
    last = blocks[-1]  # the end of the heap, so that what is free lies before it
    blocks.clear()
    before = resident()
    compiled.trim()
    assert before - resident() > 16 << 20
    assert len(last) == 8192
