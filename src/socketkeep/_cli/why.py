"""`socketkeep why`: what explains how a socket behaves, in sentences."""

from __future__ import annotations

from collections import Counter

import click

from socketkeep._cli._completion import inspected
from socketkeep._cli._say import finding, say_blocks
from socketkeep._cli._watching import json_option, print_json
from socketkeep._cli.holders import failures
from socketkeep._inspect._diagnosis import Diagnosis
from socketkeep._inspect._why import why as explain

#: So many of a kind are told at length; of a busy port there may be thousands.
_EXAMPLES = 3


@click.command()
@click.argument("what", shell_complete=inspected)
@json_option
def why(what: str, as_json: bool) -> int:
    """Explain why WHAT does not close, refuses, hangs or drops: what is so, what shows it, what to
    do.

    WHAT is an address (127.0.0.1:7000, :7000, [::1]:7000, unix:/path, unix:@name), a pid, or
    pid:fd, a descriptor of a process. Any process's, not only a Socketkeep server's.
    """
    with failures():
        explanation = explain(what)
    if as_json:
        print_json(explanation)
        return 0
    told: Counter[str] = Counter()
    blocks = []
    for diagnosis in explanation.diagnoses:
        told[diagnosis.code] += 1
        if told[diagnosis.code] <= _EXAMPLES:
            blocks.append(_block(diagnosis))
    for code, count in told.items():
        if count > _EXAMPLES:
            blocks.append(f"and {count - _EXAMPLES} more of the kind {code} (--json has them all)")
    if explanation.incomplete:
        blocks.append(f"not seen: {explanation.incomplete}")
    say_blocks(blocks)
    return 0


def _block(diagnosis: Diagnosis) -> str:
    sentence = f"{diagnosis.subject}: {diagnosis.sentence}"
    return finding(sentence, diagnosis.evidence, diagnosis.remedy)
