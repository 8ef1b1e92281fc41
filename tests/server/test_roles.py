"""The table of roles, which the documentation's diagram is made from, is true of a real server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

from docs._ext.declared import PAGES

from socketkeep._base._roles import PARTS, Role
from socketkeep.inspect import holders
from tests._processes import Process, all_processes, descendants
from tests.edge.support import issue
from tests.guard.support import INSTALLED
from tests.harness import Server
from tests.inspect.support import wait_for

HANDLER = """
import os
from pathlib import Path

with Path(__file__).with_name("imported_by").open("a") as file:
    file.write(f"{os.getpid()}\\n")

def handle(conn):
    conn.send(str(os.getpid()).encode())
"""

NUMBERS = Counter(Role) + Counter([Role.WORKER])


def role_of(pid: int) -> Role | None:
    """Return what the process's title says, None when it says nothing, or has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    title = command.rstrip(b"\0").decode()
    if title.split("\0")[: len(INSTALLED)] == INSTALLED:
        return Role.GUARD  # which loads nothing that would give it a title
    word = title.removeprefix("socketkeep: ").split()[0] if title.startswith("socketkeep: ") else ""
    return next((role for role in Role if role.value == word), None)


def processes_of(server: int) -> list[Process]:
    living = [each for each in all_processes() if each.alive]
    below = descendants(server, living)
    return [each for each in living if each.pid == server or each in below]


def numbers(server: int) -> Counter[Role | None]:
    return Counter(role_of(each.pid) for each in processes_of(server))


def test_who_is_whose_child_and_what_each_has(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLER)
    options = ("--admin", "127.0.0.1:0", "-w", "2", "--cluster", "nats://127.0.0.1:1")
    bind = [f"127.0.0.1:0,{issue(tmp_path).text}"]
    with Server(tmp_path, "app.py:handle", *options, "--guard", "on", bind=bind) as server:
        # The admin process takes its title when it has started, which the server does not wait for.
        wait_for(lambda: numbers(server.pid) == NUMBERS, f"a process in each role, {NUMBERS}", 30)
        tree = processes_of(server.pid)
        roles = {each.pid: role_of(each.pid) for each in tree}
        pids = {role: [pid for pid in roles if roles[pid] is role] for role in Role}
        assert pids[Role.GUARD] == [server.pid]
        parents = {(roles[each.pid], roles.get(each.parent)) for each in tree}
        assert {(role, part.parent) for role, part in PARTS.items()} <= parents

        address = server.address
        (listener,) = (each for each in holders(address) if each.state == "LISTEN")
        holding = {roles.get(holder.pid) for holder in listener.holders}
        assert holding == {role for role, part in PARTS.items() if part.listeners}

        # Imported once, by the template; what a worker has, it has by the fork.
        imported = [int(line) for line in (tmp_path / "imported_by").read_text().split()]
        assert imported == pids[Role.TEMPLATE]
        assert {role for role, part in PARTS.items() if part.made_by is Role.TEMPLATE} == {
            Role.WORKER
        }


def test_the_diagram_has_every_role() -> None:
    texts = [
        "".join(element.itertext()) for element in ET.fromstring(PAGES["processes"]()).iter("text")
    ]
    for role, part in PARTS.items():
        assert role.value in texts
        assert part.number in texts
        assert set(part.does) <= set(texts)
    made_by_others = [p for p in PARTS.values() if p.made_by is not p.parent]
    assert texts.count("forks") == len(made_by_others) == 1
