"""The control socket of a running server: what is said over it, and both of its ends."""
