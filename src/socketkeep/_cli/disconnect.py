"""`socketkeep disconnect`: one connection is to end."""

from __future__ import annotations

import click

from socketkeep._admin._reports import DisconnectReport
from socketkeep._cli._completion import known_to_server
from socketkeep._cli._exit import FAILED, Failure
from socketkeep._cli._numbers import seconds
from socketkeep._cli._say import say
from socketkeep._cli._server import request, server_options, typed
from socketkeep._cli._watching import print_json
from socketkeep._names._pushing import DISCONNECT_PATIENCE, LONGEST_PATIENCE


@click.command()
@click.argument("what", metavar="ID|NAME", shell_complete=known_to_server("id", "name"))
@click.option(
    "--force", is_flag=True, help="At once, in the middle of a message, whatever its handler does."
)
@click.option(
    "--timeout",
    type=seconds(0, LONGEST_PATIENCE),
    default=DISCONNECT_PATIENCE,
    show_default=True,
    help="Seconds to wait for its end.",
)
@server_options
def disconnect(
    what: str, force: bool, timeout: float, control: str, name: str, as_json: bool
) -> int:
    """End the connection that has this id, as `connections` shows it, or this name.

    It ends where its handler waits for input, at a safe point; --force does not wait for that.
    Exits with 0 when it has ended, with 1 when there is none, or it is still open.
    """
    arguments = {"what": what, "force": force, "timeout": timeout}
    done = request("disconnect", control, name, waits=True, arguments=arguments)
    report = typed(done.result, DisconnectReport)
    if as_json:
        print_json(done.result)
        return 0 if report.outcome == "disconnected" else FAILED
    if report.outcome == "not connected":
        raise Failure(f"no connection has the id or name {what!r}", FAILED)
    if report.outcome == "still open":
        hint = (
            "it has been cut off, and its handler goes on"
            if force
            else (
                "it ends when its handler waits for input at a safe point, or at once with --force"
            )
        )
        raise Failure(f"{report.id} is still open after {timeout:g} s: {hint}", FAILED)
    if report.outcome != "disconnected":
        raise Failure(f"not disconnected: {report.outcome}", FAILED)
    say(f"{report.outcome}: {report.id}")
    return 0
