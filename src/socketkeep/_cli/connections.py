"""`socketkeep connections`: the connections, a row each."""

from __future__ import annotations

import click

from socketkeep._admin._reports import ConnectionReport
from socketkeep._cli._server import inspect, server_options
from socketkeep._cli._table import Table, duration, size
from socketkeep._cli._watching import watch_option


@click.command()
@server_options
@watch_option
def connections(control: str, name: str, as_json: bool, watch: bool) -> int:
    """List the connections: peer, state, who serves them, age and bytes."""
    return inspect("connections", control, name, as_json, watch, list[ConnectionReport], _tables)


def _tables(reports: list[ConnectionReport]) -> list[Table]:
    return [
        Table(
            (
                *("id", "peer", "listener", "state", "owner", "gen", "epoch"),
                *("age", "idle", "in", "out", "busy", "stored", "name", "groups", "labels"),
            ),
            [
                (
                    report.id,
                    report.peer,
                    report.listener,
                    report.state,
                    report.owner,
                    report.generation,
                    report.epoch,
                    duration(report.age),
                    duration(report.idle),
                    size(report.bytes_in),
                    size(report.bytes_out),
                    "yes" if report.busy else "no",
                    "yes" if report.stored else "no",
                    report.name,
                    " ".join(report.groups),
                    " ".join(f"{key}={value}" for key, value in report.labels.items()),
                )
                for report in reports
            ],
        )
    ]
