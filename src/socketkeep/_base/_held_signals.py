"""Signals that wait: from the first moment of a server until it can act on them.

Reads no other module: each would be a moment in which HUP or USR1 still ends the process.  The
interpreter's own start and what the installer's script imports are such moments too, and no program
can do anything about them.
"""

# The part of `signal` that is in the interpreter: the rest has the numbers as enumerations, which
# takes longer to read than all that is ours up to here.  No file can stand for it, so that the
# import path need not be in order yet.
import _signal as signal  # type: ignore[import-not-found]

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
