# Each name is the twin, in C, of one in Python.

from collections.abc import Collection, Sequence

def look(
    pids: Sequence[int],
    inodes: Collection[int] | None,
    mount: int,
    of: dict[int, list[tuple[int, int]]],
    nonblocking: dict[int, bool],
    /,
) -> dict[int, int]: ...
