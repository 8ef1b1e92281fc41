"""The results of the inspecting commands, as their JSON has them.

The fields are a promise: they are only ever added to, with a default.  Times are seconds, sizes
are bytes.
"""

from __future__ import annotations

import msgspec


class ListenerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One listener.

    address: as bound, with the port that was chosen when 0 was asked for.
    proxy: whether its connections begin with a PROXY header: "off", "on" or "optional".
    tls: whether its connections are TLS.
    backlog: the bound of its queue, as the kernel has it.
    queued: connections that wait to be accepted; None when the kernel does not say.
    dropped: how many packets of clients the kernel has dropped since there was no room in the
    queue; each client tries again, and is dropped again.  None when it does not say.
    """

    address: str
    backlog: int
    queued: int | None = None
    proxy: str = "off"
    tls: bool = False
    dropped: int | None = None


class CertificateReport(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that the edges have.

    names: of hosts.  expires_in: seconds; negative, or 0 where that is not known: it has.
    """

    path: str
    listener: str
    names: list[str]
    expires_in: float


class EdgesReport(msgspec.Struct, frozen=True, kw_only=True):
    """The edges, in which TLS ends, as they were a second ago.

    pids: of those that accept connections.  leaving: of those of before an upgrade, or of a
    keeper that has died, which serve what they have until it ends.  connections: that all have;
    shaking: those of them whose handshake is under way.  handshakes: how many were done since the
    server started, by version; resumed: how many of these resumed a session; failed: how many were
    not done, by why.
    """

    pids: list[int] = []
    connections: int = 0
    shaking: int = 0
    handshakes: dict[str, int] = {}
    resumed: int = 0
    failed: dict[str, int] = {}
    certificates: list[CertificateReport] = []
    leaving: list[int] = []


class WorkersByState(msgspec.Struct, frozen=True, kw_only=True):
    """Number of workers in each state."""

    starting: int = 0
    ready: int = 0
    draining: int = 0


class ConnectionsByState(msgspec.Struct, frozen=True, kw_only=True):
    """Number of connections in each state.

    `open` is all of them, `kept` those that the keeper has a handle of.  awaiting_header: beside
    those, accepted, and their PROXY header is still to come.  by_label: by the values of the label
    of --metrics-label, "" for all the others; empty without that.
    """

    open: int = 0
    owned: int = 0
    moving: int = 0
    parked: int = 0
    orphaned: int = 0
    kept: int = 0
    awaiting_header: int = 0
    named: int = 0
    groups: int = 0
    by_label: dict[str, int] = {}


class AttachedByReason(msgspec.Struct, frozen=True, kw_only=True):
    """Number of times that connections were given to a worker, by why."""

    accepted: int = 0
    reload: int = 0
    parked: int = 0
    crash: int = 0
    upgrade: int = 0


class RefusedHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Number of connections that were refused for their PROXY header, by why."""

    not_allowed: int = 0
    missing: int = 0
    malformed: int = 0
    cut: int = 0
    late: int = 0
    no_room: int = 0


class OverLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Number of connections that were closed at once for a limit, by which."""

    max_per_address: int = 0
    denied: int = 0
    rate_per_address: int = 0


class PushesByOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Number of pushes to one connection each, by what has become of them."""

    delivered: int = 0
    not_connected: int = 0
    timed_out: int = 0
    full: int = 0
    uncertain: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the server started."""

    accepted: int = 0
    closed: int = 0
    reset: int = 0
    detached: int = 0
    attached: AttachedByReason = AttachedByReason()
    lost: int = 0
    reloads: int = 0
    upgrades: int = 0
    worker_deaths: int = 0
    handler_errors: int = 0
    poisoned: int = 0
    unserved: int = 0
    refused_messages: int = 0
    proxy_refused: RefusedHeaders = RefusedHeaders()
    over_limit: OverLimits = OverLimits()
    overdue: int = 0
    pushes: PushesByOutcome = PushesByOutcome()


