"""`socketkeep drain`: accept no more, and end when empty."""

from __future__ import annotations

import click

from socketkeep._cli._exit import USAGE, Failure
from socketkeep._cli._server import act, server_options
from socketkeep._config._options import MOST_PACE, parse_pace


@click.command()
@click.option(
    "--pace",
    metavar="RATE",
    default="",
    help="End so many connections a second, as 500/s or 30/m; without it none is ended before"
    " the deadline.",
)
@server_options
def drain(pace: str, control: str, name: str, as_json: bool) -> int:
    """Accept no more connections, and return when the server has ended.

    It ends when its last connection has ended, or at --graceful-timeout; at a pace that time begins
    when the last has been asked to end."""
    try:
        each_second = parse_pace(pace) if pace else 0.0
    except ValueError:
        raise Failure(
            f"--pace: expected connections a second, as 500/s, at most {MOST_PACE}, got {pace!r}",
            USAGE,
        ) from None
    arguments = {"pace": each_second} if each_second else None
    return act("drain", control, name, as_json, arguments)
