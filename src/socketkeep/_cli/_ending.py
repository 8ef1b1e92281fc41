"""What `fin` and `abort` share: what they would end, the question, and what became of it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from socketkeep._cli._exit import DONE, FAILED, Failure
from socketkeep._cli.holders import failures
from socketkeep._inspect._diagnosis import subject_of
from socketkeep._inspect._ends import Outcome, Verb, abort, choose, fin

_VERBS: dict[Verb, tuple[Callable[..., Outcome], str, str]] = {
    "fin": (fin, "send FIN", "FIN sent"),
    "abort": (abort, "reset", "reset"),
}

yes_option = click.option("--yes", is_flag=True, help="Do not ask before ending more than one.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be ended.")


def end(what: str, verb: Verb, yes: bool, dry_run: bool) -> int:
    """End what `what` names, and tell of each; exit code 1 when not all of it was done."""
    with failures():
        chosen = choose(what, verb)
    act, doing, done = _VERBS[verb]
    for outcome in chosen.left:
        click.echo(f"{outcome.subject}: left alone: {outcome.reason}")
    if not chosen.sockets:
        raise Failure(f"nothing to {verb}: {what} names no connection that can be ended so")
    if dry_run or (len(chosen.sockets) > 1 and not yes):
        for held in chosen.sockets:
            click.echo(f"{subject_of(held)}: would {doing}; held by {held.holders[0]}")
        if dry_run:
            return DONE
        _ask(f"{doing} to these {len(chosen.sockets)} connections?")
    outcomes = [act(held) for held in chosen.sockets]
    for outcome in outcomes:
        click.echo(f"{outcome.subject}: {done if outcome.done else outcome.reason}")
    return DONE if all(outcome.done for outcome in outcomes) else FAILED


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise Failure("more than one connection is meant: say --yes to end them all")
    click.confirm(question, abort=True)
