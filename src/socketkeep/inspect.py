"""Look into sockets from outside: any process's, on this machine.

What the commands `socketkeep holders`, `why` and `leaks` show, as frozen values; what `fin` and
`abort` do; and how `adopt` comes by its listeners.
"""

from socketkeep._inspect._adopting import BorrowedListener, borrow_listeners
from socketkeep._inspect._diagnosis import Diagnosis
from socketkeep._inspect._ends import Chosen, Outcome, abort, choose, fin
from socketkeep._inspect._judging import Leak
from socketkeep._inspect._leaks import Leaks, leaks
from socketkeep._inspect._results import HeldSocket, HeldSockets, SocketHolder, TcpFacts, Timer
from socketkeep._inspect._survey import holders
from socketkeep._inspect._why import Explanation, why

__all__ = [
    "BorrowedListener",
    "Chosen",
    "Diagnosis",
    "Explanation",
    "HeldSocket",
    "HeldSockets",
    "Leak",
    "Leaks",
    "Outcome",
    "SocketHolder",
    "TcpFacts",
    "Timer",
    "abort",
    "borrow_listeners",
    "choose",
    "fin",
    "holders",
    "leaks",
    "why",
]
