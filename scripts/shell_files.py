"""Write what a shell's user has beside the program: man pages, and scripts for completion.

`python scripts/shell_files.py DIRECTORY` writes them below DIRECTORY/share, where man, bash, zsh
and fish look in a prefix such as /usr or a virtual environment.  All are made from the commands and
the options as they are declared.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click

from socketkeep._cli import _main, _shells
from socketkeep._config._listener_options import LISTENER_OPTIONS
from socketkeep._config._server_options import by_topic
from socketkeep._keeper._signals import MEANINGS
from socketkeep._version import VERSION

MAN: Final = Path("share", "man", "man1")
SCRIPTS: Final = {
    "bash": Path("share", "bash-completion", "completions", "socketkeep"),
    "zsh": Path("share", "zsh", "site-functions", "_socketkeep"),
    "fish": Path("share", "fish", "vendor_completions.d", "socketkeep.fish"),
}
_EXIT_CODES: Final = (
    ("0", "Done."),
    ("1", "Failed."),
    ("2", "Wrong usage: an option, an argument, no server or several."),
    ("3", "Workers cannot start."),
    ("4", "The handler's code cannot be loaded."),
)
_CONTROL: Final = (
    "Control socket of the server called NAME; below /run/socketkeep for root, below"
    " /tmp/socketkeep-UID where there is no XDG_RUNTIME_DIR, and below SOCKETKEEP_RUNTIME_DIR"
    " where that is set."
)
_FILES: Final = (("$XDG_RUNTIME_DIR/socketkeep/NAME.sock", _CONTROL),)


def main() -> None:
    """Write all below the directory that the command line names."""
    directory = Path(sys.argv[1])
    for name, page in pages().items():
        _write(directory / MAN / f"{name}.1", page)
    for shell in _shells.SHELLS:
        text = _shells.script(_main.group, shell, _main.PROGRAM, _main.COMPLETE_VARIABLE)
        _write(directory / SCRIPTS[shell.name], text)


def pages() -> dict[str, str]:
    """Return the man pages by their names: of the program, and of each command."""
    context = click.Context(_main.group, info_name=_main.PROGRAM, **_main.group.context_settings)
    found = {_main.PROGRAM: "".join(_page_of_program(context))}
    for name, about in _main.COMMANDS.items():
        command = _main.group.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context)
        found[f"{_main.PROGRAM}-{name}"] = "".join(_page_of_command(command, own, about))
    return found


def _page_of_program(context: click.Context) -> Iterator[str]:
    yield _title(_main.PROGRAM)
    yield _section(
        "NAME", f"{_main.PROGRAM} \\- {roff('keep connections when code is replaced')}\n"
    )
    yield _section("SYNOPSIS", _synopsis(_main.group, context))
    yield _section("DESCRIPTION", _paragraphs(_main.group.help or ""))
    yield _section("OPTIONS", _options(_main.group, context))
    commands = (
        (f"{_main.PROGRAM}-{name}(1)", _sentence(about)) for name, about in _main.COMMANDS.items()
    )
    yield _section("COMMANDS", _items(commands))
    yield _section("SIGNALS", "Of the server's process.\n" + _items(MEANINGS))
    yield _section("EXIT STATUS", _items(_EXIT_CODES))
    yield _section("FILES", _items(_FILES))


def _page_of_command(command: click.Command, context: click.Context, about: str) -> Iterator[str]:
    name = f"{_main.PROGRAM}-{context.info_name}"
    yield _title(name)
    yield _section("NAME", f"{roff(name)} \\- {roff(about.rstrip('.'))}\n")
    yield _section("SYNOPSIS", _synopsis(command, context))
    yield _section("DESCRIPTION", _paragraphs(command.help or ""))
    yield _section("OPTIONS", _options(command, context))
    if context.info_name == "serve":
        of_listener = ((f"{each.name}=", _sentence(each.help)) for each in LISTENER_OPTIONS)
        yield _section(
            "OPTIONS OF A LISTENER",
            "Behind an address of \\fB\\-\\-bind\\fR, each after a comma.\n" + _items(of_listener),
        )
        yield _section("SIGNALS", _items(MEANINGS))
    yield _section("EXIT STATUS", _items(_EXIT_CODES))
    yield _section("SEE ALSO", f".BR {_main.PROGRAM} (1)\n")


def _title(name: str) -> str:
    return (
        f'.TH "{roff(name.upper())}" "1" "" "Socketkeep {roff(VERSION)}" "Socketkeep"\n.nh\n.ad l\n'
    )


def _section(title: str, body: str) -> str:
    return f".SH {title}\n{body}"


def _synopsis(command: click.Command, context: click.Context) -> str:
    pieces = " ".join(command.collect_usage_pieces(context))
    return f".B {roff(context.command_path)}\n{roff(pieces)}\n"


def _options(command: click.Command, context: click.Context) -> str:
    """Return the options of a command, those of a server by topic and its own others first."""
    records = {
        parameter.name: record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None and record[1]
    }
    topics = {
        title: [records.pop(each.key) for each in declared if each.key in records]
        for title, declared in (by_topic() if context.info_name == "serve" else {}).items()
    }
    parts = [f".SS {roff(title)}\n{_items(found)}" for title, found in topics.items() if found]
    return "".join((_items(records.values()), *parts))


def _items(items: Iterable[tuple[str, str]]) -> str:
    return "".join(f".TP\n.B {roff(name)}\n{roff(text)}\n" for name, text in items)


def _paragraphs(text: str) -> str:
    parts = re.split(r"\n\s*\n", text.strip())
    return ".PP\n".join(f"{roff(part)}\n" for part in parts)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def roff(text: str) -> str:
    """Return text as roff shows it: nothing in it is a request, and a hyphen is what is typed."""
    line = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    line = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", line)
    return f"\\&{line}" if line[:1] in (".", "'") else line


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
