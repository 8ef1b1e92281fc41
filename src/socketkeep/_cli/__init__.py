"""The command line: one module a command."""

import gc

gc.disable()  # to look for garbage among what is being imported takes a tenth of a command's start
from socketkeep._cli._main import main  # noqa: E402

gc.enable()

__all__ = ["main"]
