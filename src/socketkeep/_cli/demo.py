"""`socketkeep demo`: a server changed and killed under load, and what its clients saw."""

from __future__ import annotations

import click


@click.command()
def demo() -> int:
    """Start a server, load it with 250 connections, do all to it that it outlives, and count.

    It is reloaded, upgraded and scaled, and workers of it are killed and stopped; each event is
    told with how long those waited whom it concerned.  Needs nothing but the loopback interface and
    about 20 seconds.  The exit code is 0 only when no connection ended, and no reply was lost, or
    repeated without being marked so.
    """
    from socketkeep._demo import run

    return run()
