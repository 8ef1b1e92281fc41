"""A traceback in the log: the user's frames, the first and the last of many."""

from __future__ import annotations

import pytest

from socketkeep._base._tracebacks import brief_traceback, users_traceback


def test_of_many_frames_the_first_and_the_last_are_shown() -> None:
    def down(times: int) -> None:
        further(times - 1) if times else int("deep")

    def further(times: int) -> None:  # what calls itself again and again is shown once anyway
        down(times)

    with pytest.raises(ValueError, match="deep") as caught:
        down(9)
    whole, brief = users_traceback(caught.value), brief_traceback(caught.value)
    assert "frames more" not in whole
    assert brief.count("  File ") == 6
    assert f"  ... {whole.count('  File ') - 6} frames more ..." in brief
    assert brief.endswith("with base 10: 'deep'")


def test_a_traceback_that_ends_in_itself() -> None:
    error = ValueError("round")
    other = KeyError("about")
    error.__context__, other.__context__ = other, error
    assert "ValueError: round" in users_traceback(error)
