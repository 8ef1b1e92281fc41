"""`socketkeep rebalance`: even out the workers' load."""

from __future__ import annotations

import click

from socketkeep._cli._server import act, server_options


@click.command()
@server_options
def rebalance(control: str, name: str, as_json: bool) -> int:
    """Move idle connections until each worker has as many, and print how many each has.

    The server does it by itself where the load is uneven by a quarter (--rebalance)."""
    return act("rebalance", control, name, as_json)
