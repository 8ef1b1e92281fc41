"""CPython's own tests of sockets, run with `socketkeep.Socket` in the place of `socket.socket`."""
