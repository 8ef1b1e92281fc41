"""The options of one listener as they were chosen."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

ProxyProtocol: TypeAlias = Literal["off", "on", "optional"]
TlsVersion: TypeAlias = Literal["1.2", "1.3"]

#: A peer that has said nothing for a minute is asked, and is given up two minutes after its last
#: word at the latest: the times of most proxies and balancers are longer.
TCP_KEEPALIVE: Final = "60:15:3"
#: Who may send a PROXY header unless something else is said: proxies on this machine.
PROXY_FROM: Final = ("127.0.0.0/8", "::1/128")
#: Of the files of Unix sockets: everybody may connect who may enter the directory.
UNIX_MODE: Final = "0666"


class TlsSettings(NamedTuple):
    """The TLS of one listener.

    certificates: PEM files of a certificate and of its key, which may be the same; the first is for
    clients whose name none of them has.
    asked: connections begin in plain text, and a handler asks for TLS.
    """

    certificates: tuple[tuple[str, str], ...]
    key_password_file: str = ""
    client_ca: str = ""
    min_version: TlsVersion = "1.2"
    alpn: tuple[str, ...] = ()
    ciphers: str = ""
    asked: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it is read from."""
        pairs = (path for pair in self.certificates for path in pair)
        return tuple(filter(None, dict.fromkeys((*pairs, self.key_password_file, self.client_ca))))


class ListenerSettings(NamedTuple):
    """The options of one listener; tls: None where its connections are plain.

    mode, user, group: of the file of a Unix socket.  accepts_alone: its accept rate is its own, not
    its part in the server's.

    A template is told it as an array (`LoadTarget.settings`), so fields are only appended.
    """

    tls: TlsSettings | None = None
    mode: str = UNIX_MODE
    user: str = ""
    group: str = ""
    proxy: ProxyProtocol = "off"
    proxy_from: tuple[str, ...] = PROXY_FROM
    max_per_address: int = 0
    accept_rate: str = "off"
    accept_rate_per_address: str = "off"
    accepts_alone: bool = False
    receive_rate: int = 0
    first_bytes_timeout: float = 0.0
    login_timeout: float = 0.0
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    tcp_keepalive: str = TCP_KEEPALIVE
    tcp_user_timeout: float = 0.0
    tcp_nodelay: bool = True
    tcp_fastopen: int = 0
    rcvbuf: int = 0
    sndbuf: int = 0

    @property
    def of_edges(self) -> bool:
        """Return whether edges accept from it, and not workers."""
        return self.tls is not None and not self.tls.asked
