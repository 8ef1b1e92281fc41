"""A server that leaks at each reload, so that a soak is seen to find it.

``python -m tests.soak --leaky`` runs this module as the server itself.
"""

from __future__ import annotations

import os
import runpy
import select
from importlib import import_module
from typing import Any, Final

#: Bytes.
EACH: Final = 512 * 1024


def leak_at_each_reload() -> None:
    """Have this process, which comes to be a keeper, keep something of each of its reloads."""
    kept: list[bytearray] = []
    epoll = select.epoll()
    rollout = import_module("socketkeep._keeper.rollout._rollout").Rollout
    finish = rollout._finish

    def leaking(*arguments: Any) -> None:
        epoll.register(os.eventfd(0, os.EFD_CLOEXEC), select.EPOLLIN)
        kept.append(bytearray(os.urandom(EACH)))
        finish(*arguments)

    rollout._finish = leaking


if __name__ == "__main__":
    leak_at_each_reload()
    runpy.run_module("socketkeep", run_name="__main__", alter_sys=True)
