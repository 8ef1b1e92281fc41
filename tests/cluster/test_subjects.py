"""The subjects of names at a broker, and the servers that are of one cluster."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.kv import VALID_KEY_RE

from socketkeep._cluster._subjects import Subjects, name_key, token
from socketkeep._cluster._target import cluster_name, served
from tests.harness.configuration import configured


def read(text: str) -> str:
    """Return the name that a token stands for."""
    data = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())
    return data.decode()


@given(st.text(min_size=1, max_size=128).filter(str.isprintable))
def test_any_name_is_one_token_and_no_other_names(name: str) -> None:
    assert read(token(name)) == name
    assert VALID_KEY_RE.match(name_key(name))
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token(name))


def test_a_usual_name_can_be_read() -> None:
    assert Subjects("gate").name("device-17") == "socketkeep.gate.name.device-17"
    assert Subjects("gate").group("room:1") == "socketkeep.gate.group.room=3A1"


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
