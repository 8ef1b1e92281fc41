"""What is sent is what arrives, also between two versions of Socketkeep."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep._wire._messages import AnyMessage, Message, Unreadable, decode, encode

TYPES: tuple[type[Message], ...] = get_args(AnyMessage)
_OF_TYPE: dict[object, st.SearchStrategy[object]] = {
    int: st.integers(0, 2**63 - 1),
    str: st.text(),
    bytes: st.binary(),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(hint: Any) -> st.SearchStrategy[object]:
    if hint in _OF_TYPE:
        return _OF_TYPE[hint]
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return st.sampled_from(parts)
    if get_origin(hint) is list:
        return st.lists(values(parts[0])).map(lambda items: items)
    if get_origin(hint) is tuple:
        return st.tuples(*(values(part) for part in parts))
    return st.one_of([values(part) for part in parts])


def messages_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    hints = get_type_hints(kind)
    fields = {name: values(hints[name]) for name in kind.__struct_fields__}
    return st.builds(kind, **fields)


def of_a_newer_version(kind: type[Message]) -> type[Message]:
    """Return the type as a later version may have it: one field more, with a default."""
    hints = get_type_hints(kind)
    fields = [(name, hints[name]) for name in kind.__struct_fields__]
    newer = msgspec.defstruct(
        kind.__name__,
        [*fields, ("appended", int, 7)],
        bases=(Message,),
        frozen=True,
        tag=kind.__struct_config__.tag,
    )
    assert issubclass(newer, Message)
    return newer


def test_every_message_can_be_decoded() -> None:
    assert set(Message.__subclasses__()) >= set(TYPES)
    missing = {
        kind.__name__
        for kind in Message.__subclasses__()
        if kind.__module__ == Message.__module__ and kind not in TYPES
    }
    assert not missing, "not in AnyMessage"


@pytest.mark.parametrize("kind", TYPES)
def test_the_tag_is_the_name(kind: type[Message]) -> None:
    assert kind.__struct_config__.tag == kind.__name__


@given(st.one_of([messages_of(kind) for kind in TYPES]))
@settings(max_examples=200)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message
    assert decode(memoryview(encode(message))) == message


@pytest.mark.parametrize("kind", TYPES)
def test_an_older_reader_ignores_what_was_appended(kind: type[Message]) -> None:
    newer = of_a_newer_version(kind)

    @given(messages_of(kind))
    @settings(max_examples=5)
    def check(message: Message) -> None:
        assert decode(encode(newer(*msgspec.structs.astuple(message), 99))) == message

    check()


@pytest.mark.parametrize("kind", TYPES)
def test_a_newer_reader_takes_the_default(kind: type[Message]) -> None:
    newer = of_a_newer_version(kind)

    @given(messages_of(kind))
    @settings(max_examples=5)
    def check(message: Message) -> None:
        seen = msgspec.msgpack.decode(encode(message), type=newer)
        assert msgspec.structs.astuple(seen) == (*msgspec.structs.astuple(message), 7)

    check()


@pytest.mark.parametrize("data", [b"", b"\x91", b"\x91\xa4Nope", b"\x92\xa5Seats\xa1x"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)
