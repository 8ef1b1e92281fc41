"""`socketkeep abort`: reset a connection of another process."""

from __future__ import annotations

import click

from socketkeep._cli._completion import inspected
from socketkeep._cli._ending import dry_run_option, end, yes_option
from socketkeep._cli._watching import json_option


@click.command()
@click.argument("what", shell_complete=inspected)
@yes_option
@dry_run_option
@json_option
def abort(what: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Reset the connections of WHAT at once, whoever holds them; nobody is killed.

    The peer gets RST, and what was on its way is lost; on a Unix socket it gets EOF. The processes
    that hold the connection keep their descriptors, and find that it has ended.

    WHAT is as for fin. Listeners are left alone.
    """
    return end(what, "abort", yes, dry_run, as_json)
