"""`socketkeep release`: refused, with the reason."""

from __future__ import annotations

import click

from socketkeep._cli._exit import Failure


@click.command()
@click.argument("what", metavar="PID:FD")
def release(what: str) -> int:
    """Refused: no process can close a descriptor of another one.

    A borrowed handle is one more, and closing it closes only that. From outside, fin and abort end
    the connection, whoever holds it. The end of a process frees all that it has.
    """
    pid = what.partition(":")[0]
    raise Failure(
        f"{what} cannot be released from outside: a descriptor is closed by its own process alone, "
        "and a borrowed handle is only one more. "
        f"End the connection whoever holds it: socketkeep fin {what}, or abort {what}; "
        f"or end the process: kill {pid}"
    )
