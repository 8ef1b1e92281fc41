"""The inheritance of the next version of the keeper, gathered from this one's parts."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from socketkeep._config._listener_settings import ListenerSettings
from socketkeep._config._server_options import ServeConfig, listener_settings
from socketkeep._keeper._keeper import Keeper
from socketkeep._keeper.tables._state import (
    READABLE_FROM,
    READABLE_WITH_EDGES_AND_LIMITS_FROM,
    READABLE_WITH_OWNERS_FROM,
    READABLE_WITH_PROXIES_FROM,
    KeepOpen,
    SavedKeeper,
    SavedListener,
    SavedPlace,
    SavedServer,
)
from socketkeep._net._listener import Listener


def snapshot(keeper: Keeper, keep: KeepOpen) -> SavedServer:
    """Return all that the next version of the keeper goes on from.

    Called while a generation serves and none is coming.
    """
    current = keeper.current
    assert current is not None
    generations, templates = keeper.templates.snapshot(keep)
    place = keeper.grounds.directory.place if keeper.grounds is not None else None
    if all(each.number != current.number for each in generations):
        generations.append(current.snapshot())
    settings = listener_settings(keeper.config, len(keeper.listeners))
    post = keeper.connections.post.snapshot(keep)  # first: it says something to workers yet
    return SavedServer(
        readable_from=oldest_reader(
            keeper.config, settings, counted=keeper.lanes.doorkeeper is not None
        ),
        version=keeper.version,
        written_at=time.monotonic(),
        config=keeper.config,
        origins=keeper.origins,
        worker_descriptors=keeper.system.worker_descriptors,
        account=keeper.system.account,
        place=SavedPlace(place.name, place.guessed) if place is not None else None,
        keeper=SavedKeeper(
            boot=keeper.boot,
            name=keeper.name,
            started_at=keeper.started_at,
            paused=keeper.paused,
            reloads=keeper.reloads.begun,
            reloads_completed=keeper.reloads.completed,
            upgrades=keeper.upgrades.completed,
            listeners=[saved_listener(listener, keep) for listener in keeper.listeners],
            inlets=keeper.inlets.snapshot(keep),
            generations=generations,
            current=current.number,
            templates=templates,
            pool=keeper.pool.snapshot(keep),
            slots=keeper.slots.snapshot(),
            connections=keeper.connections.snapshot(keep),
            closing=keeper.closer.snapshot(keep),
            stored=keeper.store.names if keeper.store is not None else [],
            edges=keeper.edges.snapshot(keep),
            post=post,
            lists=keeper.lists,
            makers=list(keeper.screening.makers),
            place=keep(keeper.templates.place) if keeper.templates.place >= 0 else -1,
            census=keep(keeper.lanes.memfd) if keeper.lanes.memfd >= 0 else -1,
        ),
    )


def oldest_reader(
    config: ServeConfig, settings: Sequence[ListenerSettings], *, counted: bool
) -> int:
    """Return the format of the oldest version that can go on with such listeners.

    counted: whether connections are counted by address.
    """
    if config.user or any(
        each.user or each.group or each.mode != config.unix_mode for each in settings
    ):
        return READABLE_WITH_OWNERS_FROM
    if counted or any(each.tls for each in settings):
        return READABLE_WITH_EDGES_AND_LIMITS_FROM
    if any(each.proxy != "off" for each in settings):
        return READABLE_WITH_PROXIES_FROM
    return READABLE_FROM


def saved_listener(listener: Listener, keep: KeepOpen) -> SavedListener:
    """Return what `restored_listener` makes the listener anew from."""
    return SavedListener(
        fd=keep(listener.fileno()),
        name=listener.name,
        path=listener._path,
        identity=listener._identity,
    )


def restored_listener(saved: SavedListener) -> Listener:
    """Make a listener anew from its descriptor."""
    listener = Listener(socket.socket(fileno=saved.fd), name=saved.name, path=saved.path)
    # As it was when it was bound: another process may have bound the path since.
    listener._identity = saved.identity
    return listener
