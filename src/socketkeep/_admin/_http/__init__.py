"""The process that shows a server over HTTP: it asks the control socket, and answers browsers."""
