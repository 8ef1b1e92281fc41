"""Certificates: read from their files, tried before they are used, and chosen by the client's name.

The context that connections begin with has no certificate: it has the keys of the session tickets,
which must outlive a change of certificates, and hands each connection on to the context of the
certificate that fits the name (SNI), before anything is chosen by it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from socketkeep._config._listener_settings import TlsSettings
from socketkeep._edge._ticket_keys import NAME_SIZE, derived, set_keys

_PEM_BLOCK: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)
#: A client may send any text as the name that it asks for; what is no host's is not passed on.
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_MOST_BYTES: Final = 16 << 20  # of a file: no PEM file is as large
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# Of X509_verify_cert_error_string(3).
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SECRET_SIZE: Final = 32
_ROUNDS: Final = 10  # a handshake has two or three
#: Of OpenSSL's words those that say little to who has not written it.
_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "the key does not fit the certificate",
    "NO_START_LINE": "there is no PEM of the kind that was expected",
    "PEM lib": "no such PEM can be read there",
    "No cipher can be selected": "there is no such cipher",
}


class BadTls(Exception):
    """TLS cannot be spoken as the options say; the text is one line that names the file."""


#: What each file has, by its path.
Contents: TypeAlias = dict[str, bytes]
#: Returns what is in the file at a path; the option that names it is for the text of a BadTls.
Read: TypeAlias = Callable[[str, str], bytes]


def read_file(path: str, option: str) -> bytes:
    """Return what is in a file.  Raises BadTls."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadTls(f"{option}: cannot read {path}: {error.strerror or error}") from None
    if len(data) > _MOST_BYTES:
        raise BadTls(f"{option}: {path} has more than {_MOST_BYTES} bytes")
    return data


def read_given(fd: int) -> bytes | OSError:
    """Return what is in a file that another process has opened, and may read itself meanwhile."""
    data = b""
    try:
        while len(data) <= _MOST_BYTES and (more := os.pread(fd, _MOST_BYTES, len(data))):
            data += more
    except OSError as error:
        return error
    return data if len(data) <= _MOST_BYTES else OSError(errno.EFBIG, os.strerror(errno.EFBIG))


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate.

    names: of hosts, with "*" for one label.  expires: when, in seconds of the epoch; 0: it had
    expired when it was read.
    """

    path: str
    names: tuple[str, ...]
    expires: int
    context: ssl.SSLContext


class EdgeObject(ssl.SSLObject):
    """The TLS of one connection, and the name that its client asked for."""

    asked_for: str | None = None


class ServerTls:
    """The TLS of one listener.  Raises BadTls.

    wary: a certificate that is not valid now is a mistake, too.  shares: the keys of session
    tickets can be set, so that all who know the same secrets take each other's.  read: how files
    are read.
    """

    def __init__(
        self,
        settings: TlsSettings,
        *,
        wary: bool,
        shares: bool = False,
        read: Read = read_file,
    ) -> None:
        self._settings = settings
        self._shares = shares
        self._read = read
        self._secrets: Sequence[bytes] = ()
        self._files = _contents(settings, read)
        self.certificates = _load(settings, self._files, wary=wary)
        self.use_secrets([os.urandom(_SECRET_SIZE)])

    def begin(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> EdgeObject:
        """Return the TLS of a new connection, the first of whose bytes have come."""
        context = self._begins[0][1]
        if len(self._begins) > 1:
            # A ticket has the name of its key in it.  It is not looked for where it would stand:
            # bytes at random are nowhere else, and who made them up gains nothing.
            first = incoming.read()
            incoming.write(first)
            context = next((each for name, each in self._begins if name in first), context)
        made = context.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(made, EdgeObject)
        return made

    def use_secrets(self, secrets: Sequence[bytes]) -> None:
        """Have new keys for session tickets.

        The first is for new tickets; those of the others are still taken, where keys can be shared.
        Elsewhere they are at random, and who has a ticket from before shakes hands in full.
        """
        self._secrets = secrets
        self._begins = [self._beginning(each) for each in secrets[: None if self._shares else 1]]

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all that it is read from."""
        return self._settings.files

    def renew(self) -> bool:
        """Read the files anew; return whether they have changed.

        Raises BadTls, and then nothing has changed.
        """
        files = _contents(self._settings, self._read)
        if files == self._files:
            return False
        self.certificates = _load(self._settings, files, wary=True)
        authorities = self._settings.client_ca
        changed = authorities and files[authorities] != self._files[authorities]
        self._files = files
        if changed:
            self.use_secrets(self._secrets)  # for whom nobody vouches any more may have a ticket
        return True

    def _beginning(self, secret: bytes) -> tuple[bytes, ssl.SSLContext]:
        """Return the context that connections begin with, and the name of its tickets' key."""
        context = _context(self._settings, self._files)
        context.sslobject_class = EdgeObject
        context.sni_callback = self._choose
        keys = derived(secret, self._purpose())
        if self._shares:
            set_keys(context, keys)
        return keys[:NAME_SIZE], context

    def _purpose(self) -> bytes:
        """Return what only those have in common who may take each other's tickets.

        A ticket says that its client has shown the certificate that was asked for.
        """
        settings = self._settings
        paths = "\0".join(path for pair in settings.certificates for path in pair)
        authorities = self._files[settings.client_ca] if settings.client_ca else b""
        return hashlib.sha256(paths.encode() + b"\0\0" + authorities).digest()

    def _choose(self, made: Any, name: str | None, _context: ssl.SSLContext) -> None:
        if name and _HOST.fullmatch(name):
            made.asked_for = name.lower()
        made.context = self._for_name(name).context

    def _for_name(self, name: str | None) -> Certificate:
        if name:
            lower = name.lower().rstrip(".")
            wild = f"*.{lower.partition('.')[2]}"
            for certificate in self.certificates:
                if lower in certificate.names or wild in certificate.names:
                    return certificate
        return self.certificates[0]


