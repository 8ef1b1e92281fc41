"""`socketkeep listeners`: what is listened on, and how long the queues are."""

from __future__ import annotations

import click

from socketkeep._admin._reports import ListenerReport
from socketkeep._cli._server import inspect, server_options
from socketkeep._cli._table import Table
from socketkeep._cli._watching import watch_option


@click.command()
@server_options
@watch_option
def listeners(control: str, name: str, as_json: bool, watch: bool) -> int:
    """List the listeners: address, bound of the queue, connections in the queue.

    Last, how many packets of clients the kernel dropped since a queue had no room; they try again.
    """
    return inspect(
        "listeners",
        control,
        name,
        as_json,
        watch,
        list[ListenerReport],
        lambda report: [listeners_table(report)],
    )


def listeners_table(reports: list[ListenerReport]) -> Table:
    """Return the table of listeners."""
    return Table(
        ("listener", "backlog", "queued", "dropped"),
        [(report.address, report.backlog, report.queued, report.dropped) for report in reports],
    )
