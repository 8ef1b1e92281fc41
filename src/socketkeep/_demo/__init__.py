"""`socketkeep demo`: a server is reloaded and scaled under load, and its clients count."""

from socketkeep._demo._run import run

__all__ = ["run"]
