"""CPython's own tests of socketserver, http.server and xmlrpc, on connections of ours."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_MODULES: Final = ("test.test_socketserver", "test.test_httpservers", "test.test_xmlrpc")
_RUN: Final = """
import socket, socketserver, sys, unittest
from socketkeep import Connection
from socketkeep._serve._socket_view import ConnectionSocket

made = 0

def finish_request(self, request, client_address):
    global made
    if isinstance(request, socket.socket):  # no datagram's
        request = ConnectionSocket(Connection(request))
        made += 1
    self.RequestHandlerClass(request, client_address, self)

socketserver.BaseServer.finish_request = finish_request
result = unittest.main(module=None, argv=sys.argv, exit=False).result
assert made > 100, made  # as many are served by ours
sys.exit(not result.wasSuccessful())
"""


def test_they_pass() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _RUN, *_MODULES],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
