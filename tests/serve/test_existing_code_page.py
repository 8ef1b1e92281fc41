"""The programs of docs/how-to/existing-code.md, served as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect, read_reply
from tests.serve.moved import reload_whole

_PAGE: Final = Path(__file__).parents[2] / "docs/how-to/existing-code.md"
_BLOCK: Final = re.compile(
    r"^```python\n(\"\"\"(?:Number|The same).*?)^```$", re.MULTILINE | re.DOTALL
)
_FLAG: Final = re.compile(r"^\$ socketkeep serve (--\w+) counter\.py:(\w+)", re.MULTILINE)


@pytest.mark.parametrize("part", ["asyncio streams", "asyncio protocols", "socketserver"])
def test_numbering_goes_on_where_it_says_so(part: str, tmp_path: Path) -> None:
    """First the program as it always was, then, without an end of the connection, the kept one."""
    text = _PAGE.read_text().partition(f"\n## {part}")[2].partition("\n## ")[0]
    before, kept = _BLOCK.findall(text)
    ((flag, name),) = _FLAG.findall(text)
    (tmp_path / "counter.py").write_text(before)
    with Server(tmp_path, f"counter.py:{name}", flag) as server:
        with connect(server.address) as peer:
            peer.sendall(b"one\ntwo\n")
            assert (read_reply(peer), read_reply(peer)) == (b"1 one", b"2 two")
        (tmp_path / "counter.py").write_text(kept)
        reload_whole(server, 2)
        with connect(server.address) as peer:
            peer.sendall(b"one\n")
            assert read_reply(peer) == b"1 one"
            reload_whole(server, 3)
            peer.sendall(b"two\n")
            assert read_reply(peer) == b"2 two"
