"""`socketkeep leaks`: sockets that a process holds only because it was forked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import click

from socketkeep._base._printable import printable
from socketkeep._cli._completion import processes
from socketkeep._cli._exit import DONE, FAILED
from socketkeep._cli._numbers import seconds, whole_number
from socketkeep._cli._say import finding, say_blocks
from socketkeep._cli._watching import json_option, print_json
from socketkeep._cli.holders import failures
from socketkeep._inspect._diagnosis import subject_of
from socketkeep._inspect._judging import Leak
from socketkeep._inspect._leaks import leaks as find
from socketkeep._inspect._rights import why_unreadable

#: So many of a kind are told at length of a process; one that serves may have thousands.
_EXAMPLES = 3


@click.command()
@click.argument(
    "pids",
    metavar="PID...",
    nargs=-1,
    required=True,
    type=whole_number(1),
    shell_complete=processes,
)
@click.option(
    "--interval",
    type=seconds(0, 3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Between the two looks: what a process waits for at either of them it uses.",
)
@json_option
def leaks(pids: tuple[int, ...], interval: float, as_json: bool) -> int:
    """Find sockets that processes hold only because they were forked: PID and its descendants.

    Each with what shows it (-), and the line of Python that would have prevented it (=>). Sockets
    of which what was seen does not tell are listed as unclear. Sockets that a Socketkeep server
    keeps on purpose are no leak.

    The exit code is 1 when leaks were found, and 0 when there are none, whatever is unclear.
    """
    with failures():
        found = find(*pids, interval=interval)
    if as_json:
        print_json(found)
    else:
        blocks = list(_blocks(found.leaks, ""))
        blocks += _blocks(found.unclear, "unclear: ")
        if not found.leaks:
            count = len(found.looked_at)
            blocks.insert(0, f"no leak in {count} process{'es' if count != 1 else ''}")
        if found.unreadable:
            blocks.append(f"not seen: {why_unreadable(found.unreadable)}")
        if found.hidden:
            blocks.append(f"not seen: {found.hidden}")
        say_blocks(blocks)
    return FAILED if found.leaks else DONE


def _blocks(found: Iterable[Leak], prefix: str) -> Iterable[str]:
    told: Counter[tuple[int, str]] = Counter()
    for leak in found:
        told[leak.pid, leak.code] += 1
        if told[leak.pid, leak.code] <= _EXAMPLES:
            yield _block(leak, prefix)
    for (pid, code), count in told.items():
        if count > _EXAMPLES:
            more = count - _EXAMPLES
            yield f"{prefix}and {more} more of process {pid}, {code} (--json has them all)"


def _block(leak: Leak, prefix: str) -> str:
    what = f"{leak.socket.kind} {leak.socket.state} {subject_of(leak.socket)}".strip()
    head = printable(f"{prefix}{leak.pid}:{leak.fd} {leak.command}: {what}")
    return f"{head}\n{finding(f'  {leak.sentence}', leak.evidence, leak.remedy)}"
