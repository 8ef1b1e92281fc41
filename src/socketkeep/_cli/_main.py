"""The group of commands, and how what goes wrong is told: one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import sys
from collections.abc import Sequence
from typing import Final

import click

from socketkeep._base._log_sink import NoRoom, descriptor_sink
from socketkeep._base._mistakes import OptionError, nearest
from socketkeep._base._printable import printable_lines
from socketkeep._cli._exit import DONE, FAILED, INTERRUPTED, USAGE, Failure
from socketkeep._cli._numbers import mistake
from socketkeep._native import CORE
from socketkeep._version import VERSION

PROGRAM: Final = "socketkeep"
#: By which a shell asks for completions, as programs that are made with click have it.
COMPLETE_VARIABLE: Final = "_SOCKETKEEP_COMPLETE"
_PATIENCE: Final = 2000  # milliseconds, for room where an error is to be said

#: By topic the name of each command, which is its module's and its function's, and its line in the
#: help.  Modules are imported when they are called for, so that `status` does not pay for `serve`.
COMMANDS_BY_TOPIC: Final = {
    "Serve": {
        "serve": "Serve TCP and Unix-socket connections with a Python handler.",
        "guard": "Hold what servers in other containers must not lose.",
        "adopt": "Serve on the listener of a running server, any program's, beside it.",
        "demo": "Reload a server under load before your eyes.",
    },
    "A running server": {
        "status": "Show the state of a running server.",
        "workers": "List the workers of a running server.",
        "connections": "List the connections of a running server.",
        "listeners": "List what a running server listens on.",
        "top": "Show a running server live: seats, and connections on the move.",
        "who": "Show who has a name, or is in a group, on all nodes of a cluster.",
    },
    "Change a running server": {
        "reload": "Load the handler's code anew; resumable connections are kept.",
        "upgrade": "Run the installed version in the server's place; connections are kept.",
        "scale": "Change the number of workers.",
        "rebalance": "Have all workers serve as many connections, by moving idle ones.",
        "drain": "Accept no more; end when the last connection has ended.",
        "stop": "Stop a server gracefully.",
    },
    "Connections of a running server": {
        "push": "Send something to the connection that has a name.",
        "publish": "Send something to each connection of a group.",
        "disconnect": "End one connection, by its id or name.",
    },
    "The sockets of any process": {
        "holders": "Show who holds a socket: of an address, a process, or one descriptor.",
        "why": "Explain why a connection does not close, or why a port refuses or hangs.",
        "leaks": "Find sockets that a process holds only because it was forked.",
        "fin": "Send FIN on a connection of any process, whoever holds it.",
        "abort": "Reset a connection of any process, whoever holds it.",
        "release": "Refused: only a process itself can close its descriptors.",
    },
    "This machine": {
        "doctor": "Tell whether this machine will do for a server, and what to change.",
        "lab": "Try on this kernel what is said of sockets: modes, fork, close, shutdown.",
    },
}
COMMANDS: Final = {
    name: line for commands in COMMANDS_BY_TOPIC.values() for name, line in commands.items()
}


class _Commands(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"socketkeep._cli.{cmd_name}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))  # the same column in each section
        for topic, commands in COMMANDS_BY_TOPIC.items():
            with formatter.section(topic):
                formatter.write_dl([(f"{name:<{width}}", line) for name, line in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"there is no command {args[0]!r}{_likely(args[0])}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(
                f"there is no option {error.option_name} before a command; an option of a server"
                " stands behind socketkeep serve"
            ) from None


def _likely(word: str) -> str:
    """Return the command that is likely meant by a word that is none, as a clause."""
    from socketkeep._config._other_servers import COMMANDS as ELSEWHERE  # for who has mistyped

    if word in ELSEWHERE:
        return f": {ELSEWHERE[word]}"
    if ":" in word or word.endswith(".py"):
        return f": socketkeep serve {word} serves it"
    return f"{nearest(word, tuple(COMMANDS))}; see socketkeep --help"


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, message=f"%(prog)s %(version)s ({CORE})")
def group() -> None:
    """Serve TCP and Unix-socket connections, and keep them when the code behind them is replaced.

    Exit codes: 0 done, 1 failed, 2 usage, 3 workers cannot start, 4 the handler's code cannot be
    loaded.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    arguments: without the program's name; those of the process when None.  A user's mistake is
    one line on stderr, never a traceback.  No arguments at all ask for the help.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if COMPLETE_VARIABLE in os.environ:
        from socketkeep._cli._shells import use_our_scripts  # for a shell that asks

        use_our_scripts()
    try:
        code = group.main(
            args=given or ["--help"],
            prog_name=PROGRAM,
            complete_var=COMPLETE_VARIABLE,
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.ClickException as error:
        return _say(mistake(error), USAGE)
    except OptionError as error:
        return _say(str(error), USAGE)
    except Failure as failure:
        return _say(failure.message, failure.code)
    except BrokenPipeError:
        # The reader (`| head`) has left.  What is still buffered would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code if isinstance(code, int) else DONE


def _say(message: str, code: int) -> int:
    # Lines after the first are a traceback's.
    text = f"socketkeep: error: {printable_lines(message.rstrip())}\n"
    if sys.stderr is not sys.__stderr__:
        sys.stderr.write(text)
        return code
    # A server that cannot start must end with its code, though nobody reads what it says.
    with contextlib.suppress(OSError, NoRoom):
        sink = descriptor_sink(2)
        poller = select.poll()
        poller.register(2, select.POLLOUT)
        poller.poll(_PATIENCE)
        sink.write(text.encode("utf-8", "backslashreplace"))
    return code
