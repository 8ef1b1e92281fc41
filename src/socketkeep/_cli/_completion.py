"""Completion by a shell of the value of an option or an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from socketkeep._config._options import PATH, PATHS, Option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list["CompletionItem"]]


def of_option(declared: Option) -> Complete | None:
    """Return what completes the values of an option of `serve`, None for what cannot be known."""
    if declared.choices:
        return _one_of(declared.choices)
    return files if declared.kind in (PATH, PATHS) else None


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def servers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a server that runs."""
    from click.shell_completion import CompletionItem

    from socketkeep._admin._client import live_names

    return [CompletionItem(name) for name in live_names() if name.startswith(incomplete)]


def _one_of(choices: tuple[str, ...]) -> Complete:
    def complete(
        _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(each) for each in choices if each.startswith(incomplete)]

    return complete
