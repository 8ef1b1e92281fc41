"""What is sent is what arrives, also between two versions of Socketkeep."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep._wire._messages import (
    ABSENT,
    TAGS,
    AnyMessage,
    ConnectionDetached,
    Descriptor,
    Descriptors,
    Message,
    Unreadable,
    decode,
    descriptors_of,
    encode,
)

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
    if hint == Descriptor:
        return st.integers(0, 1000)
    if hint == Descriptors:
        return st.lists(st.integers(0, 1000), max_size=5)
    if hint in _OF_TYPE:
        return _OF_TYPE[hint]
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return st.sampled_from(parts)
    if get_origin(hint) is list:
        return st.lists(values(parts[0])).map(lambda items: items)
    if get_origin(hint) is dict:
        return st.dictionaries(values(parts[0]), values(parts[1])).map(lambda items: items)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        fields = get_type_hints(hint, include_extras=True)
        return st.builds(hint, **{name: values(fields[name]) for name in fields})
    if get_origin(hint) is tuple:
        return st.tuples(*(values(part) for part in parts))
    return st.one_of([values(part) for part in parts])


def messages_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    hints = get_type_hints(kind, include_extras=True)
    fields = {name: values(hints[name]) for name in kind.__struct_fields__}
    return st.builds(kind, **fields)


def of_a_newer_version(kind: type[Message]) -> type[Message]:
    """Return the type as a later version may encode it: one field more, with a default."""
    hints = get_type_hints(kind, include_extras=True)
    fields = [(name, hints[name]) for name in kind.__struct_fields__ if not beside(hints[name])]
    newer = msgspec.defstruct(
        kind.__name__,
        [*fields, ("appended", int, 7)],
        bases=(Message,),
        frozen=True,
        tag=kind.__struct_config__.tag,
    )
    assert issubclass(newer, Message)
    return newer


def beside(hint: object) -> bool:
    return hint in (Descriptor, Descriptors)


def encoded_of(message: Message) -> list[object]:
    """Return the values of the fields that are encoded."""
    hints = get_type_hints(type(message), include_extras=True)
    fields = message.__struct_fields__
    return [getattr(message, name) for name in fields if not beside(hints[name])]


def test_every_message_can_be_decoded() -> None:
    assert set(Message.__subclasses__()) >= set(TYPES)
    missing = {
        kind.__name__
        for kind in Message.__subclasses__()
        if kind.__module__ == Message.__module__ and kind not in TYPES
    }
    assert not missing, "not in AnyMessage"


def test_the_tags_of_version_0_1_0_stay() -> None:
    """By them, not by the names of the classes, two versions know what a message is."""
    assert {
        *("Load", "Loaded", "LoadFailed", "ForkWorker", "Forked", "Began", "ForkFailed", "Ready"),
        *("StartFailed", "Seats", "CloseListeners", "Retire", "Detached", "Acknowledged", "Attach"),
        *("Attached", "Refused", "Keep", "Ended", "Orphaned", "Free", "Worn", "Ping", "Crowded"),
        "Stranded",
    } <= TAGS


@given(st.one_of([messages_of(kind) for kind in TYPES]))
@settings(max_examples=200)
def test_round_trip(message: Message) -> None:
    descriptors = descriptors_of(message)
    assert decode(encode(message), descriptors) == message
    assert decode(memoryview(encode(message)), descriptors) == message


@pytest.mark.parametrize("kind", TYPES)
def test_an_older_reader_ignores_what_was_appended(kind: type[Message]) -> None:
    newer = of_a_newer_version(kind)

    @given(messages_of(kind))
    @settings(max_examples=5)
    def check(message: Message) -> None:
        assert decode(encode(newer(*encoded_of(message), 99)), descriptors_of(message)) == message

    check()


@pytest.mark.parametrize("kind", TYPES)
def test_a_newer_reader_takes_the_default(kind: type[Message]) -> None:
    newer = of_a_newer_version(kind)

    @given(messages_of(kind))
    @settings(max_examples=5)
    def check(message: Message) -> None:
        seen = msgspec.msgpack.decode(encode(message), type=newer)
        assert list(msgspec.structs.astuple(seen)) == [*encoded_of(message), 7]

    check()


@pytest.mark.parametrize("data", [b"", b"\x91", b"\x91\xa4Nope", b"\x92\xa5Seats\xa1x"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


#: How many descriptors come with a message, first as version 0.1.0 sends and takes them, then of
#: later ones; of all others none.  For the listeners, of which there may be any number, three stand
#: here.
TAKEN = {
    "Load": {0, 1, 2, 3},
    "ForkWorker": {3},
    "Detached": {0, 1, 2},
    "Attach": {1},
    "Keep": {1},
    "Stranded": {2, 3},
    "ServeTls": {0, 1, 2, 3},
    "Pace": {1},
    "StartTls": {2},
    "ShakeHands": {2},
    "TlsFile": {1},
    "Registered": {0, 1},
    "OpenLine": {1},
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_message_takes_so_many_descriptors_and_no_others(kind: type[Message]) -> None:
    """Fewer alone where the kernel has said that some did not arrive."""
    taken = TAKEN.get(str(kind.__struct_config__.tag), {0})

    @given(messages_of(kind))
    @settings(max_examples=3)
    def check(message: Message) -> None:
        data = encode(message)
        for count, lost in product(range(4), (False, True)):
            fds = [10, 11, 12][:count]
            if count in taken or (lost and count < max(taken)):
                assert descriptors_of(decode(data, fds, lost=lost)) == fds
            else:
                with pytest.raises(Unreadable) as caught:
                    decode(data, fds, lost=lost)
                assert caught.value.tag == kind.__struct_config__.tag

    check()


def test_descriptors_are_known_by_their_names() -> None:
    handoff = ConnectionDetached("1-1-1", 1, 0, "peer", None, b"", 0, 0, 0, connection=5, answer=6)
    assert descriptors_of(handoff) == [5, 6]
    alone = decode(encode(handoff), [7])
    assert isinstance(alone, ConnectionDetached)
    assert (alone.connection, alone.answer) == (7, ABSENT)
