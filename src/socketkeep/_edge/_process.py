"""An edge: accepts where there is TLS, shakes hands, and passes the plain ends to the keeper.

One thread, one epoll.  It runs no user code and lives as long as its connections: the keys of TLS
are in its memory, and whoever serves a connection may change meanwhile.  An upgrade of the keeper
leaves it as it is; the next version has its channel, and has it leave once an edge of that version
accepts.  It then serves what it has until that ends, as it does when the keeper has died.  The
guard, where there is one, has the keeper's end of the channel, too: so that end stays open, and the
next keeper, which gets it, can ask.  That the keeper has died a pidfd tells.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from functools import partial
from typing import Any, Final

import msgspec

from socketkeep._base import _log, _prctl
from socketkeep._base._address import credentials_of
from socketkeep._base._held_signals import REQUESTS, let_signals_come
from socketkeep._base._roles import Role
from socketkeep._base._titles import set_title
from socketkeep._config._address_lists import NO_LISTS
from socketkeep._config._server_options import ServeConfig, listener_settings
from socketkeep._edge._certificates import BadTls, read_file, read_given
from socketkeep._edge._clients import Clients, HandshakeRequest, Listening
from socketkeep._edge._openssl import call_openssl
from socketkeep._edge._renewal import CertificateRenewal
from socketkeep._edge._ticket_keys import can_be_set
from socketkeep._keeper.loop._reactor import READABLE, WRITABLE, Reactor
from socketkeep._net._accept_errors import Exhausted, pass_over_given_up
from socketkeep._wire._census import NO_LANE, Census
from socketkeep._wire._channel import Channel, ChannelClosed, Packet
from socketkeep._wire._doorkeeper import Doorkeeper
from socketkeep._wire._messages import (
    Admit,
    AskBytes,
    CertificateTold,
    EdgeReady,
    EdgeReport,
    Message,
    Pace,
    RenewCertificates,
    Retire,
    ServeTls,
    ShakeHands,
    StartFailed,
    TicketSecrets,
    TlsFile,
)

_ACCEPTED_AT_ONCE: Final = 32
_PACKETS_AT_ONCE: Final = 64
_PAUSE: Final = 0.1  # seconds without accepting, when there was no descriptor for one more
_RETRY: Final = 0.1  # seconds, when the system had no room for a message
_NEVER: Final = float("inf")
_REPORT: Final = 1.0  # seconds between two looks at what is to be told, and at the files
_throttle: Final = _log.Throttle()
_EXCLUSIVE: Final = 1 << 28  # EPOLLEXCLUSIVE: of the edges that wait one is woken


def main(channel_fd: int) -> int:
    """Serve until the keeper has no more use for it and all that it has has ended."""
    gc.freeze()
    # What is asked of the server by signal the keeper hears, too, and tells its edges in order.
    for number in (signal.SIGTERM, signal.SIGINT, *REQUESTS):
        signal.signal(number, signal.SIG_IGN)
    let_signals_come()
    sys.unraisablehook = _say_unraisable
    call_openssl()
    reactor = Reactor()
    sock = socket.socket(fileno=channel_fd)
    edge = Edge(reactor, Channel(sock), shares=can_be_set())
    edge.watch_keeper(credentials_of(sock)[0])
    reactor.run()
    return edge.exit_code


def _say_unraisable(unraisable: Any) -> None:
    """Log what `ssl` cannot raise, at a bounded rate: a name asked for that is no ASCII, say.

    By itself it would write a traceback to standard error for each client that sends one.
    """
    _throttle.warning("failed in a callback", error=repr(unraisable.exc_value))


class Edge:
    """The process: what the keeper says goes in, plain ends and reports go out.

    shares: the keys of session tickets can be set, see `_ticket_keys`.
    """

    def __init__(self, reactor: Reactor, channel: Channel, *, shares: bool = False) -> None:
        self.exit_code = 0
        self._shares = shares
        self._reactor = reactor
        self._channel = channel
        self._watching_writes = False
        self._listening: dict[int, Listening] = {}
        self._config: ServeConfig | None = None
        self._names: list[str] = []  # of all the server's listeners
        self._pacer: Doorkeeper | None = None
        self._admits = False  # connections are to be accepted
        self._paused = False  # but there is no descriptor for one
        self._ending = False
        self._clients = Clients(reactor, self._open_listeners, self._stop_if_done)
        self._renewal: CertificateRenewal | None = None
        self._told = EdgeReport()
        self._given: dict[str, bytes | OSError] = {}  # files that this user may not open
        self._throttle = _log.Throttle()
        reactor.register(channel.fileno(), self._hear)

    def watch_keeper(self, pid: int) -> None:
        """Learn of the end of the keeper, which has made the channel."""

        def ended(_events: int) -> None:
            self._reactor.unregister(pidfd)
            os.close(pidfd)
            self._keeper_ended()

        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it has ended, or is in a namespace of its own: its end closes the channel
            pidfd = -1
        if pidfd >= 0:
            self._reactor.register(pidfd, ended)

    # What the keeper says.

    def _hear(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = self._channel.receive()
            except ChannelClosed:
                self._lose_keeper()
                return
            if packet is None:
                return
            try:
                self._act_on(packet)
            finally:
                packet.close()

    def _act_on(self, packet: Packet) -> None:
        match packet.message:
            case ServeTls() as message:
                self._begin(message, packet)
            case Pace() as message:
                self._go_by(message, packet)
            case Admit(accepting=accepting):
                self._admits = accepting
                self._open_listeners()
            case AskBytes(question=question, number=number):
                self._send(self._clients.passed(question, number))
            case TicketSecrets(secrets=secrets):
                for listening in self._listening.values():
                    listening.tls.use_secrets(secrets)
            case ShakeHands() as message:
                self._shake_hands(message, packet)
            case TlsFile(path=path, file=file):
                # Keys that its user may not read are not for what else runs as that user.
                _prctl.set_dumpable(False)
                self._given[path] = read_given(file)
            case RenewCertificates():
                if self._renewal is not None and not self._ending:
                    self._renewal.renew()
                self._report()
            case Retire(how=how, deadline=deadline):
                self._told = EdgeReport()  # it may be another keeper, which has been told nothing
                self._stop_accepting()
                if how != "move":  # in that case another edge goes on, and hands are still shaken
                    self._clients.stop_shaking()
                if deadline != _NEVER:
                    self._reactor.call_at(deadline, self._clients.cut_all)
            case _:
                pass  # of a later version; who has received it closes its descriptors

    def _begin(self, message: ServeTls, packet: Packet) -> None:
        config = msgspec.msgpack.decode(message.config, type=ServeConfig)
        _log.configure(config.log_level, config.log_format, config.log_file)
        set_title(Role.EDGE, f"[{message.name}]" if message.name else "")
        if packet.truncated or len(message.sockets) != 2 * len(message.numbers):
            self._fail("the listeners did not arrive: out of file descriptors")
            return
        self._config, self._names = config, message.listeners
        self._clients.edge = message.serial
        settings = listener_settings(config, len(message.listeners))
        socks = [socket.socket(fileno=packet.take(fd)) for fd in tuple(message.sockets)]
        ends = zip(socks[: len(message.numbers)], socks[len(message.numbers) :], strict=True)
        accepted_from = dict(zip(message.numbers, ends, strict=True))
        for number, said in enumerate(settings):
            if said.tls is None:
                continue
            text = message.listeners[number]
            try:
                tls = Listening(
                    number,
                    text,
                    accepted_from.get(number),
                    said,
                    shares=self._shares,
                    read=self._read,
                )
                if message.secrets:
                    tls.tls.use_secrets(message.secrets)
            except BadTls as error:
                for each in socks:
                    each.close()
                self._fail(f"{text}: {error}")
                return
            self._listening[number] = tls
        self._renewal = CertificateRenewal(tuple(self._listening.values()), looks=not self._given)
        self._send(EdgeReady())
        self._report()
        self._reactor.call_later(_REPORT, self._look_around)

    def _go_by(self, message: Pace, packet: Packet) -> None:
        if packet.truncated or self._config is None:
            _log.warning("the accept rate does not hold: out of descriptors", process="edge")
            return
        census = Census(message.census, NO_LANE)
        self._pacer = Doorkeeper(self._config, len(self._names), census, NO_LISTS, edge=True)

    def _read(self, path: str, option: str) -> bytes:
        """Return what is in a file, which may be one that the keeper has given.  Raises BadTls."""
        given = self._given.get(path)
        if given is None:
            return read_file(path, option)
        if isinstance(given, OSError):
            raise BadTls(f"{option}: cannot read {path}: {given.strerror or given}")
        return given

    def _fail(self, error: str) -> None:
        self._send(StartFailed(error))
        self.exit_code = 1
        self._reactor.stop()

    def _lose_keeper(self) -> None:
        self._reactor.unregister(self._channel.fileno())
        self._channel.close()
        self._keeper_ended()

    def _keeper_ended(self) -> None:
        if self._clients and not self._ending:
            _log.warning("the keeper has gone: no more is accepted", connections=len(self._clients))
        self._stop_accepting()
        self._clients.stop_shaking()

    def _stop_accepting(self) -> None:
        self._ending = True
        self._open_listeners()
        for _, sock in self._doors():
            sock.close()
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._ending and not self._clients:
            self._report()
            for listening in self._listening.values():
                if listening.outlet is not None:
                    listening.outlet.close()
            self._reactor.stop()

    # Accepting.

    @property
    def accepting(self) -> bool:
        """Return whether connections are accepted, from whichever listener."""
        return any(listening.watched for listening in self._listening.values())

    def _open_listeners(self) -> None:
        able = self._admits and not (self._paused or self._ending or self._clients.waiting)
        for listening, door in self._doors():
            wanted = able and not listening.held
            if wanted == listening.watched:
                continue
            listening.watched = wanted
            if wanted:
                accept = partial(self._accept_of, listening)
                self._reactor.register(door.fileno(), accept, READABLE | _EXCLUSIVE)
            else:
                self._reactor.unregister(door.fileno())

    def _doors(self) -> list[tuple[Listening, socket.socket]]:
        """Return what connections are accepted from."""
        return [(each, each.sock) for each in self._listening.values() if each.sock is not None]

    def _accept_of(self, listening: Listening, _events: int) -> None:
        pacer = self._pacer
        for _ in range(_ACCEPTED_AT_ONCE):
            if pacer is not None and (wait := pacer.wait(listening.number)):
                self._hold(listening, wait)
                return
            try:
                accepted = listening.accept()
            except OSError as error:
                try:
                    pass_over_given_up(error)
                except Exhausted:
                    self._pause(str(error))
                    return
                continue
            if accepted is None:
                return
            if pacer is not None:
                pacer.accepted(listening.number)
            self._clients.meet(listening, *accepted)

    def _hold(self, listening: Listening, seconds: float) -> None:
        """Accept nothing from a listener for so long, for the sake of the rate."""

        def go_on() -> None:
            listening.held = False
            self._open_listeners()

        listening.held = True
        self._open_listeners()
        self._reactor.call_later(seconds, go_on)

    def _pause(self, error: str) -> None:
        def go_on() -> None:
            self._paused = False
            self._open_listeners()

        self._throttle.warning("out of file descriptors", process="edge", error=error)
        self._paused = True
        self._open_listeners()
        self._reactor.call_later(_PAUSE, go_on)

    def _shake_hands(self, message: ShakeHands, packet: Packet) -> None:
        """Begin TLS as a worker has asked for it; it sees the end of the pair if that cannot be."""
        if packet.truncated:
            self._throttle.warning("out of file descriptors", process="edge")
            return
        sock = socket.socket(fileno=packet.take(message.connection))
        plain = socket.socket(fileno=packet.take(message.plain))
        asked = HandshakeRequest(plain, message.peer, message.unread, message.proxy)
        self._clients.begin_for(self._listening[message.listener], sock, asked)

    # What the keeper is told.

    def _look_around(self) -> None:
        self._reactor.call_later(_REPORT, self._look_around)
        if self._renewal is not None and not self._ending:
            self._renewal.look()
        self._report()

    def _report(self) -> None:
        tally = self._clients.tally
        report = EdgeReport(
            open=len(self._clients),
            shaking=self._clients.shaking,
            handshakes=dict(tally.handshakes),
            resumed=tally.resumed,
            failed=dict(tally.failed),
            certificates=[
                CertificateTold(each.number, found.path, list(found.names), found.expires)
                for each in self._listening.values()
                for found in each.tls.certificates
            ],
        )
        if report != self._told:
            self._told = report
            self._send(report)

    def _send(self, message: Message) -> None:
        """Send, or queue; to a keeper that has gone, nothing: its end is heard of elsewhere."""
        if self._channel.fileno() >= 0:
            self._channel.enqueue(message)
            self._flush()

    def _flush(self) -> None:
        if self._channel.fileno() < 0:
            return
        try:
            self._channel.flush()
        except ChannelClosed:
            return  # what it said before is still to be heard
        except OSError as error:
            self._throttle.warning("cannot send to the keeper", error=error.strerror)
            self._reactor.call_later(_RETRY, self._flush)
            return
        if self._channel.wants_write != self._watching_writes:
            self._watching_writes = self._channel.wants_write
            events = READABLE | WRITABLE if self._watching_writes else READABLE
            self._reactor.modify(self._channel.fileno(), events)