def check_tls(settings: TlsSettings) -> None:
    """Raise BadTls unless TLS can be spoken so, and clients would take each certificate now."""
    ServerTls(settings, wary=True)


def _load(settings: TlsSettings, files: Contents, *, wary: bool) -> list[Certificate]:
    found: list[Certificate] = []
    for path, key in settings.certificates:
        found.append(_certificate(settings, path, key, files, wary=wary))
        _check_names(found)
    return found


def _check_names(found: Sequence[Certificate]) -> None:
    """Raise BadTls when the last one is for a name that another is for, too."""
    for other in found[:-1]:
        for name in found[-1].names:
            if name in other.names:
                raise BadTls(f"tls: {found[-1].path}: {other.path} is for {name}, too")


def _certificate(
    settings: TlsSettings, path: str, key: str, files: Contents, *, wary: bool
) -> Certificate:
    context = _context(settings, files)
    password = _Password(settings, files)
    try:
        _load_chain(context, files[path], files[key], password)
    except ssl.SSLError as error:
        raise _not_loaded(path, key, password, error) from None
    told = _describe(files[path], files[key], password)
    if isinstance(told, str):
        if wary:
            raise BadTls(f"tls: {path}: {told}")
        return Certificate(path, (), 0, context)
    names = [value.lower() for kind, value in told.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        parts = (part for group in told.get("subject", ()) for part in group)
        names = [value.lower() for name, value in parts if name == "commonName"]
    expires = ssl.cert_time_to_seconds(told["notAfter"])
    return Certificate(path, tuple(names), expires, context)


def _load_chain(
    context: ssl.SSLContext, certificate: bytes, key: bytes, password: Callable[[], bytes]
) -> None:
    with _as_file(certificate) as path, _as_file(key) as key_path:
        context.load_cert_chain(path, key_path, password=password)


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Yield a path of what was read: `ssl` takes files alone, and these may be no more by now."""
    memfd = os.memfd_create("socketkeep-tls", os.MFD_CLOEXEC)
    try:
        with open(memfd, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{memfd}"
    finally:
        os.close(memfd)


def _context(settings: TlsSettings, files: Contents) -> ssl.SSLContext:
    """Return a context as the options say, but for the certificate.  Raises BadTls."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    # One side could keep the other computing for ever by asking for new keys.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # OpenSSL makes two; most clients use one at most, and each takes as long as to make the record.
    context.num_tickets = 1
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    if settings.ciphers:
        try:
            context.set_ciphers(settings.ciphers)
        except ssl.SSLError as error:
            raise BadTls(f"ciphers: {settings.ciphers!r}: {_words(error)}") from None
    if settings.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            with _as_file(files[settings.client_ca]) as path:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise BadTls(f"client-ca: {settings.client_ca}: {_words(error)}") from None
    return context


def _describe(
    certificate: bytes, key: bytes, password: Callable[[], bytes]
) -> dict[str, Any] | str:
    """Return the certificate as a client sees it that trusts it alone; or why that takes it not.

    Not by a parser of certificates, which the standard library has none of for others' use, but by
    a handshake in memory.  So what clients would refuse, and what cannot be spoken with, is told
    before any client meets it.
    """
    block = _PEM_BLOCK.search(certificate.decode("latin-1"))
    if block is None:
        return "there is no certificate in it"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_chain(server, certificate, key, password)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cadata=block[0])
        return _meet(client, server)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return "it has expired"
        if error.verify_code == _NOT_YET_VALID:
            return "it is not valid yet"
        return f"clients would refuse it: {error.verify_message}"
    except ssl.SSLError as error:
        return f"no handshake is possible with it: {_words(error)}"


def _meet(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_ROUNDS):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            if side is ours:
                told: dict[str, Any] = dict(ours.getpeercert() or {})
                return told
    raise ssl.SSLError("it does not end")


def _not_loaded(path: str, key: str, password: _Password, error: ssl.SSLError) -> BadTls:
    """Return what is wrong with a certificate and its key, which OpenSSL does not take."""
    words = _words(error)
    if password.asked and words != _REASONS["KEY_VALUES_MISMATCH"]:
        return BadTls(f"key-password-file: {password.path}: it has not the pass phrase of {key}")
    if key != path:
        return BadTls(f"tls: {path}, key {key}: {words}")
    hint = "; a key in another file is named by key=" if words == _REASONS["PEM lib"] else ""
    return BadTls(f"tls: {path}: {words}{hint}")


class _Password:
    """Gives the pass phrase: OpenSSL would ask a terminal for one that is missing.

    asked: it was.
    """

    def __init__(self, settings: TlsSettings, files: Contents) -> None:
        self.path = settings.key_password_file
        self.asked = False
        self._phrase = files[self.path] if self.path else None

    def __call__(self) -> bytes:
        self.asked = True
        if self._phrase is None:
            raise BadTls("key: it has a pass phrase: give key-password-file=FILE")
        return self._phrase.removesuffix(b"\n").removesuffix(b"\r")


def _contents(settings: TlsSettings, read: Read) -> Contents:
    options = {settings.key_password_file: "key-password-file", settings.client_ca: "client-ca"}
    options |= {key: "key" for _, key in settings.certificates}
    options |= {path: "tls" for path, _ in settings.certificates}
    return {path: read(path, options[path]) for path in settings.files}


def _words(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, in a line."""
    reason = getattr(error, "reason", None) or str(error)  # not each has one
    known = next((text for word, text in _REASONS.items() if word in reason), "")
    return known or reason.replace("_", " ").lower()
