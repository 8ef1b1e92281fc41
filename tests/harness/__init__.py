"""Real servers and real peers for the tests.

`Server` runs ``socketkeep serve`` in a directory of its own; `Load` and `Storm` are its peers;
`Capture` watches the wire; `write_handler` writes the code that is served; `Versions` has several
versions of the package to serve it with.
"""

from tests.harness.capture import Capture, Flags
from tests.harness.control import ControlError, ask
from tests.harness.flood import Flood
from tests.harness.handlers import write_handler, write_source
from tests.harness.peers import Load, Tally, connect, parse_address, read_reply, read_to_end
from tests.harness.server import Event, Finished, Server
from tests.harness.storm import Storm, StormTally
from tests.harness.versions import FIRST_WHEEL, Versions

__all__ = [
    "FIRST_WHEEL",
    "Capture",
    "ControlError",
    "Event",
    "Finished",
    "Flags",
    "Flood",
    "Load",
    "Server",
    "Storm",
    "StormTally",
    "Tally",
    "Versions",
    "ask",
    "connect",
    "parse_address",
    "read_reply",
    "read_to_end",
    "write_handler",
    "write_source",
]
