"""`socketkeep publish`: something to each connection of a group."""

from __future__ import annotations

import click

from socketkeep._admin._reports import PublishReport
from socketkeep._cli._completion import known_to_server
from socketkeep._cli._exit import FAILED
from socketkeep._cli._pushing import arguments_of, message_options
from socketkeep._cli._say import say
from socketkeep._cli._server import request, server_options, typed
from socketkeep._cli._watching import print_json


@click.command()
@click.argument("to", metavar="GROUP", shell_complete=known_to_server("group"))
@message_options
@server_options
def publish(
    to: str,
    text: tuple[str, ...],
    file: str,
    newline: bool,
    timeout: float,
    control: str,
    name: str,
    as_json: bool,
) -> int:
    """Send TEXT, a file or the standard input to each connection of GROUP.

    Exits with 0 when it was handed over to all of them, also where there is none.
    """
    arguments = arguments_of(to, text, file, newline, timeout)
    done = request("publish", control, name, waits=True, arguments=arguments)
    report = typed(done.result, PublishReport)
    if as_json:
        print_json(done.result)
    else:
        say(f"delivered: {report.delivered}")
        say(f"failed: {report.failed}")
    return FAILED if report.failed else 0
