"""Signals that wait: from the first moment of a server until it can act on them.

Imports next to nothing: each module that was read first would be a moment in which HUP or USR1
still ends the process.  The interpreter's own start is one, and no program can do anything about
that.
"""

import signal

#: What these ask of a server has a default action that would end the process, or stop it.
REQUESTS = (
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)

#: Held until the server acts on them.  Not INT and QUIT: they end a start that takes long, over a
#: host name that does not resolve, say.
_HELD = (*REQUESTS, signal.SIGTERM)


def hold_signals() -> None:
    """Let what is asked of a server by signal wait until it can act on it (`let_signals_come`).

    The mask that was inherited is forgotten.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, _HELD)


def let_signals_come() -> None:
    """Have all signals act, those that waited first."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
