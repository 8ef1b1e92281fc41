"""Make the sync text of the verbs that are written once, for async code.

`python scripts/sync_verbs.py` writes it into `_connection.py`, between the marks there, of what
stands between the same marks in `_aio.py`.  With --check it writes nothing, and exits with 1 when
the text is not what it would write.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

STREAM = Path(__file__).parents[1] / "src" / "socketkeep" / "_stream"
SOURCE = STREAM / "_aio.py"
TARGET = STREAM / "_connection.py"
MARKS = ("verbs", "iteration")

#: In this order; each is a pattern of `re`.
RULES = (
    (r"\basync def\b", "def"),
    (r"\bawait ", ""),
    (r"Iterate, with ``async for``, over", "Iterate over"),
    (
        r"After an error or a cancellation\n( *)the same",
        r"After `WouldBlock` or `TimedOut`\n\1the same",
    ),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\b_AsyncIteration\b", "_Iteration"),
    (r"\bAsyncConnection\b", "Connection"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\b__aiter__\b", "__iter__"),
    (r"\b__anext__\b", "__next__"),
    (r"\bReceiving\b", "bytes"),
)


def between(text: str, mark: str, path: Path) -> tuple[int, int]:
    """Return where what is marked begins and ends."""
    found = re.search(
        rf"^ *# {mark}: begin\n(.*?)^ *# {mark}: end$", text, re.DOTALL | re.MULTILINE
    )
    if found is None:
        sys.exit(f"{path}: the lines '# {mark}: begin' and '# {mark}: end' are not there")
    return found.span(1)


def made() -> str:
    """Return what the target is to be."""
    source, target = SOURCE.read_text(), TARGET.read_text()
    for mark in MARKS:
        begin, end = between(source, mark, SOURCE)
        text = source[begin:end]
        for pattern, replacement in RULES:
            text = re.sub(pattern, replacement, text)
        begin, end = between(target, mark, TARGET)
        target = target[:begin] + text + target[end:]
    return subprocess.run(
        [Path(sys.executable).with_name("ruff"), "format", "--stdin-filename", TARGET, "-"],
        input=target,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def main() -> int:
    """Write the text, or check it."""
    text = made()
    if text == TARGET.read_text():
        return 0
    if "--check" in sys.argv:
        print(f"{TARGET} is stale: run python scripts/sync_verbs.py", file=sys.stderr)
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
