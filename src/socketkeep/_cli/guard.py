"""`socketkeep guard`: a guard in a container of its own."""

from __future__ import annotations

import errno
from typing import Final

import click

from socketkeep._cli._exit import USAGE, Failure
from socketkeep._cli._numbers import whole_number
from socketkeep._guard._becoming import store_room
from socketkeep._guard._sidecar import serve

_HINTS: Final = {
    errno.EADDRINUSE: ": a guard listens there already",
    errno.ENOENT: ": make its directory first",
}


@click.command()
@click.option(
    "--listen",
    required=True,
    metavar="unix:PATH",
    help="Where servers connect that are started with --guard unix:PATH.",
)
@click.option(
    "--store",
    type=whole_number(1),
    default=None,
    help="How many descriptors may be held; as many as may be open (ulimit -Hn) without it.",
)
def guard(listen: str, store: int | None) -> int:
    """Hold the listeners and kept connections of servers in other containers.

    Servers that are started with --guard unix:PATH store there what must outlive their container,
    and the next one of the same name gets it back. They have the network namespace in common, and
    the directory of PATH, and the same user. When this ends, what it holds ends with it.
    """
    if not listen.startswith("unix:/"):
        raise Failure(f"--listen {listen}: expected unix:/PATH", USAGE)
    try:
        serve(listen.removeprefix("unix:"), store_room(store or 0))
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise Failure(f"--listen {listen}: {error.strerror or error}{hint}") from None
