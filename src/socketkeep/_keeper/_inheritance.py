"""Listeners that pass to the next version of the keeper."""

from __future__ import annotations

import socket

from socketkeep._keeper._state import KeepOpen, SavedListener
from socketkeep._listener import Listener


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
