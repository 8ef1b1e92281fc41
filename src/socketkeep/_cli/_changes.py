"""The options that a running server has read anew, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from socketkeep._admin._reports import OptionReport


def changes_of(changed: Iterable[OptionReport], restart: Iterable[OptionReport]) -> Iterator[str]:
    """Yield a line for each option that has changed, or would by a restart."""
    for each in changed:
        yield f"{each.option} is {each.now} now, and was {each.was}"
    for each in restart:
        yield f"{each.option} stays {each.was}: restart the server to make it {each.now}"
