"""The control socket's server side, on the keeper's loop."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from socketkeep._admin import _snapshots
from socketkeep._admin._guests import Full, Guests
from socketkeep._admin._protocol import MAX_REQUEST, Done, Progress, decode_request, encode
from socketkeep._admin._reports import (
    DisconnectReport,
    PresenceReport,
    PresentReport,
    PublishReport,
    PushReport,
)
from socketkeep._base import _log
from socketkeep._base._address import credentials_of
from socketkeep._base._errors import ListenError
from socketkeep._config._options import MOST_PACE
from socketkeep._config._server_options import MOST_WORKERS
from socketkeep._keeper._inheritance import saved_listener
from socketkeep._keeper._keeper import Keeper
from socketkeep._keeper.loop._reactor import READABLE, WRITABLE, Reactor, ReactorTimer
from socketkeep._keeper.rollout._grounds import bind_anew
from socketkeep._keeper.rollout._rollout import RolloutOutcome
from socketkeep._keeper.rollout._superseded import Fate
from socketkeep._keeper.tables._state import KeepOpen, SavedClient, SavedControl
from socketkeep._keeper.workers._workers import Worker
from socketkeep._names._naming import check_message, check_text
from socketkeep._names._pushing import DISCONNECT_PATIENCE, LONGEST_PATIENCE, PATIENCE, PushOutcome
from socketkeep._net._listener import Listener
from socketkeep._wire._messages import Letter, LetterTold

_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2
#: At once; of one process; and that wait for a command's end.
_MOST_CLIENTS: Final = 64
_MOST_OF_ONE: Final = 32
_MOST_WAITING: Final = 48
#: Seconds that a client has to ask, and then to take its answer; and how much may wait for all.
_ASKING: Final = 10.0
_TAKING: Final = 30.0
_MOST_UNREAD: Final = 1 << 26
CONTROL_BACKLOG: Final = 128
CONTROL_MODE: Final = 0o600  # only this user may connect
#: Connections in one answer for a view: more could not be told apart, and would take long.
_MOST_LIVE: Final = 2000
_MOST_PARTS: Final = 65536
#: The commands of the process that shows the server.
_FOR_ONLOOKERS: Final = frozenset(("live", "connections-part"))
#: What is told to who waits for one of these while the server becomes another version.
_NOT_AFTER_UPGRADE: Final = {
    **dict.fromkeys(
        ("push", "publish"),
        "the server was upgraded meanwhile: it may have been delivered, or not",
    ),
    **dict.fromkeys(
        ("who", "disconnect", "rebalance", "reload-forecast"),
        "the server was upgraded meanwhile: ask again",
    ),
}
_PAUSE: Final = 1.0  # seconds without accepting, when the process is out of descriptors


class ControlServer:
    """Answers `status`, `reload` and the others of one keeper.

    Of a peer whose user is neither the keeper's nor root nothing is read.
    """

    def __init__(self, keeper: Keeper, reactor: Reactor, listener: Listener, name: str) -> None:
        self._reactor = reactor
        self._listener = listener
        self._commands = Commands(keeper, name)
        self._clients: Guests[ControlClient] = Guests(_MOST_CLIENTS, _MOST_OF_ONE, _MOST_WAITING)
        self._paused: ReactorTimer | None = None
        reactor.register(listener.fileno(), self._accept)

    def snapshot(self, keep: KeepOpen) -> SavedControl:
        """Return what the next version of the server goes on from."""
        clients = [client.snapshot(keep) for client in self._clients]
        return SavedControl(listener=saved_listener(self._listener, keep), clients=clients)

    def resume(self, clients: Sequence[SavedClient]) -> None:
        """Take over the clients of an earlier version, and finish the upgrade to this one."""
        waiting = []
        for saved in clients:
            sock = socket.socket(fileno=saved.fd)
            client = ControlClient(
                sock,
                self._reactor,
                self._commands,
                self._clients,
                looks_only=saved.looks_only,
            )
            self._clients.enter(client, credentials_of(sock)[0])
            client.restore(saved)
            if client.command in _NOT_AFTER_UPGRADE and not saved.finished:
                client.finish(Done(_EXIT_FAILED, error=_NOT_AFTER_UPGRADE[client.command]))
            elif client.command and not saved.finished:
                waiting.append(client)
        self._commands.finish_upgrade(waiting)

    def look_after_socket(self) -> None:
        """Make the socket anew when its file is gone: by it the server is told of the rest."""
        if not self._listener.file_is_gone:
            return
        try:
            fresh = bind_anew(self._listener, CONTROL_BACKLOG, CONTROL_MODE)
        except ListenError as error:
            _log.warning("the control socket's file is gone and cannot be made anew", error=error)
            return
        _log.warning("the control socket's file was gone and is made anew")
        if self._paused is None:
            self._reactor.unregister(self._listener.fileno())
        self._listener.sock.close()
        self._listener.sock, self._listener._identity = fresh.sock, fresh._identity
        if self._paused is None:
            self._reactor.register(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Close what is open; a client that waits for the server's end sees it by that."""
        for client in self._clients:
            client.close()
        if self._paused is not None:
            self._paused.cancel()
        self._reactor.unregister(self._listener.fileno())
        self._listener.close()

    def _resume(self) -> None:
        self._paused = None
        self._reactor.register(self._listener.fileno(), self._accept)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept_socket()
        except BlockingIOError:
            return
        except OSError as error:
            # At the descriptor limit it would be reported again at once, and for ever.
            _log.warning("control socket cannot accept", error=error.strerror)
            self._reactor.unregister(self._listener.fileno())
            self._paused = self._reactor.call_later(_PAUSE, self._resume)
            return
        uid = credentials_of(sock)[1]
        if uid in (0, os.geteuid()):
            self._enter(sock)
        else:
            mine = os.geteuid()
            _refuse(sock, f"the server is another user's (uid {mine}), and you are uid {uid}")

    def admit_onlooker(self, sock: socket.socket) -> None:
        """Answer one who may look at the server, push if there is a token, and nothing else."""
        self._enter(sock, looks_only=True)

    def _enter(self, sock: socket.socket, *, looks_only: bool = False) -> None:
        pid = credentials_of(sock)[0]
        try:
            silent = self._clients.make_room(pid)
        except Full:
            _refuse(sock, f"the server is busy with {len(self._clients)} commands: try again")
            return
        if silent is not None:
            silent.close()
        client = ControlClient(
            sock, self._reactor, self._commands, self._clients, looks_only=looks_only
        )
        self._clients.enter(client, pid)


