"""`socketkeep push`: something to the connection that has a name."""

from __future__ import annotations

import click

from socketkeep._admin._reports import PushReport
from socketkeep._cli._completion import known_to_server
from socketkeep._cli._exit import FAILED
from socketkeep._cli._pushing import arguments_of, message_options
from socketkeep._cli._say import say
from socketkeep._cli._server import request, server_options, typed
from socketkeep._cli._watching import print_json


@click.command()
@click.argument("to", metavar="NAME", shell_complete=known_to_server("name"))
@message_options
@server_options
def push(
    to: str,
    text: tuple[str, ...],
    file: str,
    newline: bool,
    timeout: float,
    control: str,
    name: str,
    as_json: bool,
) -> int:
    """Send TEXT, a file or the standard input to the connection that has NAME.

    Exits with 0 when it was handed over, with 1 when it was not, or it is not known.
    """
    arguments = arguments_of(to, text, file, newline, timeout)
    done = request("push", control, name, waits=True, arguments=arguments)
    report = typed(done.result, PushReport)
    if as_json:
        print_json(done.result)
    else:
        where = f" at {report.node}" if report.node else ""
        told = f"{report.outcome}: {report.id} {report.epoch}" if report.id else report.outcome
        say(told + where)
    return 0 if report.outcome == "delivered" else FAILED
