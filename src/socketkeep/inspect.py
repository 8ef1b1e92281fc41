"""Look into sockets from outside: any process's, on this machine.

What the commands `socketkeep holders` and `why` show, as frozen values; and what `fin` and `abort`
do.
"""

from socketkeep._inspect._diagnosis import Diagnosis
from socketkeep._inspect._ends import Chosen, Outcome, abort, choose, fin
from socketkeep._inspect._results import HeldSocket, HeldSockets, SocketHolder, TcpFacts, Timer
from socketkeep._inspect._survey import holders
from socketkeep._inspect._why import Explanation, why

__all__ = [
    "Chosen",
    "Diagnosis",
    "Explanation",
    "HeldSocket",
    "HeldSockets",
    "Outcome",
    "SocketHolder",
    "TcpFacts",
    "Timer",
    "abort",
    "choose",
    "fin",
    "holders",
    "why",
]
