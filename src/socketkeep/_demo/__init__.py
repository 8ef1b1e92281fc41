"""`socketkeep demo`: a server is changed and killed under load, and its clients count."""

from socketkeep._demo._run import run

__all__ = ["run"]
