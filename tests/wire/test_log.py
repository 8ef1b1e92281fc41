"""A line of the log is bounded, and so is what is logged of one kind, and of all kinds."""

from __future__ import annotations

import pytest

from socketkeep._base import _log


def test_a_field_that_goes_on_and_on(caplog: pytest.LogCaptureFixture) -> None:
    """Its beginning and its end are logged."""
    _log.error("failed", traceback="a" * 1_000_000 + "the end")
    (record,) = caplog.records
    text = record.__dict__["fields"]["traceback"]
    assert len(text) < 70_000
    assert text.endswith("the end")
    assert "characters left out" in text


def test_kinds_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever makes up kinds of errors gets no line for each, and no table that grows."""
    throttle = _log.Throttle()
    for number in range(2000):
        throttle.error("failed", kind=f"made up {number}")
    assert len(throttle._last) <= 257
    assert len(caplog.records) <= 257


def test_so_many_of_a_kind_are_let_through(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the next time says how many were held back."""
    caplog.set_level("INFO", "socketkeep")
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    throttle = _log.Throttle(most=3)
    for number in range(8):
        throttle.info("ended", kind="one", number=number)
    throttle.info("ended", kind="another", number=8)
    now += 10.0
    for number in (9, 10):
        throttle.info("ended", kind="one", number=number)
    told = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert [each["number"] for each in told] == [0, 1, 2, 8, 9, 10]
    assert [each.get("repeated") for each in told] == [None, None, None, None, 5, None]
