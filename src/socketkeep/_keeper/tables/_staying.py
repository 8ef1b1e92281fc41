"""The reasons for which a connection stays with its code, when that is replaced."""

from __future__ import annotations

from enum import Enum

from socketkeep._stream._record import AGAIN, BOUND, SENT


class Staying(Enum):
    """Each reason, by the name that it has in reports."""

    NOT_RESUMABLE = "not-resumable"
    KEEP_NONE = "keep-none"
    UNCOMMITTED = "uncommitted"
    BOUND = "bound"
    BUSY = "busy"

    @property
    def sentence(self) -> str:
        """Return how people are told it, after the number of connections."""
        return _SENTENCES[self]


_SENTENCES = {
    Staying.NOT_RESUMABLE: "the handler is not resumable",
    Staying.KEEP_NONE: "nothing is kept (--keep none)",
    Staying.UNCOMMITTED: "the handler has sent something since its last commit",
    Staying.BOUND: "only its process can go on with it, such as with TLS begun by a handler",
    Staying.BUSY: "the handler has not asked for input since",
}


def why_it_stays(resumable: bool, keep: str, status: int) -> Staying | None:
    """Return why a connection is not moved at its next receive, None where it is.

    resumable: its handler is.  keep: the option.  status: its word in the scoreboard.  A handler
    that has sent something moves after its next commit, so that this holds for the moment alone.
    """
    if keep == "none":
        return Staying.KEEP_NONE
    if not resumable:
        return Staying.NOT_RESUMABLE
    match status & ~AGAIN:
        case status if status == SENT:
            return Staying.UNCOMMITTED
        case status if status == BOUND:
            return Staying.BOUND
    return None
