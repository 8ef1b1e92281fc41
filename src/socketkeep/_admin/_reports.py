"""The results of the inspecting commands, as their JSON has them.

The fields are a promise: they are only ever added to, with a default.  Times are seconds, sizes
are bytes.
"""

from __future__ import annotations

import msgspec


class ListenerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One listener.

    Attributes:
        address: The address as bound, with the port that was chosen when 0 was asked for.
        backlog: The bound of its queue, as the kernel has it.
        queued: The connections that wait to be accepted; None when the kernel does not say.
        proxy: Whether its connections begin with a PROXY header: "off", "on" or "optional".
        tls: Whether its connections are TLS.
        dropped: The packets of clients that the kernel has dropped for want of room in the queue;
            each client tries again, and is dropped again.  None when it does not say.
    """

    address: str
    backlog: int
    queued: int | None = None
    proxy: str = "off"
    tls: bool = False
    dropped: int | None = None


class CertificateReport(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that the edges have.

    Attributes:
        path: Its file.
        listener: The address of the listener that it is for.
        names: The hosts that it is for.
        expires_in: Seconds until it expires; negative when it has, 0 where that is not known.
    """

    path: str
    listener: str
    names: list[str]
    expires_in: float


class EdgesReport(msgspec.Struct, frozen=True, kw_only=True):
    """The edges, in which TLS ends, as they were a second ago.

    Attributes:
        pids: The processes that accept connections.
        connections: The connections that all edges have.
        shaking: Those whose handshake is under way.
        handshakes: The handshakes done since the server started, by version of TLS.
        resumed: Those that resumed a session.
        failed: The handshakes that were not done, by reason.
        certificates: The certificates.
        leaving: The edges of before an upgrade, or of a keeper that has died; they serve their
            connections to the end.
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
    """Number of workers in each state.

    Attributes:
        starting: Workers that are not ready yet.
        ready: Workers that serve.
        draining: Workers that accept nothing more, and end with their connections.
    """

    starting: int = 0
    ready: int = 0
    draining: int = 0


class ConnectionsByState(msgspec.Struct, frozen=True, kw_only=True):
    """Number of connections in each state.

    Attributes:
        open: Those that are owned, moving or parked.
        owned: Those that a worker serves.
        moving: Those on their way to a worker.
        parked: Those that the keeper watches until bytes arrive.
        orphaned: Those whose worker has died, before it is decided what becomes of them.
        kept: Those that the keeper has a handle of.
        awaiting_header: Those accepted, beside `open`, whose PROXY header is still to come.
        named: Those that have a name or are in a group.
        groups: The groups that there are.
        by_label: The connections by the values of the label of --metrics-label, "" for all the
            others; empty without that.
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
    """Number of times that connections were given to a worker, by why.

    Attributes:
        accepted: They were new.
        reload: A reload, or fewer workers, moved them.
        parked: Bytes arrived for them.
        crash: Their worker had died.
        upgrade: An upgrade moved them.
    """

    accepted: int = 0
    reload: int = 0
    parked: int = 0
    crash: int = 0
    upgrade: int = 0


class RefusedHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Number of connections that were refused for their PROXY header, by why.

    Attributes:
        not_allowed: Their sender may send none (--proxy-from).
        missing: There was none.
        malformed: It was no header.
        cut: It ended too early.
        late: It was not whole in time.
        no_room: Too many waited for theirs.
    """

    not_allowed: int = 0
    missing: int = 0
    malformed: int = 0
    cut: int = 0
    late: int = 0
    no_room: int = 0


class OverLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Number of connections that were closed at once for a limit, by which.

    Attributes:
        max_per_address: --max-per-address.
        denied: --allow and --deny.
        rate_per_address: --accept-rate-per-address.
    """

    max_per_address: int = 0
    denied: int = 0
    rate_per_address: int = 0


class PushesByOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Number of pushes to one connection each, by what has become of them.

    Attributes:
        delivered: The connection's worker took them.
        not_connected: Nobody had the name.
        timed_out: They did not arrive in time.
        full: Too much waited for the connection.
        uncertain: A process died before it had answered.
    """

    delivered: int = 0
    not_connected: int = 0
    timed_out: int = 0
    full: int = 0
    uncertain: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the server started.

    Attributes:
        accepted: Connections that were accepted.
        closed: Connections that ended in order.
        reset: Connections that ended by a reset.
        detached: Times that one was taken from a worker, to go on in another.
        attached: Times that one was given to a worker, by why.
        lost: Connections that ended because of the server: their worker died, or none took them.
        reloads: Reloads that were not rolled back.
        upgrades: Upgrades.
        worker_deaths: Workers that ended without being told to.
        handler_errors: Handlers that raised.
        poisoned: Connections that were reset after too many deaths of their workers.
        unserved: Connections that were closed because no handler could be called on them.
        refused_messages: Messages of workers and templates that made no sense.
        proxy_refused: Connections refused for their PROXY header, by why.
        over_limit: Connections closed at once for a limit, by which.
        overdue: Connections that their deadline ended.
        pushes: Pushes, by outcome.
    """

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

    Attributes:
        count: How many there were.
        seconds: Their sum.
        longest: The longest.
        within: Pairs of a time and of how many did not take longer.
    """

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    within: list[tuple[float, int]] = []


class WaitReportByReason(msgspec.Struct, frozen=True, kw_only=True):
    """Waits by why the connections were given to a worker.

    Attributes:
        reload: After a reload, or with fewer workers.
        parked: When bytes arrived for what was parked.
        crash: After their worker's death.
        upgrade: After an upgrade.
    """

    reload: WaitReport = WaitReport()
    parked: WaitReport = WaitReport()
    crash: WaitReport = WaitReport()
    upgrade: WaitReport = WaitReport()


class GuardReport(msgspec.Struct, frozen=True, kw_only=True):
    """The guard.

    Attributes:
        pid: Its process.
        keeper: The process of the keeper.
        starts: How often it has started another keeper.
        stored: The descriptors that it holds.
        connections: Those of them that are connections.
        most: How many descriptors it may hold.
        unheld: Connections that have found no room in it.
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

    Attributes:
        name: The cluster's name.
        node: This node's.
        state: "connected"; "connecting", at the start; "away": no broker, or not enough of
            JetStream; "refused": by the broker, or because the cluster serves something else.
        for_seconds: How long it has been so.
        broker: The address of the broker that it is connected to.
        error: Why it is not.
        pid: The process that is in the cluster; 0: it is being started again.
        nodes: All nodes.
        received: Pushes of other nodes.
        sent: Pushes to names that nobody has here, by what became of them.
        claims: How often it has claimed a name.
        taken: Names that went to another node.
        joined: How often it has joined.
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

    Attributes:
        name: The server's name.
        pid: The process to send signals to: the guard where there is one.
        version: The version of Socketkeep.
        python: The version of Python.
        uptime: Seconds since the server started.
        state: "starting", "holding", "running", "reloading", "upgrading", "draining" or "stopping".
        target: TARGET.
        model: The model that serves.
        keep: The level of --keep.
        generation: The generation that serves new connections.
        listeners: The listeners.
        workers: Workers by state.
        connections: Connections by state.
        totals: Counts since the start.
        accepting: Whether new connections are served: a worker is ready, and nothing is being ended
            or paused.
        last_reload: Seconds that the last reload took which was not rolled back, from its start
            until the new generation served.
        waits: Times without a worker: from when the keeper took a connection, or woke it, until a
            worker had it.
        core: "compiled core" or "pure Python"; "" where the version has but one.
        edges: The edges, in which TLS ends.
        full: Whether there are as many connections as --max-connections allows, and others wait in
            the accept queues.
        child_requests: The option, for the model fork.
        spare: The option, for the model fork.
        guard: The guard; None where there is none.
        cluster: The cluster; None where it is in none.
        holding: Why no code could be loaded, where the state is "holding".
        fork_snapshot: The option, for the model fork.
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
    holding: str = ""
    fork_snapshot: bool = False


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One worker.

    Attributes:
        slot: Its seat, which outlives it.
        pid: Its process.
        generation: The generation of its code.
        state: "starting", "ready", "draining" or "dead".
        connections: The connections that it serves.
        busy: Those of them that do not wait for input.
        uptime: Seconds since it started.
        rss: Its resident memory.
    """

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

    Attributes:
        id: Its id, which no other connection of the server ever has.
        peer: The peer's address.
        listener: The address that it came to.
        state: "owned", "moving", "parked", "orphaned", or "closing".
        owner: The process that serves it; None when none does.
        generation: The generation of the code that serves it, or served it last.
        epoch: How often it has been given to a worker, counted from 1.
        age: Seconds since it was accepted.
        idle: Seconds since bytes last passed.
        bytes_in: Bytes received.
        bytes_out: Bytes sent.
        busy: Whether its handler is not waiting for input.  That of a WebSocket reads ahead of the
            application, and waits also while the application is at work.
        worker: The process of its worker, which is not its owner where the worker forks.
        slot: The worker's seat.
        name: What its handler has called it, "" for nothing.
        groups: The groups that it is in.
        labels: Its labels.
        stored: Whether the guard, or the service manager's store, has a handle of it.
        committed: Whether nothing was received or sent since its last commit, so that with ``--keep
            crash`` its owner's death would not end it.
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


class ConnectionsPart(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``connections-part``: one of the parts in which a view asks for them all.

    open: how many connections there are in all parts.  cost: the processor time that the answer
    took the keeper.
    """

    connections: list[ConnectionReport]
    open: int = 0
    cost: float = 0.0


