"""The keeper's tables as they pass from one version of it to the next.

Encoded as msgpack maps, so that two versions can read each other: a field is only ever added, with
a default; an older reader ignores it, a newer one takes the default where it is missing.  What
cannot be done so raises the numbers below, and who cannot read the state says so before anything
has been changed.

Descriptors are numbers here: the same numbers in the process that follows by execve(2).  Times are
seconds of the monotonic clock, which goes on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from socketkeep._base._accounts import Account
from socketkeep._config._address_lists import NO_LISTS, AddressLists
from socketkeep._config._renewal import Origins
from socketkeep._config._server_options import ServeConfig
from socketkeep._keeper.tables import _ownership
from socketkeep._keeper.tables._names import SavedName
from socketkeep._keeper.tables._records import ConnectionRecord, GenerationRecord, WorkerRecord
from socketkeep._keeper.tables._waits import Waits
from socketkeep._wire._messages import EdgeReport

#: What this version writes; the oldest version's reader that understands it; the oldest format that
#: this version still reads.
FORMAT: Final = 5
READABLE_FROM: Final = 1
OLDEST_READ: Final = 1
#: The oldest version's reader that meets PROXY headers: an older one would take them for the
#: clients' own bytes.
READABLE_WITH_PROXIES_FROM: Final = 2
#: The oldest version's reader that knows listeners with TLS and takes over the edges, and that
#: holds to limits by address.
READABLE_WITH_EDGES_AND_LIMITS_FROM: Final = 3
#: The oldest version's reader that knows whose the files of Unix sockets are, and who serves: an
#: older one would serve as root.
READABLE_WITH_OWNERS_FROM: Final = 4

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

#: Called with each descriptor that the next version needs; returns it.
KeepOpen = Callable[[int], int]


class StateError(Exception):
    """The state cannot be read by this version; the text is one line that says why."""


class SavedPacket(msgspec.Struct):
    """A message that waits for room at the other end."""

    payload: bytes
    descriptors: list[int]
    close_after: bool


class SavedLink(msgspec.Struct):
    """A channel, and what is still to be sent over it."""

    fd: int
    queue: list[SavedPacket]


@dataclass(slots=True, kw_only=True)
class SavedWorker(WorkerRecord):
    """One worker; rows: of its scoreboard, 0: as the scoreboard says."""

    link: SavedLink | None
    replaces: int | None
    exit: int | None
    rows: int = 0


class SavedPool(msgspec.Struct, kw_only=True):
    """The workers; `doomed` are pids of those that were given up before their fork was told."""

    serial: int
    totals: dict[str, int]
    workers: list[SavedWorker]
    doomed: list[int] = []


@dataclass(slots=True)
class SavedGeneration(GenerationRecord):
    """One load of the user's code."""


class SavedTemplate(msgspec.Struct, kw_only=True):
    """A template process that has not been reaped yet."""

    pid: int
    generation: int
    link: SavedLink | None


class SavedEdge(msgspec.Struct, kw_only=True):
    """An edge process that has not been reaped yet.

    leaves_by: it accepts no more, and ends its connections then at the latest, on the monotonic
    clock; None: it accepts.  stored_as: the name of its channel in the guard's store, "": of none.
    orphan: the keeper that has started it has died.
    """

    seat: int
    pid: int
    link: SavedLink | None
    started_at: float = 0.0
    ready: bool = False
    report: EdgeReport = EdgeReport()
    leaves_by: float | None = None
    serial: int = 0
    stored_as: str = ""
    orphan: bool = False


class SavedFile(msgspec.Struct):
    """A file of TLS that the keeper has open for edges of another user."""

    path: str
    fd: int


class SavedEdges(msgspec.Struct, kw_only=True):
    """The edges; ended: the counts of those that have ended.

    serials: how many there have been.  secrets: of session tickets, as `TicketSecrets` has them;
    aged: since when, on the monotonic clock, they have been these.
    """

    running: list[SavedEdge] = []
    ended: EdgeReport = EdgeReport()
    secrets: list[bytes] = []
    aged: float = 0.0
    files: list[SavedFile] = []
    serials: int = 0


class SavedLetter(msgspec.Struct):
    """A letter that is under way, for the next version of the keeper.

    handed: the number by which its owner will answer, 0: it waits.  sender: the key of the port
    that is told, None: nobody is.
    """

    to: str
    data: bytes
    until: int
    handed: int
    sender: int | None
    number: int


class SavedLine(msgspec.Struct):
    """A line between the keeper and a sync worker.

    name: the id of the connection whose letters go there, "" of one by which a process pushes.
    """

    key: int
    worker: int
    name: str
    link: SavedLink | None = None


class SavedPost(msgspec.Struct):
    """The post, for the next version of the keeper."""

    names: list[SavedName] = []
    letters: list[SavedLetter] = []
    number: int = 0
    lines: list[SavedLine] = []


class SavedSlots(msgspec.Struct, kw_only=True):
    """The slots, the deaths in each that count, and when each that waits is filled."""

    numbers: list[int]
    deaths: dict[int, float] = {}
    delayed: dict[int, float] = {}


class SavedClosing(msgspec.Struct):
    """A connection that is being closed, and until when at the latest."""

    fd: int
    deadline: float


@dataclass(slots=True, kw_only=True)
class SavedConnection(ConnectionRecord):
    """A connection that the keeper has a handle of; `parcel` is its encoded handoff.

    unsent: of a push that is going out, to one that is parked.
    """

    parcel: bytes
    fd: int
    state: _ownership.OwnershipState
    epoch: int
    worker: int | None
    unsent: bytes = b""


