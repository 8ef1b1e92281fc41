"""The reasons to refuse a connection before any handler has it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

HeaderReason: TypeAlias = Literal["not_allowed", "missing", "malformed", "cut", "late", "no_room"]
LimitReason: TypeAlias = Literal["max_per_address", "denied", "rate_per_address"]
Reason: TypeAlias = HeaderReason | LimitReason

#: Of the PROXY header: it, or the connection itself, comes from who may not send one; there is
#: none; it breaks the specification; the connection ended before it was whole; it was not whole in
#: time; too many are waited for.  In the order of the scoreboard's words: appended to only.
REASONS: Final[tuple[HeaderReason, ...]] = (
    "not_allowed",
    "missing",
    "malformed",
    "cut",
    "late",
    "no_room",
)

#: Of limits: so many are open from its address already; the lists of networks do not let it in;
#: they come too fast from there.  Appended to only, as above.
LIMITS: Final[tuple[LimitReason, ...]] = ("max_per_address", "denied", "rate_per_address")

#: Seconds from accept(2) until a PROXY header must be whole, and how many bytes it may have.
HEADER_TIME: Final = 3.0
HEADER_LIMIT: Final = 8192


class Refusal(Exception):
    """A connection is not to be served; the text is one line that says why."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def counter_of(reason: Reason) -> str:
    """Return the name of the counter of the connections refused for that reason."""
    return f"limit_{reason}" if reason in LIMITS else f"proxy_{reason}"
