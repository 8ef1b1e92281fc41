"""The command line, the options, and the client of the control socket."""