class StayingReport(msgspec.Struct, frozen=True, kw_only=True):
    """Connections that a reload does not move.

    Attributes:
        reason: ``not-resumable``, ``keep-none``, ``uncommitted``, ``bound`` or ``busy``.
        connections: How many.
    """

    reason: str
    connections: int


class OptionReport(msgspec.Struct, frozen=True, kw_only=True):
    """An option that the settings file has another value for than before.

    Attributes:
        option: Its key in the file.
        was: The value before.
        now: The value in the file.
    """

    option: str
    was: str
    now: str


class WorkerStayingReport(msgspec.Struct, frozen=True, kw_only=True):
    """A worker whose connections do not move with the others.

    Attributes:
        slot: Its seat.
        pid: Its process.
        generation: The generation of its code.
        connections: The connections that it serves.
        seconds: For how long it serves them at most.
    """

    slot: int
    pid: int
    generation: int
    connections: int
    seconds: float


class ReloadForecast(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``reload --dry-run``: what a reload would do now.

    Attributes:
        target: The handler.
        resumable: Whether the handler is.
        moves: Connections that go on in new code at their next receive.
        held: Those that no worker has, most of them parked, which wake in new code.
        stays: Those that the old code serves on, by reason.
        seconds: For how long it does at most: what handlers have of the graceful timeout.  They may
            end sooner, and a handler that commits moves.
        silent: Workers that have not answered within a second; theirs are counted nowhere else.
        earlier: Workers that an earlier reload has left, with what they still serve.
        changed: Options that change.
        restart: Options that take a restart to change.
        error: Why the settings file would be refused, and the reload with it; "": it would not.
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

    Attributes:
        generation: The new generation.
        target: The handler.
        moves: Connections that go on in new code at their next receive.
        held: Those that no worker has, most of them parked, which wake in new code.
        stays: Those that the old code serves on, by reason.
        seconds: For how long it does at most: what handlers have of the graceful timeout.  They may
            end sooner, and a handler that commits moves.
        changed: Options that change.
        restart: Options that take a restart to change.
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

    Attributes:
        generation: The new generation.
        moved: Those that went on in new code, or were parked.
        ended: Those that the peer or the handler ended.
        cut: Those that were still open when their time was over, by reason.
        target: The handler.
        changed: Options that change.
        restart: Options that take a restart to change.
    """

    generation: int
    moved: int
    ended: int
    cut: list[StayingReport]
    target: str = ""
    changed: list[OptionReport] = []
    restart: list[OptionReport] = []


class UpgradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``upgrade``.

    Attributes:
        generation: The generation that serves.
        version: The version that runs now.
        changed: Options that change.
        restart: Options that take a restart to change.
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
    """The answer to ``push``.

    Attributes:
        outcome: "delivered", "not connected", "timed out", "full", "uncertain" or "unreachable".
        id: The connection that it was for; "": there is none.
        epoch: That connection's epoch; 0: there is none.
        node: The node where that is, "" on this machine.
    """

    outcome: str
    id: str = ""
    epoch: int = 0
    node: str = ""


class DisconnectReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``disconnect``.

    Attributes:
        outcome: "disconnected", "not connected": there is none, "still open", or "busy": too many
            are being ended.
        id: The connection that it was; "": there is none.
    """

    outcome: str
    id: str = ""


class PublishReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``publish``.

    Attributes:
        delivered: How many connections it was handed over to.
        failed: How many it was not handed over to.
    """

    delivered: int = 0
    failed: int = 0


class PresenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that has the name that was asked for, or is in that group.

    Attributes:
        node: The node where it is, "" on this machine.
        id: Its id.
        epoch: Its epoch.
        name: Its own name.
        member: Whether it is in the group of that name.
    """

    node: str
    id: str
    epoch: int
    name: str = ""
    member: bool = False


class PresentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``who``.

    Attributes:
        found: The connections.
        silent: How many nodes of the cluster did not answer.
    """

    found: list[PresenceReport] = []
    silent: int = 0