class WaitReport(msgspec.Struct, frozen=True, kw_only=True):
    """The times that connections which moved for one reason were with no worker.

    within: pairs of a time and of how many did not take longer.
    """

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    within: list[tuple[float, int]] = []


class WaitReportByReason(msgspec.Struct, frozen=True, kw_only=True):
    """Waits by why the connections were given to a worker."""

    reload: WaitReport = WaitReport()
    parked: WaitReport = WaitReport()
    crash: WaitReport = WaitReport()
    upgrade: WaitReport = WaitReport()


class GuardReport(msgspec.Struct, frozen=True, kw_only=True):
    """The guard.

    keeper: the pid of the keeper.  starts: how often it has started another keeper.
    stored: the descriptors that it holds, `connections` of them of connections; most: how many it
    may hold.  unheld: connections that have found no room in it.
    """

    pid: int
    keeper: int
    starts: int = 0
    stored: int = 0
    connections: int = 0
    most: int = 0
    unheld: int = 0


class ClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that this server is a node of.

    state: "connected"; "connecting", at the start; "away": no broker, or not enough of JetStream;
    "refused": by the broker, or since the cluster serves something else.  for_seconds: how long it
    has been so.  broker: the address of the one that it is connected to.  error: why it is not.
    pid: of the process that is in it, 0: it is being started again.  nodes: all that there are.
    received: pushes of other nodes; sent: pushes to names that nobody has here, by what became of
    them.  taken: names that went to another node.  joined: how often it has joined.
    """

    name: str
    node: str
    state: str
    for_seconds: float = 0.0
    broker: str = ""
    error: str = ""
    pid: int = 0
    nodes: list[str] = []
    received: int = 0
    sent: dict[str, int] = {}
    claims: int = 0
    taken: int = 0
    joined: int = 0


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``status``.

    pid: of the process that is to be sent signals, the guard's where there is one.
    python: its version.  core: "compiled core" or "pure Python"; "" where the version has but one.
    state: "starting", "running", "reloading", "upgrading", "draining" or "stopping".
    generation: the one that serves new connections.
    accepting: whether new connections are served: a worker is ready, and nothing is being ended or
    paused.  last_reload: how long the last reload took that was not rolled back, from its start to
    the moment when the new generation served.  waits: from when the keeper took a connection, or
    woke it, until a worker had it.  full: there are as many connections as --max-connections says,
    and others wait in the accept queues.  child_requests, spare: as the options have them, for the
    model fork.
    """

    name: str
    pid: int
    version: str
    python: str
    uptime: float
    state: str
    target: str
    model: str
    keep: str
    generation: int
    listeners: list[ListenerReport]
    workers: WorkersByState
    connections: ConnectionsByState
    totals: Totals
    accepting: bool = True
    last_reload: float | None = None
    waits: WaitReportByReason = WaitReportByReason()
    core: str = ""
    edges: EdgesReport = EdgesReport()
    full: bool = False
    child_requests: int = 1
    spare: int = 0
    guard: GuardReport | None = None
    cluster: ClusterReport | None = None


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One worker; `busy` of its connections are not waiting for input."""

    slot: int
    pid: int
    generation: int
    state: str
    connections: int
    busy: int
    uptime: float
    rss: int


class ConnectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One connection.

    owner: the pid of the process that serves it; None when none does.
    idle: since bytes last passed.  busy: its handler is not waiting for input; that of a WebSocket
    reads ahead of the application, and waits also while the application is at work.
    committed: nothing was received or sent since its last commit, so that with ``--keep crash`` its
    owner's death would not end it.
    worker: the pid of its worker, which is not its owner where the worker forks.
    slot: the worker's.  name, groups, labels: what its handler has called it.
    stored: whether the guard, or the service manager's store, has a handle of it.
    """

    id: str
    peer: str
    listener: str
    state: str
    owner: int | None
    generation: int
    epoch: int
    age: float
    idle: float
    bytes_in: int
    bytes_out: int
    busy: bool
    worker: int | None = None
    slot: int | None = None
    name: str = ""
    groups: list[str] = []
    labels: dict[str, str] = {}
    stored: bool = False
    committed: bool = True


