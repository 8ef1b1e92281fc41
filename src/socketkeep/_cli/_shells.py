"""The scripts by which bash, zsh and fish ask for completions, and the form of the answers.

Click's own pass the words as the shell has them, and bash parts them at colons too, which an
address, a TARGET and many a name have.  Here each shell passes the line, up to where its user is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    split_arg_string,
)

if TYPE_CHECKING:
    from click import Command

_LINE: Final = "COMP_LINE"

_BASH: Final = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            file) compopt -o default ;;
            plain)
                [[ $value == */ ]] && compopt -o nospace
                COMPREPLY+=("$(printf %%q "$value")") ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH: Final = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local line type value about
    local -a plain open described
    for line in "${(@f)$(COMP_LINE="${(j: :)words[1,CURRENT-1]} $words[CURRENT]" \\
            %(complete_var)s=zsh_complete $words[1] 2>/dev/null)}"; do
        type=${line%%%%,*}
        value=${${line#*,}%%%%$'\\t'*}
        about=${line#*$'\\t'}
        case $type in
            file) _path_files -f ;;
            plain)
                if [[ $value == */ ]]; then open+=("$value")
                elif [[ $about != "$line" ]]; then described+=("${value//:/\\\\:}:$about")
                else plain+=("$value")
                fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#open )) && compadd -U -S '' -V unsorted -a open
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH: Final = """\
function %(complete_func)s
    for line in (env COMP_LINE=(commandline -cp | string collect) \\
            %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
        set -l item (string split -m 1 , -- $line)
        switch $item[1]
            case file
                __fish_complete_path $item[2]
            case plain
                echo $item[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _ByLine(ShellComplete):
    """Reads the line, and completes its last word whole, `--name=ch` as `--name=chat`."""

    def get_completion_args(self) -> tuple[list[str], str]:
        # The mark is the end of the last word, also of one that is empty, quoted or escaped.
        words = split_arg_string(f"{os.environ[_LINE]}|")
        return words[1:-1], words[-1].removesuffix("|")

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if not (equals and option.startswith("-")):
            return found
        lead = f"{option}{equals}"
        return [
            each
            if each.type == "file"
            else CompletionItem(f"{lead}{each.value}", each.type, each.help)
            for each in found
        ]

    def format_completion(self, item: CompletionItem[str]) -> str:
        about = " ".join((item.help or "").split())
        return f"{item.type},{item.value}\t{about}" if about else f"{item.type},{item.value}"


class _Bash(_ByLine):
    name = "bash"
    source_template = _BASH

    def format_completion(self, item: CompletionItem[str]) -> str:
        # Only what is behind the last break in the word is replaced.
        typed = self.get_completion_args()[1]
        breaks = os.environ.get("COMP_WORDBREAKS", "")
        behind = max((typed.rfind(each) for each in breaks), default=-1) + 1
        value = item.value if item.type == "file" else item.value[behind:]
        return f"{item.type},{value}"


class _Zsh(_ByLine):
    name = "zsh"
    source_template = _ZSH


class _Fish(_ByLine):
    name = "fish"
    source_template = _FISH


SHELLS: Final = (_Bash, _Zsh, _Fish)


def use_our_scripts() -> None:
    """Have click answer these shells by what is here."""
    for each in SHELLS:
        add_completion_class(each)


def script(command: Command, shell: type[ShellComplete], program: str, variable: str) -> str:
    """Return the script that a shell reads once."""
    return shell(command, {}, program, variable).source()
