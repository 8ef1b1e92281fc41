"""What was measured, as pictures: SVG, drawn by matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks._figures import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OWN: Final = "#2d6a4f"
_PEER: Final = "#9aa5b1"
_STYLE: Final = {
    "font.size": 13,  # readable where a page shows them at two thirds of their size
    "axes.titlesize": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "socketkeep",  # the same figures give the same file
}


def draw(figures: Figures, directory: Path) -> list[Path]:
    """Draw what there are figures for; return the files.

    Raises ImportError without matplotlib.
    """
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    drawn = []
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for name, panels in _pictures(figures):
            tallest = max(rows for _, rows in panels)
            picture, axes = plt.subplots(
                1,
                len(panels),
                figsize=(max(7, 5.6 * len(panels)), 1.7 + 0.33 * tallest),
                squeeze=False,
            )
            for panel, (paint, _) in zip(axes[0], panels, strict=True):
                paint(panel)
            picture.supxlabel(_where(figures), fontsize=11, color="#555")
            path = directory / f"{name}.svg"
            picture.savefig(path, metadata={"Date": figures.environment["date"]})
            plt.close(picture)
            drawn.append(path)
    return drawn


def _where(figures: Figures) -> str:
    told = figures.environment
    system = " ".join(told["system"].split("-")[0].split()[:2])
    where = f"{system}, {told['processors']} processors; Python {told['python']}"
    return f"{told['date'][:10]}; {where}, Socketkeep {told['commit']}"


Panel = tuple[Callable[["Axes"], None], int]


def _pictures(figures: Figures) -> Iterator[tuple[str, list[Panel]]]:
    rate, cpu = "per_second", "cpu_us"
    for name, work, cases, metric, unit in (
        ("short", "a", ["32 at once", "256 at once"], rate, "connections a second"),
        ("keep-alive", "b", ["64 B, 64 connections", "64 B, 1000 connections"], cpu, "µs"),
        ("fork", "d", ["1 at once", "32 at once"], rate, "connections a second"),
    ):
        panels = [_bars(figures, work, case, metric, unit) for case in cases]
        if all(rows for _, rows in panels):
            yield name, panels
    idle = [key[1] for key in figures.series if key[0] == "e"]
    if idle:
        yield "memory", [_bars(figures, "e", None, "server_kib", "KiB a connection", log=True)]
    if figures.subjects("f"):
        yield "changes", [_added(figures)]


def _bars(
    figures: Figures, work: str, case: str | None, metric: str, unit: str, *, log: bool = False
) -> Panel:
    """Return a bar for each subject, the best on top, with the least and the most of the rounds."""
    values = {
        subject: metrics[metric]
        for (of, which, subject), metrics in figures.series.items()
        if of == work and case in (None, which) and metric in metrics
    }
    more_is_better = metric == "per_second"
    names = sorted(values, key=lambda name: median(values[name]), reverse=not more_is_better)

    def paint(axes: Axes) -> None:
        middles = [median(values[name]) for name in names]
        errors = [
            [max(0.0, median(each) - min(each)) for each in map(values.__getitem__, names)],
            [max(0.0, max(each) - median(each)) for each in map(values.__getitem__, names)],
        ]
        colours = [_OWN if name.startswith("Socketkeep") else _PEER for name in names]
        axes.barh(names, middles, color=colours, xerr=errors, error_kw={"lw": 1, "ecolor": "#444"})
        axes.set_xlabel(unit if metric != "cpu_us" else "µs of the server's CPU time a request")
        axes.set_title(case or "")
        if log:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")

    return paint, len(names)


def _added(figures: Figures) -> Panel:
    """Return, for each change, by how much the clients' slowest reply was slower than usual."""
    metrics = {"added_p50_ms": "median", "added_p99_ms": "p99", "added_max_ms": "slowest"}
    names = [name for name in figures.subjects("f") if name.startswith("Socketkeep async")]

    def paint(axes: Axes) -> None:
        for offset, (metric, label) in enumerate(metrics.items()):
            values = [figures.middle("f", "1000 clients", name, metric) or 0 for name in names]
            places: list[Any] = [index + (1 - offset) * 0.26 for index in range(len(names))]
            colour = ("#95d5b2", "#52b788", _OWN)[offset]
            axes.barh(places, values, height=0.24, label=label, color=colour)
        axes.set_yticks(range(len(names)), [name.rpartition(" ")[2] for name in names])
        axes.set_xlabel("ms that a client waited longer than usual, of 1,000 clients")
        axes.legend(frameon=False)

    return paint, 2 * len(names)
