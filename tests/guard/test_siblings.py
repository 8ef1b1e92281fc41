"""A worker that has not come is ended before others get what it may have been sent."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

SCRIPT: Final = """
import os, signal
from socketkeep._guard._program import GUARDED
from socketkeep._keeper.loop._system import System
from socketkeep._wire import _scoreboard as scoreboard

memfds = [scoreboard.create_memfd(4) for _ in range(2)]
children = []
for memfd in memfds:
    pid = os.fork()
    if not pid:
        board = scoreboard.Scoreboard(memfd)
        signal.pause()
    children.append(pid)
guard = os.getpid()
for pid, memfd in zip(children, memfds):
    while not any(str(os.fstat(memfd).st_ino) in line for line in open(f"/proc/{pid}/maps")):
        pass
keeper = os.fork()
if not keeper:
    assert System().end_siblings(memfds[:1]) == set()  # there is no guard
    os.environ[GUARDED] = f"{guard} 0 1 killed"
    assert System().end_siblings(memfds[:1]) == {children[0]}
    os._exit(0)
assert os.waitpid(keeper, 0)[1] == 0
assert os.waitpid(children[0], 0)[1] == signal.SIGKILL
assert os.waitpid(children[1], os.WNOHANG) == (0, 0)
os.kill(children[1], signal.SIGKILL)
os.waitpid(children[1], 0)
"""


def test_those_with_that_scoreboard() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
