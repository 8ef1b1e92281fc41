"""The answers to a handler of what became of a letter."""

from __future__ import annotations

from socketkeep._names._pushing import Presence, Present, Published, Pushed, PushOutcome
from socketkeep._wire._messages import LetterTold


def pushed(answer: LetterTold) -> Pushed:
    """Return what became of a push."""
    return Pushed(PushOutcome(answer.outcome).text, answer.id, answer.epoch, answer.node)


def published(answer: LetterTold) -> Published:
    """Return what became of a message to a group."""
    return Published(answer.delivered, answer.failed)


def present(answer: LetterTold) -> Present:
    """Return who was found."""
    found = (
        Presence(each.node, each.id, each.epoch, each.name, each.member) for each in answer.found
    )
    complete = answer.outcome == PushOutcome.DELIVERED and not answer.silent
    return Present(tuple(found), complete)
