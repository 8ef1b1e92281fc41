"""`socketkeep workers`: the workers, a row each."""

from __future__ import annotations

import click

from socketkeep._admin._reports import WorkerReport
from socketkeep._cli._server import inspect, server_options
from socketkeep._cli._table import Table, duration, size
from socketkeep._cli._watching import watch_option


@click.command()
@server_options
@watch_option
def workers(control: str, name: str, as_json: bool, watch: bool) -> int:
    """List the workers: their generation, state, connections and memory."""
    return inspect("workers", control, name, as_json, watch, list[WorkerReport], _tables)


def _tables(reports: list[WorkerReport]) -> list[Table]:
    return [
        Table(
            ("slot", "pid", "generation", "state", "connections", "busy", "uptime", "rss"),
            [
                (
                    report.slot,
                    report.pid,
                    report.generation,
                    report.state,
                    report.connections,
                    report.busy,
                    duration(report.uptime),
                    size(report.rss),
                )
                for report in reports
            ],
        )
    ]
