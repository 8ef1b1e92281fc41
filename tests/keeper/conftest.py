"""Keepers that live within a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.keeper.bench import Bench
from tests.keeper.fakes import ServiceManager

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench() -> Iterator[MakeBench]:
    """Make a bench with these options of `socketkeep serve`."""
    made: list[Bench] = []

    def make(**options: object) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """A keeper of two workers."""
    return make_bench(workers=2)


@pytest.fixture
def storing(make_bench: MakeBench) -> Iterator[tuple[Bench, ServiceManager]]:
    """A keeper of one worker that stores, and who stores for it."""
    bench = make_bench(workers=1, keep="crash", bind=[])
    manager = ServiceManager()
    bench.keeper.use_store(manager.store(bench.reactor))
    yield bench, manager
    manager.close()