def _refuse(sock: socket.socket, why: str) -> None:
    with sock, contextlib.suppress(OSError):
        sock.send(encode(Done(_EXIT_FAILED, error=why)))


class ControlClient:
    """One connection to the control socket: one request, its answers.

    looks_only: it may ask for what a view shows, and have nothing done but pushes, where the server
    has a token for those.
    """

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        commands: Commands,
        guests: Guests[ControlClient],
        *,
        looks_only: bool = False,
    ) -> None:
        self.looks_only: Final = looks_only
        sock.setblocking(False)
        self._sock = sock
        self._reactor = reactor
        self._commands = commands
        self._guests = guests
        self._request = bytearray()
        self._answer = bytearray()
        self._finished = False
        self._open = True
        self.command = ""  # that it has asked for
        self._deadline = reactor.call_later(_ASKING, self.close)
        reactor.register(sock.fileno(), self._ready)

    def snapshot(self, keep: KeepOpen) -> SavedClient:
        """Return what the next version of the server goes on from."""
        return SavedClient(
            fd=keep(self._sock.fileno()),
            request=bytes(self._request),
            answer=bytes(self._answer),
            finished=self._finished,
            command=self.command,
            looks_only=self.looks_only,
        )

    def restore(self, saved: SavedClient) -> None:
        """Go on from what an earlier version had heard and answered."""
        self._request += saved.request
        self._finished = saved.finished
        self.command = saved.command
        if self.command:
            self._deadline.cancel()
        if self.command and not self._finished:
            with contextlib.suppress(Full):  # an earlier version let more wait
                self._guests.busy(self)
        self._write(saved.answer)
        if self._finished:
            self._take_in_time()

    @property
    def arguments(self) -> dict[str, Any]:
        """Return those of the command that it has asked for."""
        return decode_request(bytes(self._request.partition(b"\n")[0])).arguments

    def progress(self, text: str) -> None:
        """Tell the client of something on the way."""
        self._write(encode(Progress(text)))

    def finish(self, done: Done) -> None:
        """Give the last answer, and close once it has gone."""
        self._finished = True
        self._write(encode(done))
        self._take_in_time()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._reactor.unregister(self._sock.fileno())
            self._sock.close()
            self._deadline.cancel()
            self._guests.leave(self)

    def _take_in_time(self) -> None:
        """Have the rest of the answer wait for a while, and not for much, in memory."""
        if not self._open:
            return
        self._deadline.cancel()
        self._deadline = self._reactor.call_later(_TAKING, self.close)
        self._guests.idle(self)
        unread = sum(len(each._answer) for each in self._guests)
        for other in self._guests:
            if unread > _MOST_UNREAD and other is not self and other._finished:
                unread -= len(other._answer)
                other.close()

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if self._open and events & ~WRITABLE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()  # gone, or it waits no longer
            return
        if self.command:
            return
        self._request += data
        line, newline, _ = self._request.partition(b"\n")
        if newline:
            self._deadline.cancel()
            try:
                self._guests.busy(self)
            except Full:
                self.command = "?"
                error = f"{_MOST_WAITING} commands wait for their end: try again"
                self.finish(Done(_EXIT_FAILED, error=error))
                return
            try:
                self._commands.run(bytes(line), self)
            except Exception as error:
                why = f"internal error of the server, see its log: {type(error).__name__}"
                self.finish(Done(_EXIT_FAILED, error=why))
                raise
        elif len(self._request) > MAX_REQUEST:
            self.close()

    def _write(self, data: bytes) -> None:
        if self._open:
            self._answer += data
            self._flush()

    def _flush(self) -> None:
        try:
            while self._answer:
                del self._answer[: self._sock.send(self._answer)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._finished and not self._answer:
            self.close()
        else:
            interest = READABLE | WRITABLE if self._answer else READABLE
            self._reactor.modify(self._sock.fileno(), interest)


class Commands:
    """The commands that a keeper carries out."""

    def __init__(self, keeper: Keeper, name: str) -> None:
        self._keeper = keeper
        self._name = name

    def run(self, line: bytes, client: ControlClient) -> None:
        """Do what a request asks for, and answer the client, now or when it is done."""
        try:
            request = decode_request(line)
        except msgspec.DecodeError as error:
            client.command = "?"
            client.finish(Done(_EXIT_USAGE, error=f"not a request: {error}"))
            return
        client.command = request.command
        if client.looks_only and not self._for_onlookers(request.command):
            client.finish(Done(_EXIT_USAGE, error=f"{request.command!r} is not for who looks on"))
            return
        match request.command:
            case "status":
                client.finish(_done(_snapshots.status(self._keeper, self._name)))
            case "workers":
                client.finish(_done(_snapshots.workers(self._keeper)))
            case "connections":
                client.finish(_done(_snapshots.connections(self._keeper)))
            case "connections-part":
                self._connections_part(request.arguments, client)
            case "listeners":
                client.finish(_done(_snapshots.listeners(self._keeper)))
            case "words":
                self._words(request.arguments, client)
            case "live":
                self._live(request.arguments, client)
            case "reload":
                self._reload(request.arguments, client)
            case "reload-forecast":
                self._forecast(client)
            case "upgrade":
                self._upgrade(client)
            case "scale":
                self._scale(request.arguments, client)
            case "push" | "publish" | "who" as command:
                self._push(command, request.arguments, client)
            case "disconnect":
                self._disconnect(request.arguments, client)
            case "rebalance":
                self._rebalance(client)
            case "drain":
                self._drain(request.arguments, client)
            case "stop":
                client.progress("stopping")
                self._keeper.stop("close")
            case _:
                client.finish(Done(_EXIT_USAGE, error=f"no command {request.command!r}"))

    def _for_onlookers(self, command: str) -> bool:
        """Return whether the process that shows the server may ask for it.

        It asks pushers for a token.
        """
        if command in {"push", "publish"}:
            return bool(self._keeper.config.push_token or self._keeper.config.push_token_file)
        return command in _FOR_ONLOOKERS

    def _push(self, command: str, arguments: dict[str, Any], client: ControlClient) -> None:
        try:
            letter = _letter(command, arguments)
        except (TypeError, ValueError) as error:
            client.finish(Done(_EXIT_USAGE, error=f"{command}: {error}"))
            return
        self._keeper.connections.post.push(_Asker(client), [letter])

    def _rebalance(self, client: ControlClient) -> None:
        if why := self._keeper.cannot_balance():
            client.finish(Done(_EXIT_FAILED, error=f"cannot rebalance: {why}"))
            return

        def done(loads: list[int]) -> None:
            client.finish(Done(0, {"connections": loads}))

        self._keeper.balancing.balance(done)

    def _drain(self, arguments: dict[str, Any], client: ControlClient) -> None:
        pace = arguments.get("pace", 0.0)
        is_number = isinstance(pace, int | float) and not isinstance(pace, bool)
        if not is_number or not 0 <= pace <= MOST_PACE:
            error = f"drain takes a pace of connections a second, up to {MOST_PACE}, not {pace!r}"
            client.finish(Done(_EXIT_USAGE, error=error))
            return
        if pace:
            client.progress(f"draining: accepting nothing, ending {pace:g} connections a second")
        else:
            client.progress("draining: accepting nothing, serving what is open")
        self._keeper.drain(pace)

    def _disconnect(self, arguments: dict[str, Any], client: ControlClient) -> None:
        what, force = arguments.get("what"), arguments.get("force", False)
        try:
            what = check_text("an id or a name", what)
            timeout = _timeout(arguments, DISCONNECT_PATIENCE, LONGEST_PATIENCE)
        except (TypeError, ValueError) as error:
            client.finish(Done(_EXIT_USAGE, error=f"disconnect: {error}"))
            return

        def told(name: str, outcome: str) -> None:
            client.finish(_done(DisconnectReport(outcome=outcome, id=name)))

        self._keeper.disconnecting.disconnect(what, force=force is True, timeout=timeout, told=told)

    def _words(self, arguments: dict[str, Any], client: ControlClient) -> None:
        what, beginning = (str(arguments.get(key, "")) for key in ("what", "beginning"))
        try:
            client.finish(_done(_snapshots.words(self._keeper, what, beginning)))
        except ValueError as error:
            client.finish(Done(_EXIT_USAGE, error=f"words: {error}"))

    def _live(self, arguments: dict[str, Any], client: ControlClient) -> None:
        most = arguments.get("most")
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= _MOST_LIVE:
            error = f"live takes a number of connections, 1 to {_MOST_LIVE}, not {most!r}"
            client.finish(Done(_EXIT_USAGE, error=error))
        else:
            client.finish(_done(_snapshots.live(self._keeper, self._name, most)))

    def _connections_part(self, arguments: dict[str, Any], client: ControlClient) -> None:
        try:
            part, parts = _part_in(arguments)
            if _snapshots.open_connections(self._keeper) > parts * _MOST_LIVE:
                raise ValueError(f"{parts} parts are too few: one has {_MOST_LIVE} at the most")
        except ValueError as error:
            client.finish(Done(_EXIT_USAGE, error=f"connections-part: {error}"))
        else:
            client.finish(_done(_snapshots.connections_part(self._keeper, part, parts)))

    def _reload(self, arguments: dict[str, Any], client: ControlClient) -> None:
        if self._keeper.order is not None:
            client.finish(Done(_EXIT_FAILED, error="cannot reload: the server is stopping"))
            return
        if self._keeper.reloads.coming is not None:
            client.progress("a reload is under way: this one follows it")

        def done(outcome: RolloutOutcome) -> None:
            if outcome.error:
                client.finish(Done(outcome.exit_code, None, outcome.error))
                return
            self._tell_cost(client, outcome.generation, waits=bool(arguments.get("wait")))

        self._keeper.reload(done)

    def _tell_cost(self, client: ControlClient, generation: int, *, waits: bool) -> None:
        """Tell what the reload to this generation costs, or has cost once the earlier has gone."""
        cost = _snapshots.reload_cost(self._keeper, generation)
        if not waits:
            client.finish(_done(cost))
            return
        stay = sum(each.connections for each in cost.stays)
        client.progress(
            f"generation {generation} serves; waiting for the earlier one, {cost.seconds:g} s at"
            f" most: of its connections {cost.moves} are to move, {stay} to stay"
        )

        def gone(fate: Fate) -> None:
            client.finish(_done(_snapshots.reload_report(cost, fate)))

        self._keeper.superseded.when_gone(generation, gone)

    def _forecast(self, client: ControlClient) -> None:
        keeper = self._keeper

        def told(silent: list[Worker]) -> None:
            client.finish(_done(_snapshots.reload_forecast(keeper, silent)))

        keeper.call_roll(told)

    def _upgrade(self, client: ControlClient) -> None:
        if self._keeper.order is None:
            client.progress(
                "an upgrade is under way: this one is the same"
                if self._keeper.upgrades.active
                else "a reload is under way: the upgrade follows it"
                if self._keeper.reloads.coming is not None
                else "checking the new version"
            )

        def refused(outcome: RolloutOutcome) -> None:
            client.finish(Done(outcome.exit_code, None, outcome.error))

        self._keeper.upgrade(refused)

    def finish_upgrade(self, waiting: Sequence[ControlClient]) -> None:
        """Have the workers follow the keeper, which is of a new version now; answer the clients."""
        version = self._keeper.version
        for client in waiting:
            client.progress(f"the keeper is upgraded to {version}; its workers follow")

        def done(outcome: RolloutOutcome) -> None:
            error = (
                f"the keeper is upgraded to {version}, but its workers are not, and serve on:"
                f" {outcome.error}"
            )
            for client in waiting:
                if outcome.error:
                    client.finish(Done(outcome.exit_code, None, error))
                elif client.command == "upgrade":
                    client.finish(_done(_snapshots.upgrade_report(self._keeper)))
                else:
                    waits = client.arguments.get("wait") is True
                    self._tell_cost(client, outcome.generation, waits=waits)

        self._keeper.finish_upgrade(done)

    def _scale(self, arguments: dict[str, Any], client: ControlClient) -> None:
        workers = arguments.get("workers")
        if (
            not isinstance(workers, int)
            or isinstance(workers, bool)
            or not 1 <= workers <= MOST_WORKERS
        ):
            error = f"scale takes a number of workers, 1 to {MOST_WORKERS}, not {workers!r}"
            client.finish(Done(_EXIT_USAGE, error=error))
        elif self._keeper.order is not None:
            client.finish(Done(_EXIT_FAILED, error="cannot scale: the server is stopping"))
        else:
            self._keeper.scale(workers)
            client.finish(Done(0, {"workers": workers}))


class _Asker:
    """A client that waits to be told what becomes of its letter."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def tell(self, answer: LetterTold) -> None:
        if self._client.command == "who":
            found = [
                PresenceReport(
                    node=each.node,
                    id=each.id,
                    epoch=each.epoch,
                    name=each.name,
                    member=each.member,
                )
                for each in answer.found
            ]
            self._client.finish(_done(PresentReport(found=found, silent=answer.silent)))
        elif self._client.command == "publish":
            report = PublishReport(delivered=answer.delivered, failed=answer.failed)
            self._client.finish(_done(report))
        else:
            outcome = PushOutcome(answer.outcome).text
            told = PushReport(outcome=outcome, id=answer.id, epoch=answer.epoch, node=answer.node)
            self._client.finish(_done(told))


def _letter(command: str, arguments: dict[str, Any]) -> Letter:
    """Return the letter that is asked for.  Raises TypeError, ValueError."""
    what = "a group" if command == "publish" else "a name"
    to = check_text(what, arguments.get("to"))
    encoded = arguments.get("data", "" if command == "who" else None)
    if not isinstance(encoded, str):
        raise TypeError(f"data is base64, not {type(encoded).__name__}")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise ValueError("data is base64, and this is not") from None
    timeout = _timeout(arguments, PATIENCE, LONGEST_PATIENCE)
    until = time.monotonic_ns() + int(timeout * 1e9)
    asks = command == "who"
    return Letter(0, to, check_message(data), until, group=command == "publish", asks=asks)


def _part_in(arguments: dict[str, Any]) -> tuple[int, int]:
    """Return which part of how many is asked for.  Raises ValueError."""
    part, parts = arguments.get("part"), arguments.get("parts")
    if type(parts) is not int or not 1 <= parts <= _MOST_PARTS or parts.bit_count() != 1:
        raise ValueError(f"parts is a power of two, 1 to {_MOST_PARTS}, not {parts!r}")
    if type(part) is not int or not 0 <= part < parts:
        raise ValueError(f"part is a number from 0 to {parts - 1}, not {part!r}")
    return part, parts


def _timeout(arguments: dict[str, Any], usual: float, longest: float) -> float:
    """Return how many seconds a client waits.  Raises TypeError, ValueError."""
    timeout = arguments.get("timeout", usual)
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout is a number of seconds, not {timeout!r}")
    if not 0 <= timeout <= longest:
        raise ValueError(f"timeout is 0 to {longest:.0f} seconds, not {timeout}")
    return timeout


def _done(result: object) -> Done:
    return Done(0, result)
