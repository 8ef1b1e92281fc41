"""The fakes are held to real workers: what those sent in a recorded life, these send, too.

The keeper in both is the real one, so that it must also send to the fakes what it sent then.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.configuration import MODELS, Model
from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Served
from tests.keeper.recording import record
from tests.keeper.traces import DATA, Step, by_channel, parse, traced


def kept_trace(model: str) -> list[Step]:
    """Return the trace that is kept of a model."""
    return parse((DATA / f"{model}.txt").read_text().splitlines())


class Replay:
    """Does on a bench what was done to the server, and has the fakes answer as its workers did."""

    def __init__(self, bench: Bench, model: Model) -> None:
        self._bench = bench
        self._model = model
        self._served: Served | None = None

    def do(self, step: Step) -> None:
        """Do what a line says; what the keeper sends follows of itself."""
        if step.way == ">":
            return
        if step.way == "!":
            act: Callable[[], None] = getattr(self, f"_{step.kind}")
            act()
        else:
            send: Callable[[Step], None] = getattr(self, f"_{step.kind.lower()}")
            send(step)
        self._bench.settle()

    @property
    def _connection(self) -> Served:
        assert self._served is not None
        return self._served

    def _worker(self, name: str) -> FarWorker:
        """Return a worker by its name: they are numbered in the order of their forks."""
        workers = [each for template in self._bench.system.templates for each in template.workers]
        return workers[int(name.split()[1]) - 1]

    # What is done to the server.

    def _start(self) -> None:
        self._bench.keeper.start()

    def _connect(self) -> None:
        self._peer, self._served = self._bench.serve(self._bench.template.workers[-1], tcp=True)

    def _park(self) -> None:
        """The handler is told; it is its worker that does something."""

    def _wake(self) -> None:
        """The worker it is given to does not say that it has it."""
        self._peer.send(b"more\n")
        self._bench.settle()
        (worker,) = [each for each in self._bench.template.workers if each.arrived]
        assert worker.arrived[0][0].taken
        self._served = worker.attach()

    def _reload(self) -> None:
        self._bench.reload()

    def _kill(self) -> None:
        """The process that serves it dies; in the fork model that is a child of the worker."""
        self._connection.commit(None)
        if self._model != "fork":
            self._connection.worker.die(-signal.SIGKILL)

    def _end(self) -> None:
        self._peer.close()

    def _stop(self) -> None:
        self._bench.act_on_signal(signal.SIGTERM)

    # What a template or a worker then sent.

    def _loaded(self, step: Step) -> None:
        assert f"model={self._model} resumable=true" in step.what
        self._bench.template.tells = "both"
        self._bench.template.loaded(self._model)

    def _began(self, step: Step) -> None:
        self._bench.template.fork()  # sends both; there is nothing left to fork at the second

    _forked = _began

    def _ready(self, step: Step) -> None:
        self._worker(step.whom).ready()

    def _keep(self, step: Step) -> None:
        self._connection.keep()

    def _detached(self, step: Step) -> None:
        assert self._connection.worker is self._worker(step.whom)
        parked = "parked=true" in step.what
        is_held = self._connection.hand_over(self._model, parked=parked)
        self._bench.settle()
        assert is_held()
        self._connection.settle()
        if self._connection.worker.told() == "move":
            self._connection.worker.die(0)  # it was the last that it had

    def _attached(self, step: Step) -> None:
        self._served = self._worker(step.whom).attach()

    def _orphaned(self, step: Step) -> None:
        self._connection.say_orphaned()
        self._connection.settle()

    def _ended(self, step: Step) -> None:
        self._connection.say_ended()
        self._connection.settle()


@pytest.mark.parametrize("model", MODELS)
def test_the_fakes_send_what_real_workers_sent(make_bench: MakeBench, model: Model) -> None:
    bench = make_bench(workers=1, model=model, keep="crash", keep_after=0.0, park_after="off")
    recorded = kept_trace(model)
    lines: list[str] = []
    with traced(lines.append):
        replay = Replay(bench, model)
        for step in recorded:
            replay.do(step)
    assert by_channel(parse(lines)) == by_channel(recorded)


@pytest.mark.system
@pytest.mark.parametrize("model", MODELS)
def test_the_traces_are_of_what_workers_send_now(tmp_path: Path, model: Model) -> None:
    """Else they are to be recorded anew, and the fakes changed: see recording.py."""
    assert by_channel(parse(record(tmp_path, model))) == by_channel(kept_trace(model))


def test_a_line_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no line of a trace: 'Seats'"):
        parse(["# a comment", "! start", "Seats"])
