"""That the benchmarks measure what they say; their figures are nobody's promise here."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from benchmarks import __main__ as benchmarks
from benchmarks import _figures, _flood, _gate, _generator, _report, _results, _targets
from benchmarks._figures import Figures

LINGER_NONE: Final = struct.pack("ii", 1, 0)


@pytest.fixture(scope="session")
def load() -> Path:
    _generator.build()
    return _generator.PROGRAMS / "load"


Serve = Callable[[socket.socket, int], None]


def echo(conn: socket.socket, _number: int) -> None:
    while data := conn.recv(65536):
        conn.sendall(data)


def corrupt_the_third(conn: socket.socket, number: int) -> None:
    data = conn.recv(65536)
    conn.sendall(data[:-1] + bytes([data[-1] ^ 1]) if number == 2 else data)
    conn.recv(1)


def repeat_the_third(conn: socket.socket, number: int) -> None:
    data = conn.recv(65536)
    conn.sendall(data + data[:1] if number == 2 else data)
    conn.recv(1)


def cut_the_third(conn: socket.socket, number: int) -> None:
    data = conn.recv(65536)
    conn.sendall(data[:-1] if number == 2 else data)
    if number != 2:
        conn.recv(1)


def reset_the_third(conn: socket.socket, number: int) -> None:
    data = conn.recv(65536)
    if number == 2:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    else:
        conn.sendall(data)
        conn.recv(1)


def keep_the_third_waiting(conn: socket.socket, number: int) -> None:
    data = conn.recv(65536)
    if number != 2:
        conn.sendall(data)
    conn.recv(1)


@contextlib.contextmanager
def served(serve: Serve) -> Iterator[int]:
    """Serve connections one after another; the first ones are numbered."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            number = 0
            while True:
                conn, _ = listener.accept()
                with conn, contextlib.suppress(OSError):
                    if ended.is_set():
                        return
                    serve(conn, number)
                number += 1

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def run_load(load: Path, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [load, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    *words, told = done.stdout.splitlines()
    assert words == ["begin", "end"]
    figures: dict[str, Any] = json.loads(told)
    return figures


SHORT: Final = ("--seconds", 0.2, "--warm", 0, "--deadline", 0.1)


@pytest.mark.parametrize(
    ("serve", "found"),
    [
        (echo, None),
        (corrupt_the_third, "wrong"),
        (repeat_the_third, "wrong"),
        (cut_the_third, "cut"),
        (reset_the_third, "reset"),
        (keep_the_third_waiting, "late"),
    ],
)
def test_the_generator_counts_what_went_wrong(load: Path, serve: Serve, found: str | None) -> None:
    with served(serve) as port:
        # Nothing but what the server does may make an exchange late, on a machine that is busy too.
        deadline = () if found == "late" else ("--deadline", 20)
        told = run_load(load, "short", port, *SHORT, *deadline)

    assert told["exchanges"] > 5
    lost = {name: told[name] for name in _generator.LOSSES if told[name]}
    assert lost == ({found: 1} if found else {})


def test_the_generator_counts_who_refuses(load: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        told = run_load(load, "short", unheard.getsockname()[1], *SHORT)

    assert told["refused"] > 1
    assert told["exchanges"] == 0


def test_lines_are_answered_in_batches(load: Path) -> None:
    with served(echo) as port:
        told = run_load(load, "echo", port, "--lines", "--batch", 4, "--seconds", 0.1)

    assert told["per_second"] == pytest.approx(told["exchanges"] * 4 / told["seconds"], rel=0.01)


def test_a_part_runs_from_the_servers_to_the_ratios(
    load: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--rounds", "1", "--seconds", "0.05")
    assert benchmarks.main(["--quick", "--only", "c", *few, "--out", str(tmp_path)]) == 0

    (written,) = tmp_path.iterdir()
    figures = _figures.read(written)
    assert {"date", "commit", "python", "system", "versions"} <= figures.environment.keys()
    for metrics in figures.series.values():
        assert metrics["per_second"][0] > 0
        assert metrics["cpu_us"][0] > 0
        assert metrics["lost"] == [0]
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + sum(target.number == "c" for target in _targets.targets())


def test_a_flood_is_refused_and_others_are_served(
    load: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_flood, "_CONNECTS", 1000)
    monkeypatch.setattr(_flood, "_FIRST", 0.01)
    figures = Figures({}, 1, 0.5)
    _flood.flood(figures, 1, 0.5, True)
    limited, free = figures.series.values()
    assert limited["refused"][0] > 0
    assert free["refused"] == [0]
    for metrics in (limited, free):
        assert metrics["left"][0] > 0
        assert metrics["flood_share"][0] > 0


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmarks.main(["--only", "z"])

    assert ended.value.code == 2
    assert "--only z: there is no such part" in capsys.readouterr().err


def test_each_target_is_measured() -> None:
    from benchmarks import _throughput

    for work in (
        _throughput.short_connections(),
        _throughput.keep_alive(),
        _throughput.lines(),
        _throughput.fork_per_connection(),
        _throughput.price(),
        _throughput.encrypted(),
    ):
        cases = {case.name for case in work.cases}
        subjects = {subject.name for subject in work.subjects}
        for target in _targets.targets():
            if target.work == work.name:
                assert target.case in cases
                assert {target.own, target.peer or target.own} <= subjects


def figures_of(**shares: float) -> Figures:
    figures = Figures({}, 1, 1.0)
    common = {"generator_share": 0.5, "elsewhere": 0.0} | shares
    figures.add(("w", "case", "mine"), per_second=90, cpu_us=10, p50=1, lost=0, **common)
    figures.add(("w", "case", "peer"), per_second=100, cpu_us=20, p50=4, lost=3, **common)
    return figures


@pytest.mark.parametrize(
    ("shares", "by", "value"),
    [({}, "rate", 0.9), ({"generator_share": 0.95}, "CPU", 2), ({"elsewhere": 0.2}, "CPU", 2)],
)
def test_cpu_time_is_compared_where_the_rate_tells_of_something_else(
    shares: dict[str, float], by: str, value: float
) -> None:
    target = _targets.Target("w1", "w", "case", "mine", "peer", 1.0)
    (outcome,) = _targets.judge(figures_of(**shares), [target])

    assert outcome.by == by
    assert outcome.value == pytest.approx(value)
    assert outcome.met == (value >= 1)
    assert outcome.tie == (value < 1)


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (_targets.Target("w2", "w", "case", "mine", "peer", 0.25, False, "p50"), 0.25, True),
        (_targets.Target("w2", "w", "case", "peer", "mine", 0.25, False, "p50"), 4, False),
        (_targets.Target("w3", "w", "case", "peer", None, 0, False, "lost"), 3, False),
        (_targets.Target("w3", "w", "case", "mine", None, 0, False, "lost"), 0, True),
        (_targets.Target("w4", "w", "case", "mine", None, 80, metric="per_second"), 90, True),
    ],
)
def test_a_bound_is_held_to(target: _targets.Target, value: float, met: bool) -> None:
    (outcome,) = _targets.judge(figures_of(), [target])

    assert outcome.value == value
    assert outcome.met == met


def test_what_was_not_measured_is_not_judged() -> None:
    assert list(_targets.judge(Figures({}, 1, 1.0))) == []


def test_figures_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    figures = figures_of()
    figures.missing["peer 2"] = "not installed"
    figures.write(tmp_path / "figures.json")

    assert _figures.read(tmp_path / "figures.json") == figures


def test_the_documentation_shows_one_run() -> None:
    date = _figures.read(_results.FIGURES).environment["date"]
    pictures = list(_results.PLOTS.glob("*.svg"))

    assert len(pictures) == 5
    for picture in pictures:
        assert date in picture.read_text(), f"{picture.name} is of another run: run `make bench`"


def test_what_is_missed_or_was_not_measured_is_named() -> None:
    figures = Figures({}, 1, 1.0, missing={"gevent": "not installed"})
    common = {"p50": 1, "lost": 0, "generator_share": 0, "elsewhere": 0}
    for subject, rate in (("Socketkeep prefork", 50), ("prefork loop (8)", 100)):
        figures.add(("a", "32 at once", subject), per_second=rate, cpu_us=1, **common)

    shown = _report.text(figures).splitlines()

    assert "Socketkeep prefork" in shown[1]
    assert shown[1].endswith("MISSED")
    assert "not measured: a2 256 at once, Socketkeep prefork prefork loop (8)" in shown
    assert shown[-1] == "not measured: gevent: not installed"
    assert "1 connection" not in _report.text(figures), "another part was not asked for"


def test_what_fails_is_named_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConnectionResetError("it has gone")

    figures = Figures({}, 1, 1.0)
    with figures.attempt("gevent"):
        fail()

    assert figures.failed
    assert figures.missing == {"gevent": "failed: ConnectionResetError: it has gone"}
    assert "gevent: failed" in capsys.readouterr().err


def as_measured(*cpu_us: float) -> Figures:
    """Return figures in which the peers take 10 µs in each round, and Socketkeep these."""
    figures = Figures({}, len(cpu_us), 0.1)
    for row in _gate.ROWS:
        for own in cpu_us:
            figures.add((row.work, row.case, row.own), cpu_us=own)
            figures.add((row.work, row.case, row.peer), cpu_us=10.0)
    return figures


def test_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    """It is closed to what is slower than any round of the record, and to what was not measured."""
    recorded = as_measured(10.0, 12.5, 11.0)
    assert _gate.judge(as_measured(11.0, 12.4, 20.0), recorded) == 0
    assert "(d) 32 at once: Socketkeep fork / ForkingTCPServer: 0.81" in capsys.readouterr().out
    assert _gate.judge(as_measured(11.0, 12.6, 20.0), recorded) == 1
    assert "slower: (a) 32 at once" in capsys.readouterr().err
    assert _gate.judge(Figures({}, 1, 0.1), recorded) == 1
    assert "not measured" in capsys.readouterr().err


def test_the_gate_knows_its_rows() -> None:
    """Each is measured by the work that it names, and stands in the record."""
    recorded = _figures.read(_results.FIGURES)
    for row in _gate.ROWS:
        work = _gate.WORKS[row.work]()
        assert row.case in {case.name for case in work.cases}
        assert {row.own, row.peer} <= {subject.name for subject in work.subjects}
        assert row.ratios(recorded)
