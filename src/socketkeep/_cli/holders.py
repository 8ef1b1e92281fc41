"""`socketkeep holders`: the sockets of an address or a process, and who holds them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from socketkeep._base._errors import AddressError, SystemFailure
from socketkeep._cli._completion import inspected
from socketkeep._cli._exit import FAILED, USAGE, Failure
from socketkeep._cli._table import Measure, Table, duration, size
from socketkeep._cli._watching import json_option, present, watch_option
from socketkeep._inspect._results import HeldSocket, HeldSockets, Timer
from socketkeep._inspect._survey import holders as look

_HEADINGS = (
    *("kind", "state", "local", "peer", "recv", "send", "timer", "mode", "age", "inode", "cookie"),
    "held by",
)
_MODES = {True: "non-blocking", False: "blocking", None: None}


@contextmanager
def failures() -> Iterator[None]:
    """Tell what inspection fails with as a command does."""
    try:
        yield
    except AddressError as error:
        raise Failure(str(error), USAGE) from None
    except SystemFailure as error:
        raise Failure(error.reason) from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the garbage collector rest: it would walk over what grows here, and find nothing.

    Of 10,000 sockets that is a sixth of the command's time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@click.command()
@click.argument("what", shell_complete=inspected)
@json_option
@watch_option
def holders(what: str, as_json: bool, watch: bool) -> int:
    """Show the sockets of WHAT, a row each, and every process and descriptor that holds them.

    WHAT is an address (127.0.0.1:7000, :7000, [::1]:7000, unix:/path, unix:@name), a pid, or
    pid:fd, a descriptor of a process. Any process's, not only a Socketkeep server's. An address is
    that of either end: of a port the listener, its connections, and the clients on this machine.

    Of a listener, recv is how many connections wait to be accepted, and send how many may.
    Processes that you have no right to look into are named below. The exit code is 1 when nothing
    was found.
    """
    with failures(), nullcontext() if watch else _uncollected():
        found = present(lambda: look(what), as_json, watch, _tables)
    return 0 if len(found) else FAILED


def _tables(found: HeldSockets) -> list[Table]:
    if not len(found):
        return [Table((), [("no socket", found.what)])]
    rows = [cells for held in found for cells in _rows(held)]
    more = [Table((), [("not seen", found.incomplete)])] if found.incomplete else []
    return [Table(_HEADINGS, rows), *more]


def _rows(held: HeldSocket) -> Iterator[tuple[Any, ...]]:
    """Yield the socket's row, with its first holder; then a row for each other one."""
    by = [str(holder) for holder in held.holders]
    if held.note:
        by.append(held.note)
    amount = Measure if held.state == "LISTEN" else size  # of connections, or in bytes
    received, sent = held.receive_queue, held.send_queue
    yield (
        held.kind,
        held.state,
        held.local,
        held.peer,
        None if received is None else amount(received),
        None if sent is None else amount(sent),
        None if held.timer is None else _told(held.timer),
        _MODES[held.nonblocking],
        None if held.age is None else duration(held.age),
        held.inode,
        Measure(f"{held.cookie:x}"),
        by[0] if by else "",
    )
    for other in by[1:]:
        yield (*[""] * 4, *[Measure()] * 2, *[""] * 2, *[Measure()] * 3, other)


def _told(timer: Timer) -> str:
    fired = f", {timer.fired} in vain" if timer.fired else ""
    return f"{timer.kind} in {duration(timer.left)}{fired}"
