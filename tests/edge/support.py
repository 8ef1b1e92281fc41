"""A server with a TLS listener, its certificates, and clients that ask it again and again."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trustme

from socketkeep import Connection, TlsInfo
from socketkeep._edge import _certificates
from tests.harness import Server, read_reply
from tests.harness.configuration import tls_settings
from tests.harness.seam import leased
from tests.harness.tellers import write_teller

#: Seconds that a handshake may take, and how many are done at a time.
HANDSHAKE_TIME: Final = 10.0
MOST_SHAKING: Final = 4096
#: A listener's TLS cannot be had from its files.
BadTls: Final = _certificates.BadTls
#: As much of a connection's bytes as is moved at a time.
CHUNK: Final = 16384
AUTHORITY: Final = trustme.CA()
HOST: Final = "keeper.example"
_EACH_SECOND: Final = 600  # questions of a whole crowd, at most

TELLS: Final = """
import json
import os

from socketkeep import AsyncConnection, Connection, resumable


def facts(conn, count):
    tls, told = conn.tls, None
    if tls is not None:
        der = tls.getpeercert(True)
        told = {
            "version": tls.version(), "cipher": tls.cipher(), "alpn": tls.selected_alpn_protocol(),
            "sni": tls.server_hostname, "resumed": tls.session_reused,
            "certificate": tls.getpeercert(), "der": der and len(der),
        }
    return json.dumps({
        "peer": conn.peer, "local": conn.local, "tls": told, "proxy": conn.proxy is not None,
        "attached": conn.attached, "pid": os.getpid(), "count": count, "ppid": os.getppid(),
    }).encode()

"""


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate and its key as files; `text` is what --bind has behind the address."""

    certificate: Path
    key: Path

    @property
    def text(self) -> str:
        return f"tls={self.certificate},key={self.key}"

    def put(self, issued: trustme.LeafCert) -> None:
        """Write them, each whole at once."""
        for path, blobs in (
            (self.certificate, issued.cert_chain_pems),
            (self.key, [issued.private_key_pem]),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            os.replace(new, path)


def server_tls(*files: Files, wary: bool = True, shares: bool = False, **more: Any) -> Any:
    """Return the TLS of a listener that has these certificates; more: what --bind may have."""
    pairs = [(str(each.certificate), str(each.key)) for each in files]
    return _certificates.ServerTls(tls_settings(*pairs, **more), wary=wary, shares=shares)


def facts_in(header: bytes) -> TlsInfo | None:
    """Return what a handler is told of TLS that ended in the edge; None: nothing."""
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours, **leased(id="1-1-1", proxy=header)) as conn:
        return conn.tls


def issue(directory: Path, *names: str, stem: str = "server", **more: Any) -> Files:
    """Write a certificate for the names to the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    files = Files(directory / f"{stem}.pem", directory / f"{stem}.key")
    files.put(AUTHORITY.issue_cert(*(names or (HOST,)), **more))
    return files


def serving(
    directory: Path,
    model: str,
    *options: str,
    tls: str = "",
    decorated: str = "@resumable",
    target: str = "",
    more: Sequence[str] = (),
) -> Server:
    """Return a server, yet to be entered, whose first listener has TLS.

    tls: what stands behind its address.  more: further listeners.
    """
    target = target or write_teller(directory, TELLS, model, decorated)
    bind = [f"127.0.0.1:0,{tls or issue(directory).text}", *more]
    return Server(directory, target, "-k", model, *options, bind=bind)


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def client_context(**settings: Any) -> ssl.SSLContext:
    """Return a client's context that trusts the tests' authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def begin(
    address: str,
    context: ssl.SSLContext | None = None,
    name: str | None = HOST,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    """Connect and shake hands."""
    sock = socket.create_connection(host_and_port(address), timeout=20)
    try:
        return (context or client_context(check_hostname=name is not None)).wrap_socket(
            sock, server_hostname=name, session=session, suppress_ragged_eofs=False
        )
    except BaseException:
        sock.close()
        raise


def ask(sock: socket.socket, word: bytes = b"who") -> Any:
    """Ask the server what it knows of this connection."""
    sock.sendall(word + b"\n")
    told = read_reply(sock)
    assert told.startswith(word + b" "), told
    return json.loads(told[len(word) + 1 :])


@dataclass(slots=True)
class Crowd:
    """Clients that ask again and again; each answer must be the one to its question, in order.

    answers: how many came.  attached: by why the handler had been called.  cut: what went wrong.
    again: whether an answer may come twice, as after the death of who had given it.
    """

    again: bool = False

    answers: int = 0
    attached: dict[str, int] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: bool = False

    def wait_answers(self, count: int, timeout: float = 40.0) -> None:
        """Wait until so many more answers have come."""
        with self._changed:
            goal = self.answers + count
            reached = self._changed.wait_for(lambda: self.answers >= goal or self.cut, timeout)
        assert not self.cut, self.cut[:5]
        assert reached, f"{self.answers} of {goal} answers"

    async def _ask_on(self, address: str, context: ssl.SSLContext, pause: float) -> None:
        host, port = host_and_port(address)
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=HOST
        )
        number = 0
        while not self._stopping:
            number += 1
            writer.write(b"%d\n" % number)
            while True:
                line = await asyncio.wait_for(reader.readline(), 30)
                word, _, facts = line.partition(b" ")
                if not (self.again and word == b"%d" % (number - 1)):
                    break
            if not line.endswith(b"\n") or word != b"%d" % number:
                raise ConnectionError(f"question {number}, answer {line[:60]!r}")
            told = json.loads(facts)
            if told["count"] != number:
                raise ConnectionError(f"question {number} was counted as {told['count']}")
            with self._changed:
                self.answers += 1
                why = told["attached"]
                self.attached[why] = self.attached.get(why, 0) + 1
                self._changed.notify_all()
            await asyncio.sleep(pause)  # so that the crowd does not take the server's processor
        writer.close()
        await writer.wait_closed()

    async def _all(self, address: str, clients: int, context: ssl.SSLContext) -> None:
        async def one() -> None:
            try:
                await self._ask_on(address, context, clients / _EACH_SECOND)
            except Exception as error:
                with self._changed:
                    self.cut.append(f"{type(error).__name__}: {error}")
                    self._changed.notify_all()

        await asyncio.gather(*(one() for _ in range(clients)))


@contextmanager
def crowd(
    address: str, clients: int, context: ssl.SSLContext | None = None, *, again: bool = False
) -> Iterator[Crowd]:
    """Have clients ask until the end of the block; then none may have been cut."""
    asking = Crowd(again=again)
    context = context or client_context()
    thread = threading.Thread(
        target=lambda: asyncio.run(asking._all(address, clients, context)), name="crowd"
    )
    thread.start()
    try:
        asking.wait_answers(clients)
        yield asking
    finally:
        asking._stopping = True
        thread.join(60)
    assert asking.cut == []


def edges(server: Server) -> list[int]:
    """Return the pids of a server's edges."""
    found = server.processes().items()
    return [pid for pid, command in found if "socketkeep._edge" in command or ": edge" in command]
