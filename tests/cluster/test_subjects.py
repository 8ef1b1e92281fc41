"""The subjects of names at a broker."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from nats.js.kv import VALID_KEY_RE

from socketkeep._cluster._subjects import Subjects, name_key, token


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
