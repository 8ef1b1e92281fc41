"""Look into sockets from outside: any process's, on this machine.

What the commands `socketkeep holders` and `socketkeep why` show, as frozen values.
"""

from socketkeep._inspect._diagnosis import Diagnosis
from socketkeep._inspect._results import HeldSocket, HeldSockets, SocketHolder, TcpFacts, Timer
from socketkeep._inspect._survey import holders
from socketkeep._inspect._why import Explanation, why

__all__ = [
    "Diagnosis",
    "Explanation",
    "HeldSocket",
    "HeldSockets",
    "SocketHolder",
    "TcpFacts",
    "Timer",
    "holders",
    "why",
]
