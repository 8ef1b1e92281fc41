"""`socketkeep scale`: more workers or fewer."""

from __future__ import annotations

import click

from socketkeep._cli._numbers import whole_number
from socketkeep._cli._server import act, server_options


@click.command()
@click.argument("workers", metavar="N", type=whole_number(1))
@server_options
def scale(workers: int, control: str, name: str, as_json: bool) -> int:
    """Serve with N workers, 1 to 1000; fewer lets connections move or finish, and cuts none."""
    return act("scale", control, name, as_json, {"workers": workers})
