"""Does the fit find what rises, and nothing else?"""

from __future__ import annotations

import random

import pytest

from tests.soak.trends import BOUNDS, Sample, Trend, slope, trends


def samples(
    values: list[int], measure: str = "descriptors", lives: list[str] | None = None
) -> list[Sample]:
    """Return one a second and event, each third of which is a reload."""
    return [
        Sample(
            *(float(number), "async", "keeper", life, f"{life}.0", number),
            after=("" if not number else "reload" if number % 3 == 0 else "worker"),
            held={measure: value},
        )
        for number, (value, life) in enumerate(
            zip(values, lives or ["7"] * len(values), strict=True)
        )
    ]


def only(found: list[Trend]) -> Trend:
    (trend,) = found
    return trend


def test_slope_of_a_line() -> None:
    steep, uncertain = slope([("", x, 3.0 * x + 5) for x in range(9)])
    assert steep == pytest.approx(3.0)
    assert uncertain == pytest.approx(0.0, abs=1e-9)
    assert slope([]) == (0.0, 0.0)
    assert slope([("", 2.0, 1.0), ("", 2.0, 5.0)]) == (0.0, 0.0)


def test_slope_through_several_lives() -> None:
    """Each begins where it likes; what they have in common is how steep they are."""
    points = [("a", float(x), 2.0 * x + 900) for x in range(5)]
    points += [("b", float(x), 2.0 * x - 70) for x in range(40, 45)]
    steep, uncertain = slope(points)
    assert steep == pytest.approx(2.0)
    assert uncertain == pytest.approx(0.0, abs=1e-9)


def test_what_is_level_does_not_rise() -> None:
    drawn = random.Random(5)
    trend = only(trends(samples([40 + drawn.choice((0, 0, 0, 1)) for _ in range(60)])))
    assert not trend.rises
    assert (trend.least, trend.most, trend.lives) == (40, 41, 1)


def test_one_descriptor_of_each_reload_is_found() -> None:
    """The mean step by kind points at the reload."""
    trend = only(trends(samples([40 + number // 3 for number in range(15)])))
    assert trend.rises
    assert trend.per_event == pytest.approx(1 / 3, abs=0.02)
    assert trend.steps == {"reload": 1.0, "worker": 0.0}


def test_what_begins_anew_with_each_life_is_found() -> None:
    """A keeper that is killed again and again has lost what its predecessors had leaked."""
    values = [40 + number % 5 for number in range(50)]
    trend = only(trends(samples(values, lives=[str(number // 5) for number in range(50)])))
    assert trend.lives == 10
    assert trend.per_event == pytest.approx(1.0)
    assert trend.rises


def test_memory_that_settles_is_no_leak() -> None:
    """A process warms up; a table that keeps 512 KiB of each event goes on."""
    settles = [20_000_000 + min(number, 6) * 100_000 for number in range(60)]
    assert not only(trends(samples(settles, "memory"))).rises
    leaks = [20_000_000 + number * 512 * 1024 for number in range(60)]
    trend = only(trends(samples(leaks, "memory")))
    assert trend.rises
    assert trend.bound == BOUNDS["memory"]


def test_four_samples_show_nothing() -> None:
    assert not only(trends(samples([1, 50, 100, 150]))).rises
