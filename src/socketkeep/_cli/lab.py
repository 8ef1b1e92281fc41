"""`socketkeep lab`: what is said of sockets, tried on this kernel."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from pathlib import Path

import click

from socketkeep._cli._completion import one_of
from socketkeep._cli._exit import DONE, FAILED, Failure
from socketkeep._cli._table import Table, show
from socketkeep._cli._watching import json_option, print_json
from socketkeep._lab._catalogue import EXPERIMENTS, near, perform
from socketkeep._lab._results import Finding, LabReport
from socketkeep._lab._svg import svg
from socketkeep._lab._text import at_length


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=one_of(EXPERIMENTS))
@json_option
@click.option(
    "--svg",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Draw each timeline into DIR/NAME.svg, too.",
)
def lab(names: Sequence[str], as_json: bool, directory: Path | None) -> int:
    """Try on this kernel what is said of sockets: modes, fork, close and shutdown.

    Each statement is an experiment with real calls in real processes. Without a NAME all are made,
    and told in a line each; with one or more, those are told at length, with a timeline. Nothing
    but the loopback interface is used.

    The exit code is 0 when all hold, 1 when one does not or could not be tried, 2 for an unknown
    NAME.
    """
    _refuse_unknown(names)
    if not Path("/proc/self/fd").is_dir():
        raise Failure("lab needs Linux and a mounted /proc, where it looks at what it does")
    report = perform(dict.fromkeys(names))
    if directory is not None:
        _draw(report.findings, directory)
    if as_json:
        print_json(report)
    else:
        _tell(report, at_any_length=bool(names))
    failed = [each for each in report.findings if each.verdict != "holds"]
    for finding in failed:
        click.echo(f"{finding.name} {finding.verdict}: {finding.reason}", err=True)
    return FAILED if failed else DONE


def _refuse_unknown(names: Iterable[str]) -> None:
    for name in names:
        if name not in EXPERIMENTS:
            likely = near(name)
            hint = f"; near it: {', '.join(likely)}" if likely else ""
            raise click.UsageError(
                f"there is no experiment {name!r}{hint} (socketkeep lab lists them all)"
            )


def _tell(report: LabReport, *, at_any_length: bool) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        # The notes and the drawing have what not every terminal has.
        sys.stdout.reconfigure(errors="replace")
    if at_any_length:
        click.echo("\n".join(at_length(finding) for finding in report.findings), nl=False)
        return
    rows = [(each.name, each.claim, _verdict(each)) for each in report.findings]
    held = sum(each.verdict == "holds" for each in report.findings)
    where = f"{report.kernel} {report.machine}, Python {report.python}"
    show([Table(("experiment", "claim", "holds"), rows)])
    click.echo(f"\n{held} of {len(rows)} hold on {where}; socketkeep lab NAME shows one at length")


def _verdict(finding: Finding) -> str:
    return {"holds": "yes", "does not hold": "NO"}.get(finding.verdict, finding.verdict)


def _draw(findings: Iterable[Finding], directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for finding in findings:
            (directory / f"{finding.name}.svg").write_text(svg(finding), encoding="utf-8")
    except OSError as error:
        raise Failure(f"--svg: cannot write to {directory}: {error.strerror or error}") from None
