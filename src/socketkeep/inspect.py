"""Look into sockets from outside: any process's, on this machine.

What the command `socketkeep holders` shows, as frozen values.
"""

from socketkeep._inspect._results import HeldSocket, HeldSockets, SocketHolder, TcpFacts, Timer
from socketkeep._inspect._survey import holders

__all__ = ["HeldSocket", "HeldSockets", "SocketHolder", "TcpFacts", "Timer", "holders"]
