"""`socketkeep reload`: load the code anew, keep the connections."""

from __future__ import annotations

import click

from socketkeep._cli._server import act, server_options


@click.command()
@server_options
def reload(control: str, name: str, as_json: bool) -> int:
    """Load the handler's code anew, and return when the new code serves.

    Connections of resumable handlers go on in the new code; others finish in the old one.  If the
    new code cannot be loaded (exit code 4) or does not become ready (3), the old one serves on."""
    return act("reload", control, name, as_json)
