"""`socketkeep doctor`: whether this machine will do for a server, and what to change where not."""

from __future__ import annotations

import os

import click
from msgspec import Struct

from socketkeep._admin._protocol import runtime_dir
from socketkeep._cli._exit import DONE, FAILED
from socketkeep._cli._kernel import NEEDED, missing, wrong_system
from socketkeep._cli._numbers import whole_number
from socketkeep._cli._say import finding, say_blocks
from socketkeep._cli._watching import json_option, print_json
from socketkeep._config._server_options import ServeConfig
from socketkeep._inspect._machine import LEVELS, Machine, MachineFinding, examine
from socketkeep._native import CORE, core

_MARK = {"good": "good", "note": "note", "bad": "BAD "}


class Examination(Struct, frozen=True):
    """The findings of `doctor`.

    Attributes:
        connections: What was asked for, 0 for nothing.
        good: Whether nothing is bad.
        findings: The findings.
    """

    connections: int
    good: bool
    findings: list[MachineFinding]


@click.command()
@click.option(
    "--connections",
    type=whole_number(0, 10_000_000),
    default=0,
    metavar="N",
    help="Tell whether the limits allow so many connections at a time.",
)
@json_option
def doctor(connections: int, as_json: bool) -> int:
    """Tell whether this machine will do for a server: features of the kernel, limits, rights and
    settings, and what to change (=>).

    It looks as the user who runs it, and changes nothing. Run it as the server's user, under the
    same limits: by systemd-run, or in the container.

    The exit code is 1 when a server could not run, or not hold so many connections.
    """
    found = [
        *_kernel(),
        _control(),
        *examine(Machine(), connections, ServeConfig(target="").backlog),
    ]
    found.sort(key=lambda each: LEVELS.index(each.level))
    examination = Examination(connections, all(each.level != "bad" for each in found), found)
    if as_json:
        print_json(examination)
    else:
        say_blocks(["\n".join(_line(each) for each in found)])
    return DONE if examination.good else FAILED


def _kernel() -> list[MachineFinding]:
    wrong = wrong_system()
    if wrong:
        return [MachineFinding("system", "bad", f"{wrong[0].upper()}{wrong[1:]}.")]
    found = [
        MachineFinding(each.what, "bad", f"It fails here: {each.reason}.", each.hint)
        for each in missing()
    ]
    if not found:
        found = [
            MachineFinding(
                "kernel", "good", f"What the server needs works here: {', '.join(NEEDED)}."
            )
        ]
    if core is None:
        remedy = "install a C compiler, and then Socketkeep anew; SOCKETKEEP_PURE must not be set"
        found.append(MachineFinding("core", "note", f"{CORE} runs, which is slower.", remedy))
    else:
        found.append(MachineFinding("core", "good", f"The {CORE} runs."))
    return found


def _control() -> MachineFinding:
    """Look whether a server could have its control socket; makes nothing."""
    directory = place = runtime_dir()
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    usable = os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)
    if usable and (place != directory or os.stat(place).st_uid == os.geteuid()):
        return MachineFinding(
            "control socket", "good", f"A server has its socket for commands in {directory}."
        )
    why = f"this user may not write to {place}" if os.path.isdir(place) else f"{place} is a file"
    if usable:
        why = "it is another user's"
    return MachineFinding(
        "control socket",
        "bad",
        f"A server cannot have its socket for commands in {directory}: {why}.",
        "give --control PATH, or set SOCKETKEEP_RUNTIME_DIR to a directory of your own",
    )


def _line(found: MachineFinding) -> str:
    return finding(f"{_MARK[found.level]}  {found.name}: {found.sentence}", (), found.remedy)
