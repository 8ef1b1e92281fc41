"""`socketkeep upgrade`: run the installed version of the package, keep the connections."""

from __future__ import annotations

import click

from socketkeep._cli._server import act, server_options


@click.command()
@server_options
def upgrade(control: str, name: str, as_json: bool) -> int:
    """Run the version of Socketkeep that is installed now, and return when its workers serve.

    The server's process stays, with its id, its listeners, its counters and every connection; a
    reload follows, so that the workers are of the new version, too.  A version that cannot be
    loaded, or cannot read the running one's state, is refused before anything has changed (exit
    code 1).  If the reload fails (3 or 4), the workers that there were serve on."""
    return act("upgrade", control, name, as_json)
