"""The server's state as metrics of Prometheus, each declared once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from socketkeep._admin._reports import (
    ClusterReport,
    GuardReport,
    LiveReport,
    WaitReport,
    WorkerReport,
)
from socketkeep._base._printable import printable

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

#: A value, and its labels' in their order.
Sample = tuple[tuple[str, ...], float]

STATES: Final = (
    *("starting", "holding", "running", "reloading", "upgrading"),
    *("draining", "stopping"),
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name as it is exposed, and how its samples are read off a report."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    read: Callable[[LiveReport], Iterable[Sample]]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """One histogram, and how its waits are read off a report."""

    name: str
    help: str
    read: Callable[[LiveReport], Iterable[tuple[tuple[str, ...], WaitReport]]]
    labels: tuple[str, ...] = ()
    kind: Literal["histogram"] = "histogram"


def _one(read: Callable[[LiveReport], float | None]) -> Callable[[LiveReport], Iterator[Sample]]:
    def samples(report: LiveReport) -> Iterator[Sample]:
        value = read(report)
        if value is not None:
            yield (), value

    return samples


def _of_guard(read: Callable[[GuardReport], int]) -> Callable[[LiveReport], Iterator[Sample]]:
    """Return the samples of a server that has a guard, of another none."""

    def samples(report: LiveReport) -> Iterator[Sample]:
        if report.status.guard is not None:
            yield (), read(report.status.guard)

    return samples


def _of_cluster(
    read: Callable[[ClusterReport], Iterable[Sample]],
) -> Callable[[LiveReport], Iterator[Sample]]:
    """Return the samples of a node of a cluster, of another server none."""

    def samples(report: LiveReport) -> Iterator[Sample]:
        if report.status.cluster is not None:
            yield from read(report.status.cluster)

    return samples


def _fields(
    read: Callable[[LiveReport], msgspec.Struct], *names: str
) -> Callable[[LiveReport], Iterator[Sample]]:
    def samples(report: LiveReport) -> Iterator[Sample]:
        for name, value in msgspec.structs.asdict(read(report)).items():
            if not names or name in names:
                yield (name,), value

    return samples


def _by_slot(read: Callable[[WorkerReport], int]) -> Callable[[LiveReport], Iterator[Sample]]:
    # One label and not the generation or the pid too: each reload would begin new series for ever.
    def samples(report: LiveReport) -> Iterator[Sample]:
        slots: Counter[int] = Counter()
        for worker in report.workers:
            slots[worker.slot] += read(worker)
        for slot, value in sorted(slots.items()):
            yield (str(slot),), value

    return samples


METRICS: Final = (
    Metric(
        "socketkeep_build_info",
        "gauge",
        "1, with the version of the keeper and of its Python.",
        lambda report: [((report.status.version, report.status.python), 1)],
        ("version", "python"),
    ),
    Metric(
        "socketkeep_state",
        "gauge",
        "1 for the state that the server is in, 0 for the others.",
        lambda report: [((state,), state == report.status.state) for state in STATES],
        ("state",),
    ),
    Metric(
        "socketkeep_accepting",
        "gauge",
        "1 while new connections are served, as /readyz has it.",
        _one(lambda report: report.status.accepting),
    ),
    Metric(
        "socketkeep_generation",
        "gauge",
        "The generation of the code that serves new connections.",
        _one(lambda report: report.status.generation),
    ),
    Metric(
        "socketkeep_uptime_seconds",
        "gauge",
        "How long the server has run; upgrades do not interrupt that.",
        _one(lambda report: report.status.uptime),
    ),
    Metric(
        "socketkeep_connections",
        "gauge",
        "Open connections: in a worker, on the way to one, or parked.",
        _fields(lambda report: report.status.connections, "owned", "moving", "parked"),
        ("state",),
    ),
    Metric(
        "socketkeep_kept_connections",
        "gauge",
        "Connections that the keeper holds a handle of.",
        _one(lambda report: report.status.connections.kept),
    ),
    Metric(
        "socketkeep_listener_queued_connections",
        "gauge",
        "Connections that wait in the kernel's queue to be accepted.",
        lambda report: [
            ((listener.address,), listener.queued)
            for listener in report.status.listeners
            if listener.queued is not None
        ],
        ("listener",),
    ),
    Metric(
        "socketkeep_listener_backlog_connections",
        "gauge",
        "How many connections the queue has room for.",
        lambda report: [
            ((listener.address,), listener.backlog) for listener in report.status.listeners
        ],
        ("listener",),
    ),
    Metric(
        "socketkeep_listener_dropped_total",
        "counter",
        "Packets of clients that the kernel dropped, since a queue had no room; they try again.",
        lambda report: [
            ((listener.address,), listener.dropped)
            for listener in report.status.listeners
            if listener.dropped is not None
        ],
        ("listener",),
    ),
    Metric(
        "socketkeep_full",
        "gauge",
        "Whether there are as many connections as --max-connections says.",
        _one(lambda report: int(report.status.full)),
    ),
    Metric(
        "socketkeep_workers",
        "gauge",
        "Workers.",
        _fields(lambda report: report.status.workers),
        ("state",),
    ),
    Metric(
        "socketkeep_worker_connections",
        "gauge",
        "Connections in the workers of a slot.",
        _by_slot(lambda worker: worker.connections),
        ("slot",),
    ),
    Metric(
        "socketkeep_worker_busy_connections",
        "gauge",
        "Those of them whose handler does not wait for input.",
        _by_slot(lambda worker: worker.busy),
        ("slot",),
    ),
    Metric(
        "socketkeep_worker_resident_memory_bytes",
        "gauge",
        "Resident memory of the workers of a slot.",
        _by_slot(lambda worker: worker.rss),
        ("slot",),
    ),
    Metric(
        "socketkeep_last_reload_duration_seconds",
        "gauge",
        "From the start of the last reload until its generation served; none before the first.",
        _one(lambda report: report.status.last_reload),
    ),
    Metric(
        "socketkeep_reloads_total",
        "counter",
        "Reloads that were not rolled back.",
        _one(lambda report: report.status.totals.reloads),
    ),
    Metric(
        "socketkeep_upgrades_total",
        "counter",
        "Upgrades of the keeper.",
        _one(lambda report: report.status.totals.upgrades),
    ),
    Metric(
        "socketkeep_worker_deaths_total",
        "counter",
        "Workers that ended without having been told to.",
        _one(lambda report: report.status.totals.worker_deaths),
    ),
    Metric(
        "socketkeep_connections_attached_total",
        "counter",
        "Connections given to a worker, by why.",
        _fields(lambda report: report.status.totals.attached),
        ("reason",),
    ),
    Metric(
        "socketkeep_connections_detached_total",
        "counter",
        "Connections taken from a worker, to go on in another.",
        _one(lambda report: report.status.totals.detached),
    ),
    Metric(
        "socketkeep_connections_ended_total",
        "counter",
        "Connections that ended: closed in order, reset, or lost with their worker.",
        _fields(lambda report: report.status.totals, "closed", "reset", "lost"),
        ("how",),
    ),
    Metric(
        "socketkeep_connections_poisoned_total",
        "counter",
        "Connections that were ended because workers died of them.",
        _one(lambda report: report.status.totals.poisoned),
    ),
    Metric(
        "socketkeep_connections_unserved_total",
        "counter",
        "Connections that were closed because no handler could be called on them.",
        _one(lambda report: report.status.totals.unserved),
    ),
    Metric(
        "socketkeep_connections_overdue_total",
        "counter",
        "Connections that a deadline has ended: for their first bytes, a login, a handler's own.",
        _one(lambda report: report.status.totals.overdue),
    ),
    Metric(
        "socketkeep_connections_refused_total",
        "counter",
        "Connections that were closed for their PROXY header, by why.",
        _fields(lambda report: report.status.totals.proxy_refused),
        ("reason",),
    ),
    Metric(
        "socketkeep_connections_over_limit_total",
        "counter",
        "Connections that were closed at once for a limit of their address, by which.",
        _fields(lambda report: report.status.totals.over_limit),
        ("limit",),
    ),
    Metric(
        "socketkeep_connections_awaiting_header",
        "gauge",
        "Connections whose PROXY header is still to come; they are not among the open ones.",
        _one(lambda report: report.status.connections.awaiting_header),
    ),
    Metric(
        "socketkeep_connections_named",
        "gauge",
        "Connections that have a name, a group or a label; and the channel layers of workers.",
        _one(lambda report: report.status.connections.named),
    ),
    Metric(
        "socketkeep_connections_by_label",
        "gauge",
        'Connections that have the label of --metrics-label, by its value; "" for the others.',
        lambda report: [
            ((value,), count) for value, count in report.status.connections.by_label.items()
        ],
        ("value",),
    ),
    Metric(
        "socketkeep_groups",
        "gauge",
        "Groups that a connection is in.",
        _one(lambda report: report.status.connections.groups),
    ),
    Metric(
        "socketkeep_pushes_total",
        "counter",
        "Messages pushed to a connection, by what has become of them.",
        _fields(lambda report: report.status.totals.pushes),
        ("outcome",),
    ),
    Metric(
        "socketkeep_cluster_connected",
        "gauge",
        "1 while this node of a cluster has a broker and a lease, 0 while not.",
        _of_cluster(lambda cluster: [((), int(cluster.state == "connected"))]),
    ),
    Metric(
        "socketkeep_cluster_nodes",
        "gauge",
        "Nodes of the cluster, this one too; 0 while it is not connected.",
        _of_cluster(lambda cluster: [((), len(cluster.nodes))]),
    ),
    Metric(
        "socketkeep_cluster_joined_total",
        "counter",
        "How often this node has joined.",
        _of_cluster(lambda cluster: [((), cluster.joined)]),
    ),
    Metric(
        "socketkeep_cluster_pushes_total",
        "counter",
        "Pushes to names that nobody has on this machine, by what became of them.",
        _of_cluster(lambda cluster: [((what,), n) for what, n in cluster.sent.items()]),
        ("outcome",),
    ),
    Metric(
        "socketkeep_cluster_received_total",
        "counter",
        "Pushes of other nodes to this one.",
        _of_cluster(lambda cluster: [((), cluster.received)]),
    ),
    Metric(
        "socketkeep_cluster_names_taken_total",
        "counter",
        "Names of this node that connections of other nodes have taken over.",
        _of_cluster(lambda cluster: [((), cluster.taken)]),
    ),
    Metric(
        "socketkeep_guard_descriptors",
        "gauge",
        "Descriptors that the guard holds.",
        _of_guard(lambda guard: guard.stored),
    ),
    Metric(
        "socketkeep_guard_connections",
        "gauge",
        "Connections of which the guard has a handle.",
        _of_guard(lambda guard: guard.connections),
    ),
    Metric(
        "socketkeep_guard_unheld_connections",
        "gauge",
        "Connections that have found no room in the guard, and end with the keeper.",
        _of_guard(lambda guard: guard.unheld),
    ),
    Metric(
        "socketkeep_guard_room",
        "gauge",
        "How many descriptors the guard may hold.",
        _of_guard(lambda guard: guard.most),
    ),
    Metric(
        "socketkeep_keeper_starts_total",
        "counter",
        "How often the guard has started another keeper.",
        _of_guard(lambda guard: guard.starts),
    ),
    Metric(
        "socketkeep_edges",
        "gauge",
        "Edges that accept connections, in which the TLS of listeners ends.",
        _one(lambda report: len(report.status.edges.pids)),
    ),
    Metric(
        "socketkeep_edges_leaving",
        "gauge",
        "Edges of an earlier keeper, which serve the connections that they have until they end.",
        _one(lambda report: len(report.status.edges.leaving)),
    ),
    Metric(
        "socketkeep_edge_connections",
        "gauge",
        "Connections of the edges, with those in the handshake.",
        _one(lambda report: report.status.edges.connections),
    ),
    Metric(
        "socketkeep_edge_handshakes_under_way",
        "gauge",
        "Connections whose TLS handshake is not done; they are not among the open ones.",
        _one(lambda report: report.status.edges.shaking),
    ),
    Metric(
        "socketkeep_tls_handshakes_total",
        "counter",
        "TLS handshakes that were done, by version.",
        lambda report: [((name,), count) for name, count in report.status.edges.handshakes.items()],
        ("version",),
    ),
    Metric(
        "socketkeep_tls_sessions_resumed_total",
        "counter",
        "Those of them that resumed a session.",
        _one(lambda report: report.status.edges.resumed),
    ),
    Metric(
        "socketkeep_tls_handshakes_failed_total",
        "counter",
        "TLS handshakes that were not done, by why.",
        lambda report: [((why,), count) for why, count in report.status.edges.failed.items()],
        ("reason",),
    ),
    Metric(
        "socketkeep_certificate_expires_in_seconds",
        "gauge",
        "How long a certificate is still valid; negative, or 0: it has expired.",
        lambda report: [
            ((each.path, each.listener), each.expires_in)
            for each in report.status.edges.certificates
        ],
        ("path", "listener"),
    ),
    Metric(
        "socketkeep_refused_messages_total",
        "counter",
        "Messages of workers and templates that made no sense to the keeper.",
        _one(lambda report: report.status.totals.refused_messages),
    ),
    Metric(
        "socketkeep_handler_errors_total",
        "counter",
        "Handlers that ended by an exception.",
        _one(lambda report: report.status.totals.handler_errors),
    ),
)

HISTOGRAMS: Final = (
    Histogram(
        "socketkeep_connection_wait_seconds",
        "How long connections that were given to a worker had been with none, by why.",
        lambda report: [
            ((why,), getattr(report.status.waits, why))
            for why in report.status.waits.__struct_fields__
        ],
        ("reason",),
    ),
)


def _printable(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(printable, labels))


class _Families:
    """A collector, as prometheus_client has it, of one report."""

    def __init__(self, report: LiveReport) -> None:
        self._report = report

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for metric in METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.read(self._report):
                family.add_metric(_printable(labels), value)
            yield family
        for histogram in HISTOGRAMS:
            waits = HistogramMetricFamily(histogram.name, histogram.help, labels=histogram.labels)
            for labels, wait in histogram.read(self._report):
                buckets = [(str(bound), count) for bound, count in wait.within]
                waits.add_metric(_printable(labels), [*buckets, ("+Inf", wait.count)], wait.seconds)
            yield waits


def exposition(report: LiveReport, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format that the header `accept` asks for, and its content type."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(_Families(report))
    ProcessCollector(
        namespace="socketkeep_keeper", pid=lambda: report.status.pid, registry=registry
    )
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def metrics_markdown() -> str:
    """Return the reference table of the metrics."""
    rows = "".join(
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{name}`' for name in metric.labels)} |"
        f" {metric.help} |\n"
        for metric in (*METRICS, *HISTOGRAMS)
    )
    return f"| metric | type | labels | |\n|---|---|---|---|\n{rows}"
