"""The connections of an edge: first they shake hands, then a worker gets their plain end."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from socketkeep import _native
from socketkeep._base import _log
from socketkeep._base._address import format_address, peer_text
from socketkeep._base._proxy_header import Endpoint, read_header
from socketkeep._base._tls_facts import EdgeTls, fields_alike, header_alike
from socketkeep._config._listener_settings import ListenerSettings
from socketkeep._edge._certificates import EdgeObject, Read, ServerTls, read_file
from socketkeep._edge._relay import Handshake, HandshakeFailed, Relay
from socketkeep._edge._relay_loop import make_relay_loop
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._stream._edge_handshake import failed, secured
from socketkeep._wire._inlets import ends_of, inet_of, pass_on
from socketkeep._wire._messages import BytesPassed

#: Seconds from accept(2) until hands must have been shaken, and how many may be at it at a time.
#: One more sends the one away that has taken longest.
HANDSHAKE_TIME: Final = 10.0
MOST_SHAKING: Final = 4096
#: Seconds until it is looked again whether an inlet has room.
_LOOK_AGAIN: Final = 0.05
_STREAM: Final = int(socket.SOCK_STREAM) | socket.SOCK_NONBLOCK
#: The server ends: no process has the other end of an outlet any more.
_NOBODY_TAKES: Final = (errno.EPIPE, errno.ECONNRESET)
#: Seconds in which a client whose worker has gone must take in some more of what was sent.
_PATIENCE: Final = 60.0


class Listening:
    """One listener with TLS.  Raises BadTls.

    shares: as `ServerTls` has it.  ends: what is accepted from, and the outlet by which that is
    passed on; None where connections come from workers, which have accepted them.
    """

    def __init__(
        self,
        number: int,
        text: str,
        ends: tuple[socket.socket, socket.socket] | None,
        settings: ListenerSettings,
        *,
        shares: bool = False,
        read: Read = read_file,
    ) -> None:
        assert settings.tls is not None
        self.number = number
        self.text = text
        self.sock: socket.socket | None = None
        self.outlet: socket.socket | None = None
        if ends is not None:
            self.sock, self.outlet = ends
        self.delays = not settings.tcp_nodelay
        self.asks = bool(settings.tls.client_ca)  # for the client's certificate
        self.tls = ServerTls(settings.tls, wary=False, shares=shares, read=read)
        self.watched = False
        self.held = False  # for the sake of the rate
        # What `socket.accept` asks the listener each time is asked once.
        self._made = (0, 0) if self.sock is None else (int(self.sock.family), self.sock.proto)

    def accept(self) -> tuple[socket.socket, str] | None:
        """Return the next connection, which does not block, and its peer; None: nobody waits.

        Raises OSError as accept(2).
        """
        assert self.sock is not None
        if _native.core is None:
            return _accepted(self.sock)
        accepted = _native.core.accept(self.sock.fileno())
        if accepted is None:
            return None
        fd, peer = accepted
        sock = socket.socket(self._made[0], _STREAM, self._made[1], fd)
        return sock, peer if peer and isinstance(peer, str) else peer_text(sock)


def _accepted(listener: socket.socket) -> tuple[socket.socket, str] | None:
    try:
        sock, address = listener.accept()
    except BlockingIOError:
        return None
    sock.setblocking(False)
    return sock, format_address(address)


@dataclass(slots=True, frozen=True)
class HandshakeRequest:
    """The request of a worker's `start_tls`.

    plain: the end of a pair over which it is answered, and the connection goes on.  unread: what it
    has received of the handshake.  proxied: the PROXY header that the connection began with.
    """

    plain: socket.socket
    peer: str
    unread: bytes
    proxied: bytes


@dataclass(slots=True, eq=False)
class EdgeClient:
    """One connection.

    until: when hands must have been shaken.  asked: by a worker, which has accepted it.  relay:
    None as long as no worker can have it.  tls, header: its TLS and what is told of it, once hands
    are shaken, and until a worker can.
    """

    number: int
    listening: Listening
    sock: socket.socket
    peer: str
    until: float
    handshake: Handshake
    asked: HandshakeRequest | None = None
    relay: Relay | None = None
    tls: EdgeObject | None = None
    header: bytes = b""


@dataclass(slots=True)
class HandshakeCounts:
    """The counts of handshakes, by version of TLS, and of failures, by reason."""

    handshakes: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    resumed: int = 0


class Clients:
    """All of an edge's.

    `crowded` is called when `waiting` may have changed, `gone` when one has ended.
    """

    def __init__(
        self,
        reactor: Reactor,
        crowded: Callable[[], None],
        gone: Callable[[], None],
        most_shaking: int = MOST_SHAKING,
    ) -> None:
        self.edge = 0  # its serial number, which is told of each connection
        self.tally: Final = HandshakeCounts()
        self._reactor = reactor
        self._crowded = crowded
        self._gone = gone
        self._most_shaking = most_shaking
        self._all: dict[int, EdgeClient] = {}
        self._shaking: dict[int, EdgeClient] = {}  # in the order in which their time is over
        self._waiting: dict[int, EdgeClient] = {}  # for room in an inlet
        self._unfinished: dict[int, EdgeClient] = {}  # with more to move than they had a turn for
        self._numbers = 0
        self._expiry: ReactorTimer | None = None
        self._throttle = _log.Throttle()
        self._loop = make_relay_loop(self._moved, reactor.failed)
        # In this order: of what bytes come to, epoll tells once, and the reactor looks on.
        reactor.wait_in(self._loop.watch_reactor, self._loop.run)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def shaking(self) -> int:
        """Return how many have not shaken hands yet."""
        return len(self._shaking)

    @property
    def waiting(self) -> int:
        """Return how many have shaken hands, and wait until they can be passed on."""
        return len(self._waiting)

    def meet(self, listening: Listening, sock: socket.socket, peer: str) -> None:
        """Begin with a connection that was accepted."""
        if not listening.delays:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._begin(listening, sock, peer, None)

    def begin_for(self, listening: Listening, sock: socket.socket, asked: HandshakeRequest) -> None:
        """Begin with a connection on which a worker wants TLS."""
        for each in (sock, asked.plain):
            each.setblocking(False)
        client = self._begin(listening, sock, asked.peer, asked)
        # Its end, too, is heard of there, and then nobody is left whom hands are shaken for.
        self._loop.watch(asked.plain.fileno(), partial(self._plain_ready, client))
        client.handshake.feed(asked.unread)
        self._client_ready(client, 0)

    def _begin(
        self, listening: Listening, sock: socket.socket, peer: str, asked: HandshakeRequest | None
    ) -> EdgeClient:
        self._numbers += 1
        until = self._reactor.clock() + HANDSHAKE_TIME
        handshake = Handshake(sock, listening.tls.begin)
        client = EdgeClient(self._numbers, listening, sock, peer, until, handshake, asked)
        self._all[client.number] = self._shaking[client.number] = client
        if len(self._shaking) > self._most_shaking:
            oldest = next(iter(self._shaking.values()))
            why = f"{self._most_shaking} others shake hands"
            self._refuse(oldest, HandshakeFailed("no_room", why))
        self._loop.watch(sock.fileno(), partial(self._client_ready, client))
        self._expect_expiry()
        return client

    def passed(self, question: int, number: int) -> BytesPassed:
        """Return how many bytes of a connection have passed."""
        client = self._all.get(number)
        if client is None or client.relay is None:
            return BytesPassed(question, -1, -1, -1)
        relay = client.relay
        return BytesPassed(question, relay.taken, relay.waiting, relay.given)

    def stop_shaking(self) -> None:
        """End those with whom hands have not been shaken."""
        for client in tuple(self._shaking.values()):
            self._end(client)

    def cut_all(self) -> None:
        """End all that is left, at once."""
        for client in tuple(self._all.values()):
            if client.relay is not None:
                client.relay.cut("reset")
            self._end(client)

    # Shaking hands.

    def _client_ready(self, client: EdgeClient, events: int) -> None:
        if client.tls is not None:
            if events & select.EPOLLHUP:
                self._end(client)
            return  # what has come is heard of once it is passed on
        try:
            tls = client.handshake.go_on(events)
            if tls is not None:
                self._pass(client, tls)
        except HandshakeFailed as failure:
            self._refuse(client, failure)

    def _refuse(self, client: EdgeClient, failure: HandshakeFailed) -> None:
        self.tally.failed[failure.kind] += 1
        self._throttle.info(
            "TLS handshake failed",
            kind=failure.kind,
            reason=failure.kind,
            peer=client.peer,
            listener=client.listening.text,
            why=str(failure),
        )
        if client.asked is not None:
            with contextlib.suppress(OSError):  # the worker has gone
                client.asked.plain.send(failed(str(failure)))
        self._end(client)

    def _expect_expiry(self) -> None:
        first = next(iter(self._shaking.values()), None)
        if first is not None and (self._expiry is None or not self._expiry.pending):
            self._expiry = self._reactor.call_at(first.until, self._expire)

    def _expire(self) -> None:
        now = self._reactor.clock()
        for client in tuple(self._shaking.values()):
            if client.until > now:
                break
            why = f"no handshake within {HANDSHAKE_TIME:g} s"
            self._refuse(client, HandshakeFailed("late", why))
        self._expect_expiry()

    def _pass(self, client: EdgeClient, tls: EdgeObject) -> None:
        """Hands are shaken: let a worker have it.  Raises HandshakeFailed."""
        asked = client.asked
        try:
            client.header = header_of(client, tls, self.edge)
            if asked is not None:
                asked.plain.send(secured(client.header))
        except ValueError as error:
            raise HandshakeFailed("certificate", str(error)) from None
        except OSError as error:
            raise HandshakeFailed("no_room", error.strerror or str(error)) from None
        del self._shaking[client.number]
        self.tally.handshakes[tls.version() or ""] += 1
        self.tally.resumed += bool(tls.session_reused)
        client.tls = tls
        if asked is not None:
            self._carry(client, tls, asked.plain)
        elif self._waiting or not self._pass_on(client, tls):
            self._wait(client)

    def _pass_on(self, client: EdgeClient, tls: EdgeObject) -> bool:
        """Have a worker accept the connection; False: so many wait for that that it is to wait."""
        outlet = client.listening.outlet
        assert outlet is not None
        try:
            plain = pass_on(outlet, client.header)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NOBODY_TAKES:
                self._throttle.warning("cannot pass a connection on", error=error.strerror)
            self._end(client)
            return True
        self._loop.watch(plain.fileno(), partial(self._plain_ready, client), False)
        self._carry(client, tls, plain)
        return True

    def _carry(self, client: EdgeClient, tls: EdgeObject, plain: socket.socket) -> None:
        client.tls, client.header = None, b""
        client.relay = client.handshake.relay(tls, plain)
        self._loop.carry(client.relay, client)
        self._move(client)

    def _wait(self, client: EdgeClient) -> None:
        if not self._waiting:
            self._reactor.call_later(_LOOK_AGAIN, self._pass_on_waiting)
        self._waiting[client.number] = client
        self._crowded()

    def _pass_on_waiting(self) -> None:
        for client in tuple(self._waiting.values()):
            assert client.tls is not None
            if not self._pass_on(client, client.tls):
                self._reactor.call_later(_LOOK_AGAIN, self._pass_on_waiting)
                return
            self._waiting.pop(client.number, None)
        self._crowded()

    # Moving bytes.

    def _plain_ready(self, client: EdgeClient, events: int) -> None:
        relay = client.relay
        if relay is None:
            if events & select.EPOLLHUP:
                self._end(client)
            return
        had_been = relay.deserted
        relay.on_plain(events)
        self._move(client)
        if relay.deserted and not had_been and not relay.over:
            self._be_patient(client.number, relay.progress)

    def _move(self, client: EdgeClient) -> None:
        relay = client.relay
        assert relay is not None
        self._moved(client, relay.go_on())

    def _moved(self, client: EdgeClient, more: bool) -> None:
        assert client.relay is not None
        if client.relay.over:
            self._end(client)
        elif more:
            if not self._unfinished:
                # Not `call_soon`: what is ready by then has its turn before.
                self._reactor.call_later(0.0, self._move_on)
            self._unfinished[client.number] = client

    def _move_on(self) -> None:
        unfinished, self._unfinished = self._unfinished, {}
        for client in unfinished.values():
            if client.number in self._all:
                self._move(client)

    def _be_patient(self, number: int, progress: tuple[int, int]) -> None:
        """Have a client end some time that takes in nothing of what a worker has left."""
        # By its number: most have ended long before, and their memory is not to wait for this.
        self._reactor.call_later(_PATIENCE, partial(self._lose_patience, number, progress))

    def _lose_patience(self, number: int, progress: tuple[int, int]) -> None:
        client = self._all.get(number)
        if client is None or client.relay is None:
            return
        if client.relay.progress == progress:
            client.relay.cut("reset")
            self._end(client)
        else:
            self._be_patient(number, client.relay.progress)

    def _end(self, client: EdgeClient) -> None:
        del self._all[client.number]
        self._shaking.pop(client.number, None)
        self._waiting.pop(client.number, None)
        self._unfinished.pop(client.number, None)
        self._loop.forget(client.sock.fileno())
        if client.relay is not None:
            self._loop.forget(client.relay.plain.fileno())
            client.relay.close()
        else:
            client.sock.close()
            if client.asked is not None:
                self._loop.forget(client.asked.plain.fileno())
                client.asked.plain.close()
        self._gone()


def header_of(client: EdgeClient, tls: EdgeObject, edge: int) -> bytes:
    """Return the header that tells of a connection.  Raises OSError and ValueError."""
    proxied = b"" if client.asked is None else client.asked.proxied
    if proxied or client.listening.asks:
        return facts_of(tls, proxied, edge, client.number).header(*_ends(client))
    fields = fields_alike(
        *(tls.asked_for, bool(tls.session_reused), tls.version() or "", tls.cipher()),
        *(tls.selected_alpn_protocol(), edge),
    )
    return header_alike(ends_of(client.sock), fields, client.number)


def facts_of(tls: EdgeObject, proxied: bytes, edge: int, number: int) -> EdgeTls:
    """Return what is told of a connection whose handshake is done; see `EdgeTls`."""
    asks = tls.context.verify_mode is not ssl.CERT_NONE
    return EdgeTls(
        server_hostname=tls.asked_for,
        session_reused=bool(tls.session_reused),
        protocol=tls.version() or "",
        ciphers=tls.cipher(),
        alpn=tls.selected_alpn_protocol(),
        certificate=(tls.getpeercert() or None) if asks else None,
        certificate_der=tls.getpeercert(True) if asks else None,
        proxied=proxied,
        edge=edge,
        number=number,
    )


def _ends(client: EdgeClient) -> tuple[Endpoint | None, Endpoint | None]:
    """Return the client's address, and the one that it connected to, as far as they are told.

    Raises ValueError: what a worker says of a PROXY header may be anything.
    """
    if client.asked is not None and client.asked.proxied:
        found = read_header(client.asked.proxied)
        if found is None:
            raise ValueError("a PROXY header of before is not whole")
        if found[0].source is not None:
            return found[0].source, found[0].destination
    return inet_of(client.sock.getpeername()), inet_of(client.sock.getsockname())
