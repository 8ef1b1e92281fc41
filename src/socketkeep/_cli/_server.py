"""The common part of commands to a running server: finding it, asking, showing the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

from socketkeep._admin._client import QUERY_TIMEOUT, ControlError, ask, find_control
from socketkeep._admin._protocol import Done
from socketkeep._base._printable import printable
from socketkeep._cli._completion import files, servers
from socketkeep._cli._exit import FAILED, Failure
from socketkeep._cli._say import say
from socketkeep._cli._table import Table
from socketkeep._cli._watching import json_option, present, print_json

Command = TypeVar("Command", bound=Callable[..., Any])
Report = TypeVar("Report")

_WHICH: Final = (
    click.option(
        "--control",
        metavar="PATH",
        default="",
        help="Control socket of the server.  [SOCKETKEEP_CONTROL]",
        shell_complete=files,
    ),
    click.option(
        "--name",
        metavar="NAME",
        default="",
        help="Name of the server; not needed when one is running.  [SOCKETKEEP_NAME]",
        shell_complete=servers,
    ),
)


def which_server(command: Command) -> Command:
    """Add --control and --name to a command."""
    for declared in reversed(_WHICH):
        command = declared(command)
    return command


def server_options(command: Command) -> Command:
    """Add --control, --name and --json to a command."""
    return which_server(json_option(command))


def request(
    command: str, control: str, name: str, *, waits: bool, arguments: dict[str, Any] | None = None
) -> Done:
    """Ask the server that is meant; its progress goes to stderr.

    waits: the command ends when something has been done, however long that takes.

    Raises Failure with the exit code: no server, or the command failed.
    """
    try:
        done = ask(
            find_control(control, name),
            command,
            arguments,
            on_progress=_progress,
            timeout=None if waits else QUERY_TIMEOUT,
        )
    except ControlError as error:
        raise Failure(error.message, error.code) from None
    if done.exit or done.error:
        raise Failure(done.error or f"{command} failed", done.exit or FAILED)
    return done


def _progress(text: str) -> None:
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def act(
    command: str, control: str, name: str, as_json: bool, arguments: dict[str, Any] | None = None
) -> int:
    """Run a command that does something, and print what it returned."""
    done = request(command, control, name, waits=True, arguments=arguments)
    if as_json:
        print_json(done.result)
    elif isinstance(done.result, dict):
        for key, value in done.result.items():
            say(f"{key}: {value}")
    return 0


def inspect(
    command: str,
    control: str,
    name: str,
    as_json: bool,
    watch: bool,
    report: type[Report],
    tables: Callable[[Report], Sequence[Table]],
) -> int:
    """Run a command that shows something; `tables` lays its report out for people."""
    # JSON is printed as it came, not through the report's types: a newer server's new fields are
    # kept.
    present(
        lambda: request(command, control, name, waits=False).result,
        as_json,
        watch,
        lambda result: tables(typed(result, report)),
    )
    return 0


def typed(result: Any, report: type[Report]) -> Report:
    """Return a result as this version knows it.  Raises Failure: it is of another version."""
    try:
        return msgspec.convert(result, report)
    except msgspec.ValidationError as error:
        raise Failure(
            f"the server's answer cannot be read ({error}): it is of another version; --json"
            " prints it as it is"
        ) from None
