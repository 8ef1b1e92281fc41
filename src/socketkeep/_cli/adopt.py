"""`socketkeep adopt`: serve on the listening socket of a running server."""

from __future__ import annotations

import click

from socketkeep._base._address import parse_bind
from socketkeep._cli._adopted import Adopted
from socketkeep._cli._completion import addresses, processes
from socketkeep._cli._exit import USAGE, Failure
from socketkeep._cli._numbers import whole_number
from socketkeep._cli.holders import failures
from socketkeep._cli.serve import serve
from socketkeep._inspect._adopting import BorrowedListener, borrow_listeners


@click.command(options_metavar="--from PID [OPTIONS]")
@click.argument("address", shell_complete=addresses)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- serve TARGET [OPTIONS]")
@click.option(
    "--from",
    "pids",
    type=whole_number(1),
    multiple=True,
    required=True,
    metavar="PID",
    shell_complete=processes,
    help="The server's process; those that it has started are looked into as well. Repeatable.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also when the server waits in accept(2), which may fail once the listener is adopted.",
)
def adopt(address: str, command: tuple[str, ...], pids: tuple[int, ...], force: bool) -> int:
    """Serve on the listening socket that a running server has for ADDRESS, beside it.

    The server may be any program, and is not told. A handle of its listener is borrowed
    (pidfd_getfd), so that both accept, each a share of the connections, until you stop the old one.
    The address is never without a listener: no connection is refused in between.

    Behind -- stands the command by which you would start the server otherwise, with its options and
    TARGET. ADDRESS need not be among them; where it is, the borrowed listener stands for it.

    It needs the right to trace the process: to be its user, where ptrace is not restricted (Yama),
    or root.
    """
    if not command or command[0] != "serve":
        raise Failure(
            "say after -- what shall serve: "
            f"socketkeep adopt {address} --from {pids[0]} -- serve TARGET [OPTIONS]",
            USAGE,
        )
    with failures():
        listeners = borrow_listeners(address, pids)
    try:
        if not force:
            _check_accepting(listeners)
        adopted = Adopted(str(parse_bind(address)), listeners)
        with serve.make_context("serve", list(command[1:]), obj=adopted) as context:
            code = serve.invoke(context)
            assert isinstance(code, int)
            return code
    finally:
        for listener in listeners:
            listener.close()


def _check_accepting(listeners: tuple[BorrowedListener, ...]) -> None:
    """Refuse what would break the old server: its accept(2) would fail when nothing waits."""
    for listener in listeners:
        if listener.accepting and not listener.nonblocking:
            raise Failure(
                f"process {listener.accepting[0]} waits in accept(2) on {listener.address}, and "
                "the listener would become non-blocking for it too: its accept may then fail with "
                "EAGAIN, which ends many programs; --force adopts it all the same"
            )
