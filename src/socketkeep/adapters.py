"""Adapters, which code not written for Socketkeep is given in the place of what it knows.

For annotations, and for tests of such code.  At run time the annotations of asyncio's and
socketserver's own do as well.
"""

from socketkeep._serve._socket_view import ConnectionSocket
from socketkeep._serve._streams import KeptReader, KeptWriter

__all__ = ["ConnectionSocket", "KeptReader", "KeptWriter"]
