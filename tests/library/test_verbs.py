"""What each verb does is what the table says, which is the documentation's."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs._ext.declared import PAGES

from socketkeep import AsyncConnection, Connection, NonBlocking, Timeout
from socketkeep._base._verbs import VERBS, Descriptor, Others, Peer, Unread, Verb
from tests.library.conftest import Run

DOCS = Path(__file__).parents[2] / "docs"


class Scene:
    """A connection that both sides have sent on, with another handle of our side's socket."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.peer = socket.create_connection(server.getsockname(), timeout=5)
            self.ours, _ = server.accept()
        self.other = self.ours.dup()
        self.other.settimeout(5)
        self.peer.sendall(b"unread")
        assert select.select([self.ours], [], [], 5)[0]

    def close(self) -> None:
        for sock in (self.peer, self.ours, self.other):
            sock.close()

    def peer_sees(self) -> Peer:
        """Whoever still can has sent "more" by now; without an end, that is the last there is."""
        received = b""
        try:
            while not received.endswith(b"more"):
                chunk = self.peer.recv(100)
                if not chunk:
                    assert received == b"sent"
                    return Peer.EOF
                received += chunk
        except ConnectionResetError:
            return Peer.RESET
        return Peer.NOTHING

    def others_find(self) -> tuple[Others, bytes]:
        """Send and receive by the other handle; what it received goes with it."""
        try:
            self.other.send(b"more")
        except (BrokenPipeError, ConnectionResetError):
            can_send = False
        else:
            can_send = True
        try:
            received = self.other.recv(100)
        except OSError:  # ENOTCONN or ECONNRESET
            received = b""
        if can_send:
            return Others.UNTOUCHED, received
        return (Others.CANNOT_SEND if received else Others.ENDED), received


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def observed(scene: Scene, verb: Verb, *, is_open: bool) -> Verb:
    """Return the row that describes what is to be seen now."""
    others, received = scene.others_find()
    peer = scene.peer_sees()
    if received:
        unread = Unread.KEPT if is_open else Unread.LEFT
    else:
        unread = Unread.LOST if peer is Peer.RESET else Unread.DROPPED
    return Verb(verb.call, peer, Descriptor.OPEN if is_open else Descriptor.FREED, others, unread)


def arguments(verb: Verb) -> list[int]:
    return [socket.SHUT_WR] if "SHUT_WR" in verb.call else []


@pytest.mark.parametrize("verb", VERBS, ids=[verb.call for verb in VERBS])
def test_what_it_does(scene: Scene, verb: Verb) -> None:
    conn = Connection(scene.ours, mode=Timeout(5))
    conn.send(b"sent")
    conn.mode = NonBlocking()  # `close` waits for nothing then
    getattr(conn, verb.call.partition("(")[0])(*arguments(verb))
    assert observed(scene, verb, is_open=conn.fileno() >= 0) == verb
    conn.abort()


@pytest.mark.parametrize("verb", VERBS, ids=[verb.call for verb in VERBS])
def test_what_it_does_async(scene: Scene, verb: Verb, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(scene.ours)
        await conn.send(b"sent")
        name = verb.call.partition("(")[0]
        given = {"linger": 0.0} if name == "close" else {}
        await getattr(conn, name)(*arguments(verb), **given)
        assert observed(scene, verb, is_open=conn.fileno() >= 0) == verb
        await conn.abort()

    run(scenario)


@pytest.mark.parametrize("page", ["how-to/receive-and-send.md", "explained/modes-and-handles.md"])
def test_the_pages_have_the_table(page: str) -> None:
    assert "{{ declared: verbs }}" in (DOCS / page).read_text()
    for verb in VERBS:
        cells = (f"`{verb.call}`", *(cell.value for cell in verb[1:]))
        assert f"| {' | '.join(cells)} |" in PAGES["verbs"]()
