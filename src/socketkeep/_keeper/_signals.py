"""The signals of the keeper, and what each asks."""

from __future__ import annotations

import signal
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper._keeper import Keeper

SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
    signal.SIGCHLD,
)

_PAUSE: Final = (
    "Accept nothing until the next reload; connections that are open go on. A server that runs in a"
    " terminal does not heed it: the terminal sends it whenever its window changes."
)
#: What a user is told of them, by their names without SIG.
MEANINGS: Final = (
    ("TERM, INT", "Stop gracefully, as `socketkeep stop` does."),
    ("QUIT, a second INT", "Stop at once."),
    ("HUP", "Load the handler's code anew, as `socketkeep reload` does."),
    ("TTIN, TTOU", "Serve with one worker more, with one fewer, as `socketkeep scale` does."),
    ("WINCH", _PAUSE),
    ("USR2", "Become the installed version of Socketkeep, as `socketkeep upgrade` does."),
    ("USR1", "Open `--log-file` anew, after a rotation."),
)


class SignalActions:
    """Does what signals ask for; on the loop, never in a handler."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._interrupted = False

    def act(self, number: int) -> None:
        """Act on a signal that was received."""
        keeper = self._keeper
        match number:
            case signal.SIGINT if self._interrupted:
                keeper.stop_now()
            case signal.SIGTERM:
                keeper.leave()
            case signal.SIGINT:
                self._interrupted = True
                keeper.stop("close")
            case signal.SIGQUIT:
                keeper.stop_now()
            case signal.SIGHUP:
                keeper.reload()
            case signal.SIGUSR1:
                _log.reopen()
                _log.info("log reopened")
            case signal.SIGUSR2:
                keeper.upgrade()
            case signal.SIGTTIN:
                keeper.scale(len(keeper.slots) + 1)
            case signal.SIGTTOU:
                keeper.scale(len(keeper.slots) - 1)
            case signal.SIGWINCH:
                keeper.pause()
            case signal.SIGCHLD:
                keeper.system.reaper.reap()
