"""`socketkeep upgrade`: run the installed version of the package, keep the connections."""

from __future__ import annotations

import click

from socketkeep._admin._reports import UpgradeReport
from socketkeep._cli._changes import changes_of
from socketkeep._cli._exit import DONE
from socketkeep._cli._say import say
from socketkeep._cli._server import request, server_options, typed
from socketkeep._cli._watching import print_json


@click.command()
@server_options
def upgrade(control: str, name: str, as_json: bool) -> int:
    """Run the version of Socketkeep that is installed now, and return when its workers serve.

    The server's process stays, with its id, its listeners, its counters and every connection; a
    reload follows, so that the workers are of the new version, too.  A version that cannot be
    loaded, or cannot read the running one's state, is refused before anything has changed (exit
    code 1).  If the reload fails (2, 3 or 4), the workers that there were serve on."""
    done = request("upgrade", control, name, waits=True)
    report = typed(done.result, UpgradeReport)
    if as_json:
        print_json(done.result)
        return DONE
    say(f"generation: {report.generation}")
    say(f"version: {report.version}")
    for line in changes_of(report.changed, report.restart):
        say(line)
    return DONE
