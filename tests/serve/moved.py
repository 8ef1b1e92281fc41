"""A reload that has moved what moves: the old code serves nothing of it any more."""

from __future__ import annotations

from tests.harness import Server


def reload_whole(server: Server, generation: int) -> None:
    """Reload, to be the generation of that number, and wait until the one before has gone.

    The command returns when the new code serves; connections leave the old in their turn.
    """
    server.ask("reload")
    server.wait_event("earlier code gone", generation=generation)
