"""`socketkeep reload`: load the code anew, keep the connections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from socketkeep._admin._reports import (
    ReloadCost,
    ReloadForecast,
    ReloadReport,
    StayingReport,
    WorkerStayingReport,
)
from socketkeep._cli._changes import changes_of
from socketkeep._cli._exit import DONE, FAILED, USAGE, Failure
from socketkeep._cli._say import say
from socketkeep._cli._server import request, server_options, typed
from socketkeep._cli._watching import print_json
from socketkeep._keeper.tables._staying import Staying


@click.command()
@click.option("--dry-run", is_flag=True, help="Tell what a reload would do now, and do nothing.")
@click.option(
    "--wait",
    is_flag=True,
    help="Return when the old code has ended, and tell what became of its connections.",
)
@server_options
def reload(control: str, name: str, as_json: bool, dry_run: bool, wait: bool) -> int:
    """Load the handler's code anew, and return when the new code serves.

    Connections of resumable handlers go on in the new code; others finish in the old one.  The
    settings file is read anew, too: what changed is told, and what needs a restart to change.  If
    the new code cannot be loaded (exit code 4) or does not become ready (3), or the file is wrong
    (2), the old code serves on by the old options.

    With --dry-run the exit code is 1 when connections would stay with the old code, 2 when the
    settings file is wrong. With --wait it is 1 when some were cut, since the graceful timeout was
    over."""
    if dry_run and wait:
        raise Failure("--dry-run and --wait cannot be given together", USAGE)
    if dry_run:
        return _forecast(request("reload-forecast", control, name, waits=False).result, as_json)
    if wait:
        done = request("reload", control, name, waits=True, arguments={"wait": True})
        return _outcome(done.result, as_json)
    return _cost(request("reload", control, name, waits=True).result, as_json)


def _forecast(result: object, as_json: bool) -> int:
    report = typed(result, ReloadForecast)
    if as_json:
        print_json(result)
    elif not report.error:
        for line in _foretold(report):
            say(line)
    if report.error:
        raise Failure(f"a reload would be refused: {report.error}", USAGE)
    return FAILED if report.stays or report.silent else DONE


def _foretold(report: ReloadForecast) -> Iterator[str]:
    moving = _connections(report.moves)
    yield f"{report.target}: {moving} would move to the new code at the next receive"
    if report.held:
        yield f"{_connections(report.held)}, parked or between workers, would wake in it"
    for line in _staying(report.stays):
        yield f"{line}: served by the old code until the end, for {report.seconds:g} s at most"
    for each in report.silent:
        yield (
            f"{_connections(each.connections)} of {_worker(each)}, which does not answer: moved"
            f" when it does, for {each.seconds:g} s at most"
        )
    for each in report.earlier:
        yield (
            f"{_connections(each.connections)} of {_worker(each)}: served by the code of generation"
            f" {each.generation} still, for {each.seconds:.1f} s at most"
        )
    for option in report.changed:
        yield f"{option.option} would change from {option.was} to {option.now}"
    yield from changes_of((), report.restart)


def _cost(result: object, as_json: bool) -> int:
    report = typed(result, ReloadCost)
    if as_json:
        print_json(result)
        return DONE
    say(f"generation: {report.generation}")
    say(f"{report.target}: moving {_connections(report.moves)} to the new code")
    if report.held:
        say(f"{_connections(report.held)}, parked or between workers, will wake in it")
    for line in _staying(report.stays):
        say(f"{line}: served by the old code until the end, for {report.seconds:g} s at most")
    for line in changes_of(report.changed, report.restart):
        say(line)
    return DONE


def _outcome(result: object, as_json: bool) -> int:
    report = typed(result, ReloadReport)
    if as_json:
        print_json(result)
    else:
        say(f"generation: {report.generation}")
        handler = f"{report.target}: " if report.target else ""
        say(f"{handler}{_connections(report.moved)} moved, {report.ended} ended")
        for line in _staying(report.cut):
            say(f"{line}: cut when the time was over")
        for line in changes_of(report.changed, report.restart):
            say(line)
    return FAILED if report.cut else DONE


def _staying(staying: Iterable[StayingReport]) -> Iterator[str]:
    sentences = {why.value: why.sentence for why in Staying}
    for each in staying:
        yield f"{_connections(each.connections)}, {sentences.get(each.reason, each.reason)}"


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"


def _worker(worker: WorkerStayingReport) -> str:
    return f"worker {worker.slot} (pid {worker.pid})"
