"""`socketkeep fin`: end the sending of a connection of another process."""

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
def fin(what: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Send FIN on the connections of WHAT, whoever holds them; nobody is killed.

    The peer gets all that was sent, and then EOF. The processes that hold the connection keep their
    descriptors: they can still receive, and a send fails with EPIPE.

    WHAT is pid:fd, a pid, or an address: the connections that have it as their own are meant, or
    else those whose peer has it. Listeners are left alone. It needs the right to trace a holder:
    to be its user, or root.
    """
    return end(what, "fin", yes, dry_run, as_json)
