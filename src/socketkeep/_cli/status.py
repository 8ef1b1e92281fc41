"""`socketkeep status`: the server as a whole."""

from __future__ import annotations

from typing import Final

import click
import msgspec

from socketkeep._admin._reports import ClusterReport, EdgesReport, GuardReport, StatusReport
from socketkeep._cli._server import inspect, server_options
from socketkeep._cli._table import Table, duration
from socketkeep._cli._watching import watch_option
from socketkeep._cli.listeners import listeners_table

_DAY: Final = 86400


@click.command()
@server_options
@watch_option
def status(control: str, name: str, as_json: bool, watch: bool) -> int:
    """Show the state of a running server, its connections and its counts."""
    return inspect("status", control, name, as_json, watch, StatusReport, _tables)


def _tables(report: StatusReport) -> list[Table]:
    version = (report.version, f"Python {report.python}", report.core)
    about = Table(
        (),
        [
            ("server", report.name),
            ("state", _state(report)),
            ("target", report.target),
            ("model", _model(report)),
            ("keep", report.keep),
            ("generation", str(report.generation)),
            ("uptime", str(duration(report.uptime))),
            ("pid", str(report.pid)),
            ("guard", _guard(report.guard)),
            *(_cluster(report.cluster) if report.cluster is not None else ()),
            ("version", ", ".join(filter(None, version))),
        ],
    )
    totals = msgspec.structs.asdict(report.totals)
    attached = msgspec.structs.asdict(totals.pop("attached"))
    refused = msgspec.structs.asdict(totals.pop("proxy_refused"))
    over_limit = msgspec.structs.asdict(totals.pop("over_limit"))
    pushes = msgspec.structs.asdict(totals.pop("pushes"))
    if all(listener.proxy == "off" for listener in report.listeners):
        refused = {}  # of interest behind a proxy alone
    return [
        about,
        listeners_table(report.listeners),
        *(_edges(report.edges) if any(each.tls for each in report.listeners) else ()),
        _counts("workers", report.workers),
        _counts("connections", report.connections),
        Table(
            ("total", "count"),
            [
                *((key.replace("_", " "), value) for key, value in totals.items()),
                *((f"attached: {key}", value) for key, value in attached.items()),
                *(
                    (f"PROXY header refused: {key.replace('_', ' ')}", value)
                    for key, value in refused.items()
                ),
                *(
                    (f"over the limit {key.replace('_', '-')}", value)
                    for key, value in over_limit.items()
                    if value  # of interest where there is one
                ),
                *(
                    (f"pushes {key.replace('_', ' ')}", value)
                    for key, value in pushes.items()
                    if value
                ),
            ],
        ),
    ]


def _state(report: StatusReport) -> str:
    """Return the state; of one that holds, why: the first line of the error, and its last."""
    lines = report.holding.splitlines()
    return ": ".join(
        [report.state, *(line.removesuffix(":") for line in lines[:1]), *lines[1:][-1:]]
    )


def _cluster(report: ClusterReport) -> list[tuple[str, str]]:
    """Return what there is to say of the cluster, in two lines."""
    since = duration(report.for_seconds)
    if report.state == "connected":
        told = f"connected to {report.broker} since {since}"
    else:
        told = f"{report.state} since {since}: {report.error or 'no broker has answered yet'}"
    nodes = ", ".join(report.nodes) or report.node
    return [("cluster", f"{report.name}: {told}"), ("nodes", nodes)]


def _guard(report: GuardReport | None) -> str:
    if report is None:
        return "none"
    again = f", the {report.starts + 1}. that was started" * (report.starts > 0)
    unheld = f", {report.unheld} connections without room" * (report.unheld > 0)
    return (
        f"holds {report.stored} of {report.most} descriptors, {report.connections} of connections"
        f"{unheld}; keeper {report.keeper}{again}"
    )


def _model(report: StatusReport) -> str:
    """Return the model, and how it differs from what it is without options."""
    if report.model != "fork":
        return report.model
    requests = f"{report.child_requests} connections a process" * (report.child_requests > 1)
    spare = f"{report.spare} spare" * (report.spare > 0)
    snapshot = "snapshot" * report.fork_snapshot
    return ", ".join(filter(None, (report.model, requests, spare, snapshot)))


def _edges(report: EdgesReport) -> list[Table]:
    """Return the tables of the edges: their counts, and the certificates that they have."""
    rows: list[tuple[str, int]] = [
        ("running", len(report.pids)),
        ("leaving, of an earlier keeper", len(report.leaving)),
        ("connections", report.connections),
        ("in the handshake", report.shaking),
        *((f"handshakes: {version}", count) for version, count in report.handshakes.items()),
        ("handshakes that resumed a session", report.resumed),
        *(
            (f"handshakes failed: {why.replace('_', ' ')}", count)
            for why, count in report.failed.items()
        ),
    ]
    certificates = [
        (each.path, each.listener, ", ".join(each.names), f"{each.expires_in / _DAY:.0f} days")
        for each in report.certificates
    ]
    return [
        Table(("edges", "count"), rows),
        Table(("certificate", "listener", "names", "expires in"), certificates),
    ]


def _counts(title: str, counts: msgspec.Struct) -> Table:
    return Table((title, "count"), list(msgspec.structs.asdict(counts).items()))
