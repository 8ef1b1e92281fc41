"""The command line: one module a command."""

import sys

# Not `typing`'s, nor any other module before the signals are held.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_SERVING = ("serve", "adopt")  # commands that become a server


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the command line and return its exit code; see `_main.main`.

    For the process's own arguments (None) the process is put in order before anything else is
    imported: what may be asked of a server by signal, which waits from here on until it can be
    done, and the import path, so that no file of the application's is taken for one of ours.
    """
    if arguments is None:
        if sys.argv[1:2] and sys.argv[1] in _SERVING:
            from socketkeep._base._held_signals import hold_signals

            hold_signals()
        from socketkeep._base._importing import ours_first

        ours_first()
        from socketkeep._base._inherited import open_standard_streams

        open_standard_streams()
    import gc

    gc.disable()  # to look for garbage among what is being imported takes a tenth of the start
    from socketkeep._cli._main import main as run

    gc.enable()
    return run(arguments)
