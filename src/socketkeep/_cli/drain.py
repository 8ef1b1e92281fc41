"""`socketkeep drain`: accept no more, and end when empty."""

from __future__ import annotations

import click

from socketkeep._cli._server import act, server_options


@click.command()
@server_options
def drain(control: str, name: str, as_json: bool) -> int:
    """Accept no more connections, and return when the server has ended.

    It ends when its last connection has ended, or at --graceful-timeout."""
    return act("drain", control, name, as_json)
