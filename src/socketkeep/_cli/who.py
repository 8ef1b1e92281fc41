"""`socketkeep who`: the connections that have a name, or are in a group."""

from __future__ import annotations

import sys

import click

from socketkeep._admin._reports import PresentReport
from socketkeep._cli._completion import known_to_server
from socketkeep._cli._exit import FAILED
from socketkeep._cli._numbers import seconds
from socketkeep._cli._server import request, server_options, typed
from socketkeep._cli._table import Table, show
from socketkeep._cli._watching import print_json
from socketkeep._names._pushing import LONGEST_PATIENCE, PATIENCE


@click.command()
@click.argument("text", metavar="NAME|GROUP", shell_complete=known_to_server("name", "group"))
@click.option(
    "--timeout",
    type=seconds(0, LONGEST_PATIENCE),
    default=PATIENCE,
    show_default=True,
    help="Seconds in which other nodes are to answer.",
)
@server_options
def who(text: str, timeout: float, control: str, name: str, as_json: bool) -> int:
    """Show who has NAME, and who is in GROUP, on all nodes of a cluster.

    At most 1000 of each node.  Exits with 0 when somebody was found, with 1 when nobody was, or a
    node did not answer.
    """
    arguments = {"to": text, "timeout": timeout}
    done = request("who", control, name, waits=True, arguments=arguments)
    report = typed(done.result, PresentReport)
    if as_json:
        print_json(done.result)
    elif report.found:
        rows = [
            [each.name or "-", each.id, str(each.epoch), each.node or "here", _as(each.member)]
            for each in report.found
        ]
        show([Table(("name", "id", "epoch", "node", "as"), rows)])
    else:
        sys.stderr.write("nobody\n")
    if report.silent:
        sys.stderr.write(f"not asked, or silent: {report.silent} of the other nodes\n")
    return 0 if report.found and not report.silent else FAILED


def _as(member: bool) -> str:
    return "member" if member else "name"