class SavedConnections(msgspec.Struct, kw_only=True):
    """All of those, parked ones in the order in which they were parked.

    waiting: ids of those that were sent to no worker yet, in the order they came.
    unanswered: by worker, what it has not answered yet, in the order it was sent.
    upgraded: what generations before this one detach is attached with "upgrade".
    waits: of those that moved, by why.
    """

    held: list[SavedConnection]
    waiting: list[str]
    unanswered: dict[int, list[str]]
    totals: dict[str, int]
    upgraded: int = 0
    waits: list[Waits] = []


class SavedListener(msgspec.Struct, kw_only=True):
    """A listening socket; `identity` is device and inode of its file at `path`."""

    fd: int
    name: str = ""
    path: str = ""
    identity: tuple[int, int] | None = None


class SavedClient(msgspec.Struct, kw_only=True):
    """A connection to the control socket, and the command whose end it waits for."""

    fd: int
    request: bytes = b""
    answer: bytes = b""
    finished: bool = False
    command: str = ""
    looks_only: bool = False


class SavedControl(msgspec.Struct, kw_only=True):
    """The control socket."""

    listener: SavedListener
    clients: list[SavedClient] = []


class SavedInlet(msgspec.Struct):
    """By what the connections of a listener come that edges accept from: both ends."""

    listener: int
    inlet: int
    outlet: int


class SavedKeeper(msgspec.Struct, kw_only=True):
    """The tables that the keeper decides by."""

    boot: int
    name: str
    started_at: float
    paused: bool
    reloads: int  # how many generations have been begun
    reloads_completed: int
    upgrades: int
    listeners: list[SavedListener]
    generations: list[SavedGeneration]
    current: int
    templates: list[SavedTemplate]
    pool: SavedPool
    slots: SavedSlots
    connections: SavedConnections
    closing: list[SavedClosing]
    stored: list[str] = []
    edges: SavedEdges = msgspec.field(default_factory=SavedEdges)
    census: int = -1  # its memfd, where connections are counted by address
    lists: AddressLists = NO_LISTS  # of the files of networks, as they were last read
    makers: list[int] = []  # pids of those whose plain ends are known for such
    place: int = -1  # the directory of the rendezvous, for workers of another user
    post: SavedPost = msgspec.field(default_factory=SavedPost)
    inlets: list[SavedInlet] = []


class SavedPlace(msgspec.Struct):
    """The working directory's name; `guessed` when nobody has said that it is the one."""

    name: str
    guessed: bool = False


class SavedServer(msgspec.Struct, kw_only=True):
    """One server, whole.

    version: of the package that wrote it, at `written_at`.  watcher: pid of the one of `--reload`;
    admin_pid: of the one of `--admin`; cluster_pid: of the one of `--cluster`, and node: which node
    of the cluster this server is.
    worker_descriptors: the soft limit of descriptors for the workers.  account: who they are.
    mask: the signals that were blocked before the upgrade.  descriptors: all that stay open.
    command: starts another keeper, in `directory`; a version without it says nothing of that.
    origins: of `config`; without them the settings file is not read anew.
    """

    format: int = FORMAT
    readable_from: int = READABLE_FROM
    version: str
    written_at: float = 0.0
    config: ServeConfig
    keeper: SavedKeeper
    control: SavedControl | None = None
    watcher: int = 0
    admin: SavedListener | None = None
    admin_pid: int = 0
    worker_descriptors: int = 0
    mask: list[int] = []
    descriptors: list[int] = []
    place: SavedPlace | None = None
    account: Account | None = None
    command: list[str] = []
    directory: str = ""
    cluster_pid: int = 0
    node: str = ""
    agent: SavedListener | None = None
    origins: Origins | None = None


class _Formats(msgspec.Struct):
    """The fields that are read first: they say whether the rest can be."""

    format: int
    readable_from: int
    version: str = "?"


def write_state(state: SavedServer) -> int:
    """Return a sealed memfd with `state`.  Raises OSError."""
    return sealed_memfd("socketkeep-state", msgspec.msgpack.encode(state))


def sealed_memfd(name: str, data: bytes) -> int:
    """Return a memfd that holds `data` for good.  Raises OSError."""
    memfd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(memfd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def read_state(memfd: int) -> SavedServer:
    """Return the state in `memfd`, which stays open.  Raises StateError."""
    os.lseek(memfd, 0, os.SEEK_SET)
    with open(memfd, "rb", closefd=False) as file:
        data = file.read()
    try:
        formats = msgspec.msgpack.decode(data, type=_Formats)
    except ValueError as error:
        raise StateError(f"this is no state of a server: {error}") from None
    if formats.readable_from > FORMAT:
        raise StateError(
            f"the running version {formats.version} writes its state so that format"
            f" {formats.readable_from} or newer is needed to read it, and this version knows"
            f" {FORMAT}: restart the server instead"
        )
    if formats.format < OLDEST_READ:
        raise StateError(
            f"the running version {formats.version} writes its state in format {formats.format},"
            f" and this version reads {OLDEST_READ} and newer: restart the server instead"
        )
    try:
        return msgspec.msgpack.decode(data, type=SavedServer)
    except ValueError as error:
        raise StateError(
            f"the state that the running version {formats.version} writes cannot be read: {error}"
        ) from None
