"""Completion by a shell of the value of an option or an argument."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from socketkeep._config._options import PATH, PATHS, Option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list["CompletionItem[str]"]]

#: Seconds for which who presses the key waits for a server.
_PATIENCE: Final = 1.0
#: Files that are read for what they have to serve.
_MOST_FILES: Final = 50
#: More words than fit on a screen help nobody.
_MOST_WORDS: Final = 200


def of_option(declared: Option) -> Complete | None:
    """Return what completes the values of an option of `serve`, None for what cannot be known."""
    if declared.choices:
        return one_of(declared.choices)
    if declared.key in _ACCOUNTS:
        return _ACCOUNTS[declared.key]
    return files if declared.kind in (PATH, PATHS) else None


def one_of(words: Iterable[str]) -> Complete:
    """Return what completes one of these words."""
    return lambda _ctx, _param, incomplete: _items(words, incomplete)


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def servers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a server that runs."""
    from socketkeep._admin._client import live_names

    return _items(live_names(), incomplete)


def known_to_server(*kinds: str) -> Complete:
    """Return what completes an ``id``, a ``name`` or a ``group`` of a server's connections.

    The server is the one that the command is for; nothing is completed where that is not known.
    """

    def complete(
        ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        control, name = (ctx.params.get(option) or "" for option in ("control", "name"))
        found: dict[str, str] = {}
        for kind in kinds:
            found |= _ask(control, name, kind, incomplete)
        return [
            CompletionItem(word, help=about)
            for word, about in found.items()
            if word.startswith(incomplete)
        ]

    return complete


def inspected(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete WHAT of an inspection: an address that is listened on, a pid, or pid:fd."""
    from socketkeep._inspect._subjects import subjects

    return _told(subjects(incomplete))


def addresses(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete an address that is listened on."""
    from socketkeep._inspect._subjects import addresses as there

    return _told(each for each in there() if each[0].startswith(incomplete))


def processes(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the number of a process."""
    from socketkeep._inspect._subjects import processes as there

    return _told(there(incomplete))


def targets(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete path/file.py:attribute by what a file has to serve; its code is read, not run."""
    from socketkeep._config._proposal import servable

    place, colon, _ = incomplete.rpartition(":")
    if colon:
        return _items((f"{place}:{name}" for name in servable(place)), incomplete)
    folder, beginning = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda each: each.name)
    except OSError:
        return []
    found: list[str] = []
    read = 0
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if not entry.name.startswith(beginning) or entry.name.startswith(("__", ".")):
            continue
        if entry.is_dir():
            found.append(path + os.sep)
        elif path.endswith(".py") and read < _MOST_FILES:
            read += 1
            found += [f"{path}:{name}" for name in servable(path)]
    return _items(found, incomplete)


def _ask(control: str, name: str, kind: str, beginning: str) -> dict[str, str]:
    import msgspec

    from socketkeep._admin._client import ControlError, ask, find_control

    arguments = {"what": kind, "beginning": beginning}
    try:
        done = ask(find_control(control, name), "words", arguments, timeout=_PATIENCE)
        return dict(msgspec.convert(done.result or [], list[tuple[str, str]]))
    except (ControlError, OSError, msgspec.ValidationError):
        return {}


def _users(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    import pwd

    return _items((each.pw_name for each in pwd.getpwall()), incomplete)


def _groups(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    import grp

    return _items((each.gr_name for each in grp.getgrall()), incomplete)


def _told(words: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word, help=about) for word, about in islice(words, _MOST_WORDS)]


_ACCOUNTS: Final[dict[str, Complete]] = {"user": _users, "group": _groups}


def _items(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(each) for each in words if each.startswith(incomplete)]
