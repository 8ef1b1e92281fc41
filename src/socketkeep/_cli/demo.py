"""`socketkeep demo`: a server reloaded under load, and what its clients saw."""

from __future__ import annotations

import click


@click.command()
def demo() -> int:
    """Start a server, load it with 200 connections, reload it twice, and count what was lost.

    Needs nothing but the loopback interface and about 20 seconds.  The exit code is 0 only when
    no connection ended, and no reply was lost or repeated.
    """
    from socketkeep._demo import run

    return run()
