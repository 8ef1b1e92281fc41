"""`socketkeep demo`: a server changed and killed under load, and what its clients saw."""

from __future__ import annotations

import click


@click.command()
def demo() -> int:
    """Start a server, load it with 250 connections, do all to it that it outlives, and count.

    The demo reloads, upgrades and scales it, kills and stops workers, and kills the keeper, then
    all but the guard.  It prints each event, and how long the clients waited that this event
    concerned.  It needs nothing but the loopback interface and about 20 seconds.  The exit code is
    0 only when no connection ended, and no reply was lost, or repeated without being marked so.
    """
    from socketkeep._demo import run

    return run()
