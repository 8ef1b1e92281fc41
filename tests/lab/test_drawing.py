"""The drawings show what was recorded, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree as ET

import msgspec
import pytest
from docs._ext.declared import PAGES
from docs._ext.lab import recorded

from tests.harness.command import main
from tests.lab.shown import found

SVG = "{http://www.w3.org/2000/svg}"


def step(
    process: str,
    call: str,
    result: str,
    handles: dict[str, int],
    state: str,
    *packets: dict[str, str],
) -> dict[str, Any]:
    """A step of a connection that `handles` are of, and whose state is the one of its peer."""
    return {
        "process": process,
        "call": call,
        "result": result,
        "message": "Resource temporarily unavailable" if result == "EAGAIN" else "",
        "seconds": 0.0,
        "waits": 0,
        "at": 0.0,
        "handles": {"conn": handles, "client": {"peer": 1}},
        "states": {"client": state},
        "packets": packets,
    }


FIN: Final = {"flag": "FIN", "source": "conn", "target": "client"}
#: As `lab --json` has it.
_FOUND: Final = {
    "name": "an-end",
    "claim": "a <claim>",
    "notes": "Somebody said so.",
    "socketkeep": "conn.close()",
    "verdict": "does not hold",
    "reason": "recv: expected 1, observed 2",
    "processes": ("server", "child", "peer"),
    "steps": (
        step("peer", "connect(client)", "None", {}, "ESTABLISHED"),
        step("server", "recv(conn)", "EAGAIN", {"server": 1}, "ESTABLISHED"),
        step("server", "fork()", "child", {"server": 1, "child": 1}, "ESTABLISHED"),
        step("server", "close(conn)", "None", {"child": 1}, "ESTABLISHED"),
        step(
            "child",
            "exit()",
            "",
            {},
            "CLOSE_WAIT",
            {"flag": "FIN", "source": "conn", "target": "client"},
        ),
    ),
    "checks": (
        {"what": "recv", "expected": "1", "observed": "2"},
        {"what": "send", "expected": "3", "observed": "3"},
        {"what": "filled", "expected": "", "observed": "4"},
    ),
}
FOUND: Final = msgspec.convert(_FOUND, type(recorded().findings[0]))

TIMELINE = """\
  server                 child       peer               handles; state
                                     ┃ connect(client)  conn: none
                                     ┃                  client: peer 1; ESTABLISHED
  ┃ recv(conn) → EAGAIN              ┃                  conn: server 1
  ┃ fork() → child       ┃           ┃                  conn: server 1, child 1
  ┊ close(conn)          ┃           ┃                  conn: child 1
  ┊                        exit()    ┃                  conn: none
  ┊                                  ┃                  client: peer 1; CLOSE_WAIT
  ┊                       ── FIN ───▶┃
"""


class Shown(NamedTuple):
    """A finding as it is shown: in the terminal, and as a picture."""

    text: str
    picture: str


@pytest.fixture
def show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[Any], Shown]:
    def shown(finding: Any) -> Shown:
        found(monkeypatch, finding)
        assert main(["lab", "last-close", "--svg", str(tmp_path)]) == 1
        picture = (tmp_path / f"{finding.name}.svg").read_text()
        return Shown(capsys.readouterr().out, picture)

    return shown


@pytest.fixture
def shown(show: Callable[[Any], Shown]) -> Shown:
    return show(FOUND)


def test_the_timeline_in_a_terminal(shown: Shown) -> None:
    assert TIMELINE in shown.text


def test_every_observation_and_the_verdict_are_told(shown: Shown) -> None:
    lines = [line.strip() for line in shown.text.splitlines()]
    assert lines[0] == "an-end: a <claim>"
    assert "“Somebody said so.”" in lines
    assert "In Socketkeep: conn.close()" in lines
    assert lines[-5:-2] == ["✗  recv: 2, where 1 was expected", "✓  send: 3", "·  filled: 4"]
    assert lines[-1] == "does not hold: recv: expected 1, observed 2"


def test_the_picture_says_the_same(shown: Shown) -> None:
    tree = ET.fromstring(shown.picture)
    texts = ["".join(element.itertext()) for element in tree.iter(f"{SVG}text")]
    assert texts == [
        "server",
        "child",
        "peer",
        "handles; state",
        *("connect(client)", "conn: none", "client: peer 1; ESTABLISHED"),
        *("recv(conn) → EAGAIN", "conn: server 1"),
        *("fork() → child", "conn: server 1, child 1"),
        *("close(conn)", "conn: child 1"),
        *("exit()", "conn: none", "client: peer 1; CLOSE_WAIT", "FIN"),
    ]


def test_the_picture_can_be_heard(shown: Shown) -> None:
    tree = ET.fromstring(shown.picture)
    assert tree.get("role") == "img"
    title, description = tree.find(f"{SVG}title"), tree.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert tree.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "a <claim>: does not hold"
    assert description.text == (
        "peer: connect(client). server: recv(conn) returns EAGAIN. server: fork() returns child. "
        "server: close(conn). child: exit(). FIN arrives at peer."
    )


def test_the_picture_has_its_own_colours_only_as_a_file(shown: Shown) -> None:
    """In a page it has those of the text around it, in light and dark."""
    assert "prefers-color-scheme:dark" in shown.picture
    page = PAGES["lab"]()
    assert page.count("<svg ") == len(recorded().findings)
    assert "<style>" not in page


def test_a_handle_of_the_lane_is_drawn_as_a_bar(shown: Shown) -> None:
    """Thick while the process has one: the server's until its close, the child's until its exit."""
    paths = [element.attrib for element in ET.fromstring(shown.picture).iter(f"{SVG}path")]
    lanes = [path["d"].partition(",")[0] for path in paths if "stroke-width" in path]
    server, child, peer = (
        f"M{element.get('cx')}"
        for number, element in sorted(
            {
                float(circle.get("cx", "")): circle
                for circle in ET.fromstring(shown.picture).iter(f"{SVG}circle")
            }.items()
        )
    )
    assert (lanes.count(server), lanes.count(child), lanes.count(peer)) == (2, 2, 5)


def test_a_picture_of_nothing_can_be_drawn(show: Callable[[Any], Shown]) -> None:
    shown = show(msgspec.structs.replace(FOUND, processes=(), steps=(), checks=()))
    ET.fromstring(shown.picture)
    assert "does not hold" in shown.text
