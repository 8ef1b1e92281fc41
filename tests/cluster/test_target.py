"""The servers that are of one cluster, by what they serve."""

from __future__ import annotations

import pytest

from socketkeep._cluster._target import cluster_name, served
from tests.harness.configuration import configured


@pytest.mark.parametrize(
    ("target", "same", "cluster"),
    [
        ("chat.py:handle", "chat:handle", "chat"),
        ("/srv/v2/chat.py:handle", "chat:handle", "chat"),
        ("shop.chat:service", "shop.chat:service", "chat"),
        ("odd name.py:x", "odd name:x", "odd_name"),
    ],
)
def test_what_is_served_wherever_it_is(target: str, same: str, cluster: str) -> None:
    assert served(target) == same
    assert cluster_name(configured(target=target)) == cluster
    assert cluster_name(configured(target=target, cluster_name="other")) == "other"
