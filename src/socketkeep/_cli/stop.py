"""`socketkeep stop`: end the server gracefully."""

from __future__ import annotations

import click

from socketkeep._cli._server import act, server_options


@click.command()
@server_options
def stop(control: str, name: str, as_json: bool) -> int:
    """Stop the server gracefully, and return when it has ended."""
    return act("stop", control, name, as_json)
