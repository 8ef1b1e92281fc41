"""The log of requests, in the formats that log readers know."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.asgi.support import body, connected, sends, site_of, start

END = b"Connection: close\r\nHost: x\r\n\r\n"
_COMMON = r'10\.0\.0\.7 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /a\?b HTTP/1\.1" 200 3'


@pytest.mark.parametrize(
    ("form", "expected"),
    [("common", _COMMON), ("combined", _COMMON + r' "http://y/" "agent \\"\\\\x1b\[31m\\""')],
)
def test_a_line_for_each_request(form: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.log"

    async def run() -> None:
        site = site_of(
            sends(start(), body(b"abc")),
            request_log=form,
            request_log_file=str(path),
            lifespan="off",
        )
        async with site.lifespan(), connected(site, peer="10.0.0.7:4242") as client:
            headers = b'Referer: http://y/\r\nUser-Agent: agent "\\x1b[31m"\r\n'
            request = b"GET /a?b HTTP/1.1\r\n" + headers
            await client.send(request + b"Host: x\r\n\r\n" + request + END)
            await client.read_to_end()

    asyncio.run(run())
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.fullmatch(expected, line), line


def test_what_is_answered_for_a_failed_application_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "requests.log"

    async def run() -> None:
        options = {"request_log": "common", "request_log_file": str(path), "lifespan": "off"}
        site = site_of(sends(body()), **options)
        async with site.lifespan(), connected(site) as client:
            await client.send(b"GET / HTTP/1.1\r\n" + END)
            await client.read_to_end()

    asyncio.run(run())
    assert ' "GET / HTTP/1.1" 500 -' in path.read_text()
