"""`socketkeep doctor`, as a user meets it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Cli

DOCTOR = (sys.executable, "-m", "socketkeep", "doctor")


def limited(descriptors: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in a shell that has lowered the limit of descriptors."""
    shell = f'ulimit -n {descriptors} && exec "$@"'
    command = ("sh", "-c", shell, "sh", *DOCTOR, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_this_machine_will_do(cli: Cli) -> None:
    """Where these tests run, a server does; the exit code says so to scripts."""
    finished = cli("doctor")
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert "good  kernel: What the server needs works here: pidfd_open" in finished.stdout
    examination = json.loads(cli("doctor", "--json").stdout)
    findings = examination["findings"]
    assert list(examination) == ["connections", "good", "findings"], "as is promised"
    assert all(list(each) == ["name", "level", "sentence", "remedy"] for each in findings)
    assert examination["good"]
    assert len({each["name"] for each in findings}) == len(findings)


def test_a_limit_that_is_too_low() -> None:
    done = limited(300, "--connections", "300")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(  # the worst comes first
        "BAD   descriptors: A process may have 300 descriptors, and 300 connections need 364 in the"
        " keeper.\n  => ulimit -Hn 364, or LimitNOFILE= of the unit\n"
    )


def test_a_limit_that_will_do_for_so_many() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard > 364 or hard == resource.RLIM_INFINITY
    assert limited(364, "--connections", "300").returncode == 0


def test_where_a_server_has_its_control_socket(cli: Cli, runtime: Path) -> None:
    """The directory is not made for that."""
    assert f"A server has its socket for commands in {runtime}." in cli("doctor").stdout
    assert not runtime.exists()
    runtime.write_text("")
    finished = cli("doctor")
    assert finished.exit_code == 1
    assert finished.stdout.startswith(
        f"BAD   control socket: A server cannot have its socket for commands in {runtime}:"
        f" {runtime} is a file.\n  => give --control PATH"
    )


def test_a_number_that_is_none(cli: Cli) -> None:
    finished = cli("doctor", "--connections", "many")
    assert finished.exit_code == 2
    assert finished.stderr.startswith(
        "socketkeep: error: --connections: expected a whole number from 0 to 10000000"
    )
