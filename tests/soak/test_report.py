"""The report of a run: what it says of one that went well, and of one that did not."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

from tests.soak.clients import Tally
from tests.soak.report import page, picture
from tests.soak.result import Done, Plan, Result
from tests.soak.test_trends import samples
from tests.soak.trends import trends


def run(*faults: str) -> Result:
    """Return the outcome of a run of 20 minutes, with these faults."""
    of_keeper = samples([40] * 10, "memory")
    for number, sample in enumerate(of_keeper):
        sample.held.update(descriptors=40, registrations=30, memory=20 << 20 | number)
    return Result(
        Plan(1200.0, 8.0, 7, ["async"]),
        {"date": "2026-11-30", "version": "1", "system": "Linux", "processors": "2", "python": "3"},
        seconds=1200.0,
        events=[Done(3.0, "async", "reload", 1.25), Done(9.0, "async", "reload", 0.5)],
        samples=of_keeper,
        trends=trends(of_keeper),
        tallies={
            "async": {"tcp": Tally(3, 4, 5000, 0, 0, 0.5), "unix": Tally(2, 2, 90, repeated=1)}
        },
        pushes={"delivered": 12},
        logs={"warning: worker died": 3},
        processor=240.0,
        faults=list(faults),
    )


def test_one_that_went_well() -> None:
    text = page(run())
    assert "20 minutes on 2026-11-30: 2 events on 1 servers, 5,090 answers to 5 clients" in text
    assert "Nothing was lost" in text
    assert "the clients took 20 % of one processor" in text
    assert "| reload: the code is loaded anew | 2 | 1.2 s |" in text
    assert "| async | unix | 2 | 2 | 90 | 0.0 s | 0 | 1 |  |" in text
    assert "| async | keeper | memory, KiB | 10 in 1 | 20,480 to 20,480 |" in text
    assert "12 delivered" in text


def test_one_that_did_not() -> None:
    text = page(run("async: keeper: descriptors rise by 9"))
    assert "- async: keeper: descriptors rise by 9" in text
    assert "Nothing was lost" not in text


def test_the_picture_is_one() -> None:
    drawn = ET.fromstring(picture(run()))
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 3  # of the keeper; the guard was not looked at
    assert all(len(line.attrib["points"].split()) == 10 for line in lines)


def test_the_figures_can_be_written() -> None:
    written = json.loads(json.dumps(run().as_json()))
    assert written["plan"]["seed"] == 7
    assert written["samples"][9]["held"]["registrations"] == 30
