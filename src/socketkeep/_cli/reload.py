"""`socketkeep reload`: load the code anew, keep the connections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from socketkeep._admin._reports import ReloadForecast, ReloadReport, StayingReport
from socketkeep._cli._exit import DONE, FAILED, USAGE, Failure
from socketkeep._cli._say import say
from socketkeep._cli._server import act, request, server_options, typed
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

    Connections of resumable handlers go on in the new code; others finish in the old one.  If the
    new code cannot be loaded (exit code 4) or does not become ready (3), the old one serves on.

    With --dry-run the exit code is 1 when connections would stay with the old code. With --wait it
    is 1 when some were cut, since the graceful timeout was over."""
    if dry_run and wait:
        raise Failure("--dry-run and --wait cannot be given together", USAGE)
    if dry_run:
        return _forecast(request("reload-forecast", control, name, waits=False).result, as_json)
    if wait:
        done = request("reload", control, name, waits=True, arguments={"wait": True})
        return _outcome(done.result, as_json)
    return act("reload", control, name, as_json)


def _forecast(result: object, as_json: bool) -> int:
    report = typed(result, ReloadForecast)
    if as_json:
        print_json(result)
    else:
        say(f"{_connections(report.moves)} would move to the new code at the next receive")
        if report.held:
            say(f"{_connections(report.held)}, parked or between workers, would wake in it")
        for line in _lines(report.stays):
            say(f"{line}: served by the old code until the end, for {report.seconds:g} s at most")
    return FAILED if report.stays else DONE


def _outcome(result: object, as_json: bool) -> int:
    report = typed(result, ReloadReport)
    if as_json:
        print_json(result)
    else:
        say(f"generation: {report.generation}")
        say(f"{_connections(report.moved)} moved, {report.ended} ended")
        for line in _lines(report.cut):
            say(f"{line}: cut when the time was over")
    return FAILED if report.cut else DONE


def _lines(staying: Iterable[StayingReport]) -> Iterator[str]:
    sentences = {why.value: why.sentence for why in Staying}
    for each in staying:
        yield f"{_connections(each.connections)}, {sentences.get(each.reason, each.reason)}"


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"
