"""A worker that forks for each connection has what it needs in memory, and no more.

Each MiB of it makes a connection some 26 µs dearer, and each mapping 0.65, since fork(2) copies the
tables for them: see "Fork" in docs/performance.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import Server, connect, write_source

#: What is asked, in a worker's child and in an interpreter that has imported the roots alone.
_LOOK: Final = """
import sys
def look():
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    return sorted(sys.modules), sorted(paths)
"""
_HANDLER: Final = f"""{_LOOK}
def handle(conn):
    found = look()
    import json
    conn.send(json.dumps(found).encode())
"""
_ROOTS_ALONE: Final = f"""{_LOOK}
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
found = look()
import json
print(json.dumps(found))
"""

#: Modules of others that a worker of the `fork` model imports; what these import is theirs.
ROOTS: Final = (
    *("__future__", "contextvars", "copy", "dataclasses", "fcntl", "gc", "importlib.util"),
    *("inspect", "logging", "mmap", "pwd", "resource", "runpy", "select", "signal"),
    *("socket", "struct", "threading", "traceback", "typing"),
    "json",  # for a log in JSON, which tests read
    *(("setproctitle",) if find_spec("setproctitle") else ()),
)

#: Modules of ours, by their folders.
OURS: Final = {
    "_base": """
        _address _admission _creating _errors _forking _held_signals _importing _log _log_sink
        _log_users _mistakes _msgpack _originals _passing _plain_structs _printable _roles
        _structs _titles _tracebacks
    """,
    "_config": "_chosen _kinds _listener_settings",
    "_names": "_naming _pushing",
    "_native": "_core",
    "_net": "_accept_errors _children _handlers _reporting",
    "_serve": "_recognized asgi asgi._application",
    "_stream": """
        _buffer _closing _committed _connection _core _deadlines _framing _inflow _last_words
        _lease _ledger _lifecycle _log_fields _modes _record _replies _shell _totals _transport
        _waiting
    """,
    "_wire": "_channel _inlets _messages _parcels _rendezvous _scoreboard _shelves _unsealed",
    "_worker": """
        _accepting _answers _casting _crew _entry _environment _fork _fork_hooks
        _front _goodbye _handing _handle_backup _hooked _keeper_link _lines _lingering _mail
        _mould _notices _outcome _process _ready _reattach _roster _runaways _settlement
        _shadowing _signals _sync _target _template
    """,
}


def test_a_fork_worker_has_no_module_that_it_does_not_need(tmp_path: Path) -> None:
    with Server(tmp_path, write_source(tmp_path, _HANDLER), "--model", "fork") as server:
        modules, libraries = _reply(server.address)
    finished = subprocess.run(
        [sys.executable, "-c", _ROOTS_ALONE, *ROOTS, "socketkeep._native"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    of_roots, libraries_of_roots = json.loads(finished.stdout)
    allowed = {*of_roots, "__main__", "handlers"}
    for folder, names in OURS.items():
        allowed |= {f"socketkeep.{folder}", *(f"socketkeep.{folder}.{n}" for n in names.split())}
    assert set(modules) - allowed == set(), "each child has them too: import them where needed"
    assert set(libraries) - set(libraries_of_roots) == set()


@pytest.mark.parametrize(
    ("before", "with_more"),
    [
        ("def handle", "from socketkeep import resumable\n@resumable\ndef handle"),
        ("    conn.send", "    conn.commit(1)\n    conn.send"),
    ],
    ids=["resumable", "commits"],
)
def test_children_find_what_encodes_states(tmp_path: Path, before: str, with_more: str) -> None:
    """Each would import it for itself alone, in more time than its connection takes."""
    source = _HANDLER.replace(before, with_more)
    with Server(tmp_path, write_source(tmp_path, source), "--model", "fork") as server:
        modules, _ = _reply(server.address)
    assert "msgspec" in modules


def test_a_template_imports_nothing_for_what_few_servers_have() -> None:
    script = (
        "import sys, socketkeep._worker._template, socketkeep._worker._fork;"
        "print(*(name for name in ('json', 'ipaddress', 'socketkeep._config._server_options')"
        " if name in sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert finished.stdout.strip() == ""


def _reply(address: str) -> Any:
    with connect(address) as sock:
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return json.loads(b"".join(parts))
