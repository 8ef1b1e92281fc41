"""What is sent is what arrives, also between two versions of Socketkeep."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep._base import _msgpack, _plain_structs
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

PACK, UNPACK = _msgpack.pack_plainly, _msgpack.unpack_plainly
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


@pytest.fixture(scope="module")
def plain() -> Any:
    """The messages as a template has them, which loads nothing of msgspec."""
    names = ("Struct", "astuple", "replace")
    structs = SimpleNamespace(PLAIN=True, **{name: getattr(_plain_structs, name) for name in names})
    place = Path(inspect.getfile(decode))
    spec = importlib.util.spec_from_file_location("messages_of_a_template", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "socketkeep._base._structs", structs)
        patch.setattr(_msgpack, "pack", PACK)
        patch.setattr(_msgpack, "unpack", UNPACK)
        spec.loader.exec_module(module)
        yield module


def test_a_template_and_a_keeper_understand_each_other(plain: Any) -> None:
    assert plain.TAGS == TAGS

    @given(st.one_of([messages_of(kind) for kind in TYPES]))
    @settings(max_examples=300)
    def check(message: Message) -> None:
        descriptors = descriptors_of(message)
        read = plain.decode(encode(message), descriptors)
        assert type(read).__name__ == type(message).__name__
        assert repr(read) == repr(plain.decode(plain.encode(read), descriptors))
        assert plain.split(read) == (encode(message), descriptors)
        assert decode(plain.encode(read), descriptors) == message

    check()


@pytest.mark.parametrize("kind", TYPES)
def test_a_template_reads_what_other_versions_write(plain: Any, kind: type[Message]) -> None:
    """As the keeper reads it, or neither does."""

    @given(messages_of(kind), st.integers(1, 5))
    @settings(max_examples=5)
    def check(message: Message, fewer: int) -> None:
        array = msgspec.msgpack.decode(encode(message))
        descriptors = descriptors_of(message)
        for written in ([*array, "of a later version"], array[: max(1, len(array) - fewer)]):
            data = msgspec.msgpack.encode(written)
            try:
                expected = decode(data, descriptors)
            except Unreadable:
                with pytest.raises(plain.Unreadable):
                    plain.decode(data, descriptors)
            else:
                assert plain.split(plain.decode(data, descriptors)) == (
                    encode(expected),
                    descriptors,
                )

    check()


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x93", b"\xc1", b"\x05", b"\x90", b"\x91\x05", b"\x91\xa4Nope"),
        *(b"\x92\xa4Ping\xc0\xc0", b"\x91" * 100),
    ],
)
def test_a_template_is_told_of_what_is_no_message(plain: Any, data: bytes) -> None:
    with pytest.raises(plain.Unreadable):
        plain.decode(data)


def test_what_nests_no_struct_is_no_message(plain: Any) -> None:
    for letters in (5, [5]):
        with pytest.raises(plain.Unreadable):
            plain.decode(PACK(["Push", letters]))


def test_plain_messages_are_made_as_structs_are(plain: Any) -> None:
    seats = plain.Seats(3)
    assert seats.accept_below == 3
    assert seats == plain.Seats(accept_below=3)
    assert seats != plain.GiveUp(3)
    assert hash(seats) == hash(plain.Seats(3))
    assert repr(plain.GiveUp(3)) == "GiveUp(count=3)"
    assert _plain_structs.replace(plain.GiveUp(3), count=4).count == 4
    first, second = plain.LetterTold(1, 2), plain.LetterTold(1, 2)
    assert first.found == []
    assert first.found is not second.found
    for fields, named in (((), {}), ((1, 2), {}), ((), {"x": 1})):
        with pytest.raises(TypeError, match="GiveUp"):
            plain.GiveUp(*fields, **named)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
)


@given(VALUES)
def test_msgpack_is_as_msgspec_has_it(value: Any) -> None:
    packed = PACK(value)
    assert packed == msgspec.msgpack.encode(value)
    assert UNPACK(memoryview(packed)) == value
    for end in range(min(len(packed), 50)):
        with pytest.raises(ValueError, match="truncated"):
            UNPACK(packed[:end])


@pytest.mark.parametrize(
    "value",
    [
        *(
            sign * ((1 << bits) + more)
            for bits in (5, 7, 8, 15, 16, 31, 32, 63)
            for more in (-1, 0)
            for sign in (1, -1)
        ),
        *("x" * size for size in (31, 32, 255, 256, 65535, 65536)),
        *(b"x" * size for size in (255, 256, 65535, 65536)),
        *([0] * size for size in (15, 16, 65535, 65536)),
        *({str(key): key for key in range(size)} for size in (15, 16, 65536)),
    ],
    ids=lambda value: f"{type(value).__name__}{value if type(value) is int else len(value)}",
)
def test_msgpack_at_the_bounds_of_its_forms(value: Any) -> None:
    assert PACK(value) == msgspec.msgpack.encode(value)
    assert UNPACK(PACK(value)) == value


@pytest.mark.parametrize(
    ("value", "error"), [(2**64, OverflowError), (-(2**63) - 1, OverflowError), (1j, TypeError)]
)
def test_what_msgpack_has_no_form_for(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        PACK(value)


def test_what_is_nested_too_deep() -> None:
    value: list[Any] = []
    for _ in range(100):
        value = [value]
    with pytest.raises(RecursionError):
        PACK(value)


@pytest.mark.parametrize("data", [b"\xc1", b"\xd4\0\0", b"\0\0", b"\x81\x90\0", b"\x81\x80\0"])
def test_what_is_no_msgpack_of_ours(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"data|key"):
        UNPACK(data)


def test_single_precision() -> None:
    assert UNPACK(b"\xca\x3f\x80\0\0") == 1.0
