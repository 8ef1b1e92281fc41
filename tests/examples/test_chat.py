"""chat.py, with socat."""

from __future__ import annotations

from contextlib import ExitStack

from tests.examples.conftest import Example, Serve, Talk


def _enter(stack: ExitStack, example: Example, nick: str) -> Talk:
    talk = stack.enter_context(Talk("socat", "-", f"TCP:{example.server.address}"))
    assert talk.hear().startswith("* you are guest-")
    talk.say(f"/nick {nick}")
    talk.hear_up_to(f"* you are {nick}")  # behind what the room may still tell of the one before
    return talk


def test_rooms_are_kept_through_a_reload(serve: Serve) -> None:
    """Members hear their room and no other, and are where they were after a reload."""
    example = serve("chat", "--workers", "3")
    with ExitStack() as stack:
        ada = _enter(stack, example, "ada")
        ben = _enter(stack, example, "ben")
        assert ada.hear().endswith("is here")
        assert ada.hear().endswith("is now ben")
        assert ben.ask("/join engines") == "* you are in engines"
        assert ada.hear() == "* ben has gone to engines"
        cleo = _enter(stack, example, "cleo")
        assert ada.hear().endswith("is here")
        assert ada.hear().endswith("is now cleo")
        assert cleo.ask("/join engines") == "* you are in engines"
        assert ada.hear() == "* cleo has gone to engines"
        assert ben.hear() == "* cleo is here"
        ben.say("difference?")
        assert cleo.hear() == "ben: difference?"

        example.edit('f"{seat.nick}: {text}"', 'f"<{seat.nick}> {text}"')
        example.server.wait_until(
            lambda: {each["generation"] for each in example.server.connections()} == {2},
            "all members in the new generation",
        )
        cleo.say("/who")
        assert {cleo.hear(), cleo.hear()} == {"* ben is in engines", "* cleo is in engines"}
        cleo.say("analytical")
        assert ben.hear() == "<cleo> analytical"
        assert ada.ask("/who") == "* ada is in lobby"
        cleo.say("/quit")
        assert ben.hear() == "* cleo has left"
        assert cleo.finish() == ("", 0)


def test_a_member_moves_while_others_talk(serve: Serve) -> None:
    """Pushes do not keep a silent member from being moved."""
    example = serve("chat", "--workers", "3")
    with ExitStack() as stack:
        silent = _enter(stack, example, "silent")
        talker = _enter(stack, example, "talker")
        assert silent.hear().endswith("is here")
        assert silent.hear().endswith("is now talker")
        for _ in range(3):
            for number in range(200):
                talker.say(f"line {number}")
            example.server.reload()
        example.server.wait_until(
            lambda: {each["generation"] for each in example.server.connections()} == {4},
            "all members in the newest generation",
        )
        talker.say("the last")
        while (line := silent.hear()) != "talker: the last":
            assert line.startswith("talker: line ")
