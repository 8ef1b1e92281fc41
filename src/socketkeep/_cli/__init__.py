"""The command line: one module a command."""

from socketkeep._cli._main import main

__all__ = ["main"]
