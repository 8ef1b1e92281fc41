"""A barrier, after which a sidecar has been passed on all that was sent before."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import pytest

from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import ServiceManager


class PassingManager(ServiceManager):
    """One that says by the ends of pipes when it has passed on what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []

    def send(self, *words: str, descriptors: Collection[int] = (), again: bool = False) -> bool:
        if words != ("BARRIER=1",):
            return super().send(*words, descriptors=descriptors, again=again)
        if self.has_room:
            self.ends += [os.dup(fd) for fd in descriptors]
        return self.has_room

    def passes(self) -> None:
        """Say that what came first has been passed on."""
        os.close(self.ends.pop(0))


class Scene:
    """A store with a barrier, and what has been called."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.manager = PassingManager()
        self.store = self.manager.store(bench.reactor, passes_on=True)
        self.called: list[str] = []

    def wait(self, name: str) -> None:
        self.store.when_sent(partial(self.called.append, name))


@pytest.fixture
def scene(make_bench: MakeBench) -> Iterator[Scene]:
    scene = Scene(make_bench(keep="crash"))
    yield scene
    scene.store.close()
    while scene.manager.ends:
        scene.manager.passes()
    scene.manager.close()


def test_one_after_another(scene: Scene) -> None:
    """A call that comes while one is under way waits for the next, with all that come then."""
    for name in ("a", "b", "c"):
        scene.wait(name)
    scene.bench.settle()
    assert (scene.called, len(scene.manager.ends)) == ([], 1)
    scene.manager.passes()
    scene.bench.settle()
    assert (scene.called, len(scene.manager.ends)) == (["a"], 1)
    scene.manager.passes()
    scene.bench.settle()
    assert scene.called == ["a", "b", "c"]
    assert not scene.manager.ends


@pytest.mark.parametrize("has_room", [False, True])
def test_who_passes_nothing_on_is_not_waited_for(scene: Scene, has_room: bool) -> None:
    scene.manager.has_room = has_room
    scene.wait("a")
    scene.wait("b")
    scene.bench.advance(0.9)
    assert not scene.called
    scene.bench.advance(0.2)
    assert scene.called == ["a", "b"]


def test_it_is_sent_when_there_is_room(scene: Scene) -> None:
    scene.manager.has_room = False
    scene.wait("a")
    scene.manager.has_room = True
    scene.bench.advance(0.1)
    scene.manager.passes()
    scene.bench.settle()
    assert scene.called == ["a"]


def test_without_a_descriptor_nobody_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", full)
        scene.wait("a")
    assert scene.called == ["a"]


def test_a_store_that_passes_on_says_so_by_it(scene: Scene) -> None:
    """After what finds no room, too; and who waits for a guard that has died is called."""
    scene.manager.has_room = False
    scene.store.add("socketkeep.a", 1)
    scene.wait("a")
    scene.manager.has_room = True
    scene.bench.advance(0.1)
    assert (scene.manager.sent, scene.called) == (["+a"], [])
    scene.manager.passes()
    scene.bench.settle()
    assert scene.called == ["a"]
    scene.wait("b")
    scene.store.abandon()
    assert scene.called == ["a", "b"]
