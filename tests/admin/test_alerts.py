"""The rules for Prometheus and the dashboard for Grafana that `contrib` has.

promtool reads every expression of both, and tries the rules on series; whatever they ask for is a
metric that the server has.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest

from tests.admin.web import exposed

CONTRIB: Final = Path(__file__).parents[2] / "contrib"
RULES: Final = CONTRIB / "prometheus" / "alerts.yml"
DASHBOARD: Final = CONTRIB / "grafana" / "socketkeep.json"
_NAME: Final = re.compile(r"\bsocketkeep_\w+")
#: What Grafana puts in, by what promtool takes in its place.
_VARIABLES: Final = {"$__rate_interval": "5m", "$__range": "1h", "$job": ".*", "$instance": ".*"}


def promtool(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )


def unknown_metrics(text: str) -> set[str]:
    """Return the metrics in a text that no server has."""
    asked = {re.sub("_(bucket|sum|count)$", "", name) for name in _NAME.findall(text)}
    page, _ = exposed()
    return asked - set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))


def panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return made


def expressions() -> Iterator[str]:
    """Yield what the dashboard asks Prometheus for."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]


@pytest.mark.process
def test_rules() -> None:
    """Each can be read, and does as the series of its test say."""
    checked = promtool("check", "rules", RULES.name, directory=RULES.parent)
    assert checked.returncode == 0, checked.stderr
    tried = promtool("test", "rules", "alerts.test.yml", directory=RULES.parent)
    assert tried.returncode == 0, tried.stderr
    assert not unknown_metrics(RULES.read_text().replace("socketkeep:", ""))


@pytest.mark.process
@pytest.mark.parametrize("broken", [False, True])
def test_expressions_of_the_dashboard(tmp_path: Path, broken: bool) -> None:
    found = [*expressions(), *["sum by (x) (y"] * broken]
    for variable, text in _VARIABLES.items():
        found = [expression.replace(variable, text) for expression in found]
    rules = [{"record": f"r:{n}", "expr": each} for n, each in enumerate(found)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    checked = promtool("check", "rules", "rules.json", directory=tmp_path)
    assert (checked.returncode == 0) is not broken, checked.stderr
    assert not any("$" in expression for expression in found)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    assert not unknown_metrics(DASHBOARD.read_text().replace('"uid": "socketkeep"', ""))
    assert unknown_metrics("socketkeep_connections + socketkeep_nothing_of_the_kind") == {
        "socketkeep_nothing_of_the_kind"
    }


def test_panels_of_the_dashboard() -> None:
    """Each has its number and its place; none lies over another, or beyond the 24 columns."""
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    places = [panel["gridPos"] for panel in found]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    for panel in found:
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