class StayingReport(msgspec.Struct, frozen=True, kw_only=True):
    """Connections that a reload does not move.

    reason: ``not-resumable``, ``keep-none``, ``uncommitted``, ``bound`` or ``busy``.
    """

    reason: str
    connections: int


class OptionReport(msgspec.Struct, frozen=True, kw_only=True):
    """An option that the settings file has another value for than before, by its key there."""

    option: str
    was: str
    now: str


class WorkerStayingReport(msgspec.Struct, frozen=True, kw_only=True):
    """A worker whose connections do not move with the others.

    seconds: for how long it serves them at most.
    """

    slot: int
    pid: int
    generation: int
    connections: int
    seconds: float


class ReloadForecast(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``reload --dry-run``: what a reload would do now.

    target: the handler.  moves: connections that would go on in new code at their next receive.
    held: those that no worker has, most of them parked, which would wake in new code.
    stays: those that the old code would serve on, until they end, or a handler commits, or what
    handlers have of the graceful timeout is over (seconds).
    silent: workers that have not answered within a second; theirs are counted nowhere else.
    earlier: workers that an earlier reload has left, with what they still serve.
    changed: options that would change; restart: those that would take a restart to change.
    error: why the settings file would be refused, and the reload with it; "": it would not.
    """

    target: str
    resumable: bool
    moves: int
    held: int
    stays: list[StayingReport]
    seconds: float
    silent: list[WorkerStayingReport] = []
    earlier: list[WorkerStayingReport] = []
    changed: list[OptionReport] = []
    restart: list[OptionReport] = []
    error: str = ""


class ReloadCost(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``reload``, given when the new code serves.

    target: the handler.  moves, held, stays, seconds, changed, restart: as `ReloadForecast` has
    them, of this reload.
    """

    generation: int
    target: str = ""
    moves: int = 0
    held: int = 0
    stays: list[StayingReport] = []
    seconds: float = 0.0
    changed: list[OptionReport] = []
    restart: list[OptionReport] = []


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``reload --wait``: what became of the connections that the old code had.

    target: the handler.  moved: those that went on in new code, or were parked.  ended: by the peer
    or the handler.  cut: those that were still open when their time was over.
    changed, restart: options, as `ReloadForecast` has them.
    """

    generation: int
    moved: int
    ended: int
    cut: list[StayingReport]
    target: str = ""
    changed: list[OptionReport] = []
    restart: list[OptionReport] = []


class UpgradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``upgrade``: the generation that serves, of the version that runs now.

    changed, restart: options, as `ReloadForecast` has them.
    """

    generation: int
    version: str
    changed: list[OptionReport] = []
    restart: list[OptionReport] = []


class LiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``live``: all that a view of the server shows, at one moment.

    connections: not all where there are many: the same ones each time, as long as they live.
    left_out: how many more there are.  cost: the processor time that the report took the keeper.
    """

    status: StatusReport
    workers: list[WorkerReport]
    connections: list[ConnectionReport]
    left_out: int = 0
    cost: float = 0.0


class PushReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``push``: outcome, and which connection it was for, "" and 0: there is none.

    node: where that is, "" on this machine.
    """

    outcome: str
    id: str = ""
    epoch: int = 0
    node: str = ""


class DisconnectReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``disconnect``: outcome, and which connection it was, "": there is none."""

    outcome: str
    id: str = ""


class PublishReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``publish``: how many connections it was handed over to, and how many not."""

    delivered: int = 0
    failed: int = 0


class PresenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that has the name that was asked for, or is in that group (`member`).

    node: where it is, "" on this machine.  name: its own.
    """

    node: str
    id: str
    epoch: int
    name: str = ""
    member: bool = False


class PresentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``who``.  silent: how many nodes of the cluster did not answer."""

    found: list[PresenceReport] = []
    silent: int = 0
