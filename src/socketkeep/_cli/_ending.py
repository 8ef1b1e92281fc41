"""The common part of `fin` and `abort`: their choice, the question, and the outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import click
from msgspec import Struct

from socketkeep._cli._exit import DONE, FAILED, Failure
from socketkeep._cli._say import say
from socketkeep._cli._watching import print_json
from socketkeep._cli.holders import failures
from socketkeep._inspect._diagnosis import subject_of
from socketkeep._inspect._ends import Chosen, Outcome, Verb, abort, choose, fin
from socketkeep._inspect._results import HeldSocket

_VERBS: dict[Verb, tuple[Callable[..., Outcome], str, str]] = {
    "fin": (fin, "send FIN", "FIN sent"),
    "abort": (abort, "reset", "reset"),
}

_SAY_YES: Final = "more than one connection is meant: say --yes to end them all"

yes_option = click.option("--yes", is_flag=True, help="Do not ask before ending more than one.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be ended.")


class EndedSockets(Struct, frozen=True):
    """The deeds of `fin` or `abort`.

    Attributes:
        what: What was asked for.
        verb: "fin" or "abort".
        dry_run: Whether nothing was done.
        chosen: The sockets that were to be ended.
        left: Those that were left alone, and why.
        outcomes: What became of each that was chosen; empty with --dry-run.
    """

    what: str
    verb: Verb
    dry_run: bool
    chosen: tuple[HeldSocket, ...]
    left: tuple[Outcome, ...]
    outcomes: tuple[Outcome, ...]


def end(what: str, verb: Verb, yes: bool, dry_run: bool, as_json: bool) -> int:
    """End what `what` names, and tell of each; exit code 1 when not all of it was done."""
    with failures():
        chosen = choose(what, verb)
    nothing = f"nothing to {verb}: {what} names no connection that can be ended so"
    if as_json:
        if len(chosen.sockets) > 1 and not (yes or dry_run):
            raise Failure(_SAY_YES)
        act = _VERBS[verb][0]
        outcomes = () if dry_run else tuple(act(held) for held in chosen.sockets)
        print_json(EndedSockets(what, verb, dry_run, chosen.sockets, chosen.left, outcomes))
        if not chosen.sockets:
            raise Failure(nothing)
        return DONE if all(outcome.done for outcome in outcomes) else FAILED
    return _tell(chosen, verb, yes, dry_run, nothing)


def _tell(chosen: Chosen, verb: Verb, yes: bool, dry_run: bool, nothing: str) -> int:
    act, doing, done = _VERBS[verb]
    for outcome in chosen.left:
        say(f"{outcome.subject}: left alone: {outcome.reason}")
    if not chosen.sockets:
        raise Failure(nothing)
    if dry_run or (len(chosen.sockets) > 1 and not yes):
        for held in chosen.sockets:
            say(f"{subject_of(held)}: would {doing}; held by {held.holders[0]}")
        if dry_run:
            return DONE
        _ask(f"{doing} to these {len(chosen.sockets)} connections?")
    outcomes = [act(held) for held in chosen.sockets]
    for outcome in outcomes:
        say(f"{outcome.subject}: {done if outcome.done else outcome.reason}")
    return DONE if all(outcome.done for outcome in outcomes) else FAILED


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise Failure(_SAY_YES)
    click.confirm(question, abort=True)
