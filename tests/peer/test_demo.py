"""`socketkeep demo`, as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from socketkeep._demo._screen import table
from tests.harness.peers import Tally
from tests.harness.processes import session_processes

_COMMAND = [sys.executable, "-m", "socketkeep", "demo"]
_WAITED = r"waited \d+ ms \(p50\), \d+ ms \(max\)"


@contextmanager
def _started() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        _COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def _left(output: str) -> dict[int, str]:
    """Return the processes that are left of the server that the output tells of."""
    pid = re.search(r" server .* pid (\d+)", output)
    assert pid is not None, output
    return session_processes(int(pid[1]), timeout=5.0)


@pytest.mark.timeout(120)
def test_nothing_is_lost() -> None:
    """It tells what happens, ends with a table, and leaves nothing behind."""
    with _started() as demo:
        output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    for line in (
        r"connections +250",
        r"by version 1 +[1-9][\d,]*",
        r"by version 2 +[1-9][\d,]*",
        r"by version 3 +[1-9][\d,]*",
        *(r"FIN +0", r"RST +0", r"lost +0", r"repeated +0"),
        rf"reload +to version 2, all clients: {_WAITED}",
        rf"kill +a worker killed by SIGKILL, [1-9]\d* clients: {_WAITED}",
        rf"stop +a worker stopped by SIGSTOP, .*, [1-9]\d* clients: {_WAITED}",
        rf"upgrade +to version 3, all clients: {_WAITED}",
        rf"scale +to 4 workers, all clients: {_WAITED}",
        rf"park +50 idle clients, parked and woken [1-9]\d* times: {_WAITED}",
        r"Nothing was lost",
    ):
        assert re.search(line, output), f"{line} is not in:\n{output}"
    assert not _left(output)


def test_interrupted() -> None:
    """Ended halfway, it ends its server too, and does not claim success."""
    output = ""
    with _started() as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            output += line
            if " connected" in line:
                break
        demo.send_signal(signal.SIGTERM)
        output += demo.communicate(timeout=20)[0]
    assert demo.returncode not in (0, None), output
    assert "Traceback" not in output
    assert not _left(output)


def test_table_shows_each_count() -> None:
    """What was lost, repeated, reset or ended stands in the table under its name."""
    tally = Tally(connections=1200, missing=1, unanswered=2, repeated=4, out_of_order=5)
    tally.fin, tally.reset = 6, 7
    tally.again = 8
    tally.versions["version 9"] = 8000
    rows = {
        name.strip(): value
        for name, value in re.findall(r"^(.*?) +(\S+)$", table(tally), re.MULTILINE)
    }
    assert rows["connections"] == "1,200"
    assert rows["lost"] == "3"
    assert rows["repeated"] == "9"
    assert rows["repeated, marked so"] == "8"
    assert rows["FIN"] == "6"
    assert rows["RST"] == "7"
    assert rows["by version 9"] == "8,000"
    assert not tally.clean
