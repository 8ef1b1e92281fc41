"""Record a run of the demo as a moving picture for the README.

`make recording` runs the demo, and writes `docs/demo.svg`: each line of what it
printed appears when it was printed.  Who prefers no motion sees all lines at once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from html import escape
from pathlib import Path
from typing import Final

TARGET: Final = Path(__file__).parent.parent / "docs" / "demo.svg"
COMMAND: Final = (sys.executable, "-m", "socketkeep", "demo")
SHOWN: Final = "$ make demo"
#: Characters of a line; longer ones go on in the next.
WIDTH: Final = 112
#: Units of the picture, for a character and a line.
ADVANCE, LEADING, MARGIN = 7.8, 18, 16

STYLE: Final = """\
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
text { white-space: pre; fill: #d6deeb }
.asked { fill: #7fdbca }
.last { fill: #addb67 }
@media (prefers-reduced-motion: no-preference) {
  text { opacity: 0; animation: show 1ms linear forwards }
}
@keyframes show { to { opacity: 1 } }
"""


def record() -> list[tuple[float, str]]:
    """Run the demo; return its lines, and how many seconds after the start each was printed."""
    lines: list[tuple[float, str]] = [(0.0, SHOWN)]
    began = time.monotonic()
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True, bufsize=1) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            at = time.monotonic() - began
            lines += [(at, part) for part in folded(line.rstrip("\n"))]
    if demo.returncode != 0:
        sys.exit(f"record_demo: the demo ended with {demo.returncode}; nothing was written")
    return lines


def folded(line: str) -> list[str]:
    """Return a line in parts that fit the width, ended where words end."""
    parts = []
    while len(line) > WIDTH:
        end = line.rfind(" ", 0, WIDTH)
        end = WIDTH if end <= 0 else end
        parts.append(line[:end])
        line = line[end:].lstrip()
    return [*parts, line]


def drawn(lines: list[tuple[float, str]]) -> str:
    """Return the picture of the lines."""
    width, height = 2 * MARGIN + WIDTH * ADVANCE, 2 * MARGIN + len(lines) * LEADING
    last = max(at for at, line in lines if line)
    texts = []
    for row, (at, line) in enumerate(lines):
        if not line:
            continue
        kind = ' class="asked"' if row == 0 else ' class="last"' if at == last else ""
        y = MARGIN + LEADING * (row + 0.75)
        texts.append(
            f'<text{kind} x="{MARGIN}" y="{y:g}" style="animation-delay:{at:.2f}s">'
            f"{escape(line)}</text>"
        )
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"',
            ' role="img" aria-label="What make demo does to a server, and what its clients lost">',
            f"<style>\n{STYLE}</style>",
            '<rect width="100%" height="100%" rx="8" fill="#011627"/>',
            *texts,
            "</svg>\n",
        )
    )


if __name__ == "__main__":
    TARGET.write_text(drawn(record()))
    print(f"wrote {TARGET}")
