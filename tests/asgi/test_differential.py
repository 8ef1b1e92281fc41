"""A sample of the mutated requests of `tests/conformance/test_asgi.py`, compared with h11."""

from __future__ import annotations

import pytest

from tests.asgi.differential import disagreement, ours, search, theirs


@pytest.mark.parametrize("seed", [1, 2])
def test_h11_sees_what_we_see(seed: int) -> None:
    ends, found = search(seed, 1500)
    assert found == []
    # A search that refuses all, or nothing, finds nothing.
    assert {"bad 400", "bad 501", "closed", "wants more"} <= ends.keys()


def test_the_comparison_sees_a_smuggled_request() -> None:
    import random

    stream = b"GET / HTTP/1.1\nHost: x\n\n"
    assert theirs(stream).requests  # h11 takes it
    assert not ours(stream, []).requests  # and we refuse it, which is no disagreement
    assert disagreement(stream, random.Random(1)) == ""
