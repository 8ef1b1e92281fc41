"""Take the picture of the live page during a reload, as the README and the documentation show it.

`make picture` starts a server with 220 clients, opens its page in Chromium, reloads, and writes
`docs/live-view.png` while the connections are on their way.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from tests.admin.browser import Browser
from tests.admin.web import admin_port
from tests.harness import Load, Server

ROOT: Final = Path(__file__).parents[1]
TARGET: Final = ROOT / "docs" / "live-view.png"
CLIENTS: Final = 220
SIZE: Final = (1200, 800)
OPTIONS: Final = (
    *("--name", "chat", "-w", "4", "--admin", "127.0.0.1:0"),
    *("--keep", "crash", "--keep-after", "0"),
)
HANDLER: Final = """
from socketkeep import AsyncConnection, resumable

@resumable
async def handle(conn: AsyncConnection) -> None:
    count = conn.state or 0
    async for line in conn.lines():
        count += 1
        await conn.send(b"%d %s v{version}\\n" % (count, line))
        conn.commit(count)
"""
#: Of the dots, those that are in no seat at the moment.
ON_THEIR_WAY: Final = """[...document.querySelectorAll('.dot:not(.gone)')].filter((dot) => {
  const at = dot.getBoundingClientRect();
  return ![...document.querySelectorAll('.seat')].some((seat) => {
    const box = seat.getBoundingClientRect();
    return at.left >= box.left && at.right <= box.right && at.top >= box.top
      && at.bottom <= box.bottom;
  });
}).length"""
DOTS: Final = "document.querySelectorAll('.dot:not(.gone)').length"


def picture(directory: Path) -> bytes:
    """Return the picture, as PNG."""
    code = directory / "chat.py"
    code.write_text(HANDLER.replace("{version}", "1"))
    with (
        Browser() as browser,
        Server(directory, "chat.py:handle", *OPTIONS) as server,
        Load(server.address, CLIENTS, pause=0.5),
    ):
        browser.resize(*SIZE)
        browser.prefer(color_scheme="dark", reduced_motion="no-preference")
        browser.open(f"http://127.0.0.1:{admin_port(server)}/")
        browser.wait(f"{DOTS} === {CLIENTS} && {ON_THEIR_WAY} === 0")
        code.write_text(HANDLER.replace("{version}", "2"))
        server.reload()
        browser.wait(f"{ON_THEIR_WAY} >= {CLIENTS // 4}")
        return browser.screenshot()


def main() -> None:
    """Take it, and write it."""
    with tempfile.TemporaryDirectory() as directory:
        taken = picture(Path(directory))
    TARGET.write_bytes(taken)
    print(f"{TARGET.relative_to(ROOT)}: {len(taken)} bytes")


if __name__ == "__main__":
    main()
