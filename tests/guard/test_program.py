"""The guard alone, with a keeper that is a few lines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from socketkeep._guard import _program
from socketkeep._guard._program import NAMES, Plan

KEEPER: Final = """
import array, json, os, signal, socket, sys

NUMBER = 4000
address = os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1)
guard, soft, starts, cause = os.environ["SOCKETKEEP_GUARDED"].split(" ", 3)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

def tell(*words, fds=()):
    rights = array.array("i", fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
    sock.sendmsg(["\\n".join(words).encode()], ancillary, 0, address)

def memory(text):
    fd = os.memfd_create("stored")
    os.write(fd, text.encode())
    return fd

if starts == "0":
    for number in range(NUMBER):
        name = f"socketkeep.connection.{number:08x}-{number}-{number}.1"
        fd = memory(name)
        tell("FDSTORE=1", "FDPOLL=0", f"FDNAME={name}", fds=[fd])
        os.close(fd)
        if number % 2:
            tell("FDSTOREREMOVE=1", f"FDNAME={name}")
    # Not the keeper's own word.
    if os.fork() == 0:
        tell("FDSTORE=1", "FDNAME=foreign", fds=[0])
        os._exit(0)
    os.wait()
    tell("READY=1")
    os.kill(os.getpid(), signal.SIGKILL)

count = int(os.environ["LISTEN_FDS"])
given = os.environ["LISTEN_FDNAMES"].split(":")
names = os.pread(3 + len(given) - 1, 1 << 20, 0).decode().split("\\0")
first = 3 + len(given)
right = sum(
    os.pread(first + index, 200, 0).decode() == name for index, name in enumerate(names)
)
with open(sys.argv[1], "w") as file:
    json.dump({
        "count": count, "given": given, "names": len(names), "right": right,
        "starts": starts, "cause": cause, "soft": soft, "foreign": "foreign" in names,
        "pid": os.environ["LISTEN_PID"] == str(os.getpid()), "cwd": os.getcwd(),
        "passed": os.pread(3, 100, 0).decode(),
    }, file)
sys.exit(3)
"""


def test_it_gives_back_what_it_was_given(tmp_path: Path) -> None:
    """More than the variable with the names has room for; from the keeper alone, and no more."""
    script, told = tmp_path / "keeper.py", tmp_path / "told.json"
    script.write_text(KEEPER)
    command = [sys.executable, "-I", "-S", str(script), str(told)]
    given = os.memfd_create("given")
    os.write(given, b"passed by somebody")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        plan = Plan()
        plan.socket, plan.most, plan.soft, plan.directory = own.fileno(), 3000, 99, str(tmp_path)
        plan.starts = -1  # it starts the first keeper itself
        plan.passed = {given: "http"}
        fd = plan.write()
        done = subprocess.run(
            [sys.executable, "-I", "-S", _program.__file__, str(fd), *command],
            pass_fds=[fd, own.fileno(), given],
            capture_output=True,
            timeout=60,
            check=False,
        )
    os.close(fd)
    os.close(given)
    assert (done.returncode, done.stderr) == (3, b"")
    result = json.loads(told.read_text())
    assert result == {
        "count": 2002,
        "given": ["http", NAMES],
        "names": 2000,
        "right": 2000,
        "starts": "1",
        "cause": "killed by signal 9",
        "soft": "99",
        "foreign": False,
        "pid": True,
        "cwd": str(tmp_path),
        "passed": "passed by somebody",
    }
