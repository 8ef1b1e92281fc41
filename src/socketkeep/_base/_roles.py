"""The processes of a server: who starts whom, and what each has."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class Role(Enum):
    """The role of a process; the value is the first word of its title."""

    GUARD = "guard"
    KEEPER = "keeper"
    ADMIN = "admin"
    CLUSTER = "cluster"
    EDGE = "edge"
    TEMPLATE = "template"
    WORKER = "worker"


class Part(NamedTuple):
    """The part of a role in the server.

    number: how many there are.  parent: whose child it is; made_by: who forks or executes it.
    does: a few words, shortest first.  user_code: whether it has the user's code.  listeners:
    whether it has a handle of each listener; an edge has one of those with TLS.  The guard has no
    title: it loads no package.
    """

    number: str
    parent: Role | None
    made_by: Role | None
    does: tuple[str, ...]
    user_code: bool
    listeners: bool


PARTS: Final[dict[Role, Part]] = {
    Role.GUARD: Part(
        "one where there is no service manager, the pid that is seen",
        None,
        None,
        (
            "passes signals on, reaps",
            "starts the keeper again when that has died",
            "holds a second handle of what the keeper holds",
        ),
        user_code=False,
        listeners=True,
    ),
    Role.KEEPER: Part(
        "one, with the same pid through reloads and upgrades",
        Role.GUARD,
        Role.GUARD,
        (
            "one thread, epoll",
            "binds, supervises, and holds what is kept",
            "a channel and a pidfd for each of its children",
        ),
        user_code=False,
        listeners=True,
    ),
    Role.ADMIN: Part(
        "one with --admin",
        Role.KEEPER,
        Role.KEEPER,
        ("serves metrics, health", "and the page; asks over", "the control socket"),
        user_code=False,
        listeners=False,
    ),
    Role.CLUSTER: Part(
        "one with --cluster",
        Role.KEEPER,
        Role.KEEPER,
        ("speaks to NATS brokers:", "pushes from and to other", "nodes, who has which name"),
        user_code=False,
        listeners=False,
    ),
    Role.EDGE: Part(
        "one, or --edges, where a listener has TLS",
        Role.KEEPER,
        Role.KEEPER,
        ("ends TLS; has the keys,", "outlives reloads and", "the keeper's upgrades"),
        user_code=False,
        listeners=True,
    ),
    Role.TEMPLATE: Part(
        "one a generation",
        Role.KEEPER,
        Role.KEEPER,
        ("imports the code once,", "in a fresh interpreter;", "forks on request"),
        user_code=True,
        listeners=True,
    ),
    Role.WORKER: Part(
        "one a slot",
        Role.KEEPER,
        Role.TEMPLATE,
        ("accepts and serves;", "the code is loaded when", "it begins"),
        user_code=True,
        listeners=True,
    ),
}
