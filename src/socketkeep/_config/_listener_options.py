"""Options of one listener: ``ADDRESS,name=value,…``, as --bind and its TOML key take them.

Each is declared once, in `LISTENER_OPTIONS`: its name, its kind, and the sorts of listeners that it
is for.  One that is not given has the value of the server's option that it names as its default.
"""

# Without `from __future__ import annotations`: as texts they would be compiled by each process.
import os
import re
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from socketkeep._base._mistakes import OptionError, nearest
from socketkeep._config._listener_settings import ListenerSettings, TlsSettings
from socketkeep._config._options import (
    DURATION,
    FLAG,
    KEEPALIVE,
    NETWORKS,
    NUMBER,
    PATH,
    PATHS,
    PERMISSIONS,
    RATE,
    SIZE,
    TEXT,
    TEXTS,
    Kind,
    Option,
)

Sort = Literal["TCP", "Unix", "descriptor"]

PROXY_PROTOCOL: Final = ("off", "on", "optional")
TLS_VERSIONS: Final = ("1.2", "1.3")
_LONGEST_ALPN: Final = 255  # bytes of one protocol's name, RFC 7301

_OPTION: Final = re.compile(r"([a-z][a-z0-9-]*)=(.*)", re.DOTALL)


def check_networks(networks: list[str]) -> None:
    """Raise ValueError unless each is a network, in CIDR notation, or an address."""
    from ipaddress import ip_network  # for who names one

    for text in networks:
        try:
            ip_network(text)
        except ValueError:
            try:
                meant = f" (did you mean {ip_network(text, strict=False)}?)"
            except ValueError:
                meant = ""
            raise ValueError(
                f"expected a network such as 10.0.0.0/8 or an address, got {text!r}{meant}"
            ) from None


def _check_files(paths: list[str]) -> None:
    if not all(paths):
        raise ValueError("expected the path of a PEM file, got ''")


def _check_file(path: str) -> None:
    _check_files([path])


def _check_account(name: str) -> None:
    if not name:
        raise ValueError("expected a name or a number, got ''")


def _check_alpn(names: list[str]) -> None:
    for name in names:
        if not 1 <= len(name.encode()) <= _LONGEST_ALPN:
            raise ValueError(f"expected the name of a protocol such as h2, got {name!r}")


class ListenerOption(msgspec.Struct, frozen=True):
    """One option of a listener.

    default: the key of the server's option that has its value for listeners which do not say; "":
    there is none, and what holds then is said by `ListenerSettings`.
    of_tls: it means nothing without ``tls``.
    sorts: the listeners that it is for; `elsewhere` says what holds for the others.
    """

    name: str
    kind: Kind
    default: str
    help: str
    choices: tuple[str, ...] = ()
    check: Callable[[Any], None] | None = None
    minimum: int | None = None
    sorts: tuple[Sort, ...] = ("TCP", "Unix", "descriptor")
    elsewhere: str = ""
    of_tls: bool = False

    def read(self, texts: list[str], source: str) -> Any:
        """Return the checked value of what stands behind its name, each time that it is given."""
        declared = Option(
            self.kind, (), "", choices=self.choices, check=self.check, minimum=self.minimum
        )
        place = f"{source}: {self.name}"
        if self.kind.is_list:
            return declared.from_texts(tuple(texts), place)
        if len(texts) > 1:
            raise OptionError(f"{place} is given twice")
        return declared.from_text(texts[0], place)


_NO_TLS_THERE: Final = "what stays on this machine is not encrypted"


def _of_tls(name: str, kind: Kind, about: str, **more: Any) -> ListenerOption:
    """Return an option that says how TLS is spoken."""
    return ListenerOption(
        *(name, kind, "", about),
        sorts=("TCP", "descriptor"),
        elsewhere=_NO_TLS_THERE,
        of_tls=True,
        **more,
    )


_NO_FILE_THERE: Final = "only a Unix socket has a file"

LISTENER_OPTIONS: Final = (
    ListenerOption(
        "proxy",
        TEXT,
        "proxy_protocol",
        "Whether connections begin with a PROXY header, as `--proxy-protocol` has it.",
        choices=PROXY_PROTOCOL,
    ),
    ListenerOption(
        "proxy-from",
        NETWORKS,
        "proxy_from",
        "A network of proxies, as `--proxy-from` has them; given again for each further one.",
        check=check_networks,
        sorts=("TCP", "descriptor"),
        elsewhere="whoever may connect is believed there, see --unix-mode",
    ),
    ListenerOption(
        "max-per-address",
        NUMBER,
        "max_per_address",
        "How many connections one address may have, as `--max-per-address` has it; 0: no limit"
        " here.",
        minimum=0,
    ),
    ListenerOption(
        "accept-rate",
        RATE,
        "accept_rate",
        "How fast connections are accepted here, as `--accept-rate` has it, and counted for this"
        " listener alone; off: as fast as they come.",
    ),
    ListenerOption(
        "accept-rate-per-address",
        RATE,
        "accept_rate_per_address",
        "How fast new connections of one address are served, as `--accept-rate-per-address` has"
        " it; off: as fast as they come.",
    ),
    ListenerOption(
        "receive-rate",
        SIZE,
        "receive_rate",
        "How many bytes a second are received of each connection, as `--receive-rate` has it; 0:"
        " as they come.",
        minimum=0,
    ),
    ListenerOption(
        "first-bytes-timeout",
        DURATION,
        "first_bytes_timeout",
        "How long a connection may send nothing, as `--first-bytes-timeout` has it; 0: for ever.",
        minimum=0,
    ),
    ListenerOption(
        "login-timeout",
        DURATION,
        "login_timeout",
        "How long a connection may go on, as `--login-timeout` has it; 0: for ever.",
        minimum=0,
    ),
    ListenerOption(
        "allow",
        NETWORKS,
        "allow",
        "A network whose connections are served, as `--allow` has them; given again for each"
        " further one.",
        check=check_networks,
    ),
    ListenerOption(
        "deny",
        NETWORKS,
        "deny",
        "A network whose connections are not served, as `--deny` has them; given again for each"
        " further one.",
        check=check_networks,
    ),
    ListenerOption(
        "tcp-keepalive",
        KEEPALIVE,
        "tcp_keepalive",
        "When a silent peer is asked whether it is there, as `--tcp-keepalive` has it.",
        sorts=("TCP", "descriptor"),
        elsewhere="the end of a peer on this machine is seen at once",
    ),
    ListenerOption(
        "tcp-user-timeout",
        DURATION,
        "tcp_user_timeout",
        "How long what was sent may be unacknowledged, as `--tcp-user-timeout` has it.",
        sorts=("TCP", "descriptor"),
        elsewhere="the end of a peer on this machine is seen at once",
    ),
    ListenerOption(
        "tcp-nodelay",
        FLAG,
        "tcp_nodelay",
        "Whether small sends go out at once, as `--tcp-nodelay` has it.",
        sorts=("TCP", "descriptor"),
        elsewhere="what is sent is there at once",
    ),
    ListenerOption(
        "tcp-fastopen",
        NUMBER,
        "tcp_fastopen",
        "How many clients may send along with their first packet, as `--tcp-fastopen` has it; 0:"
        " none.",
        minimum=0,
        sorts=("TCP", "descriptor"),
        elsewhere="there is no handshake to save",
    ),
    ListenerOption(
        "rcvbuf",
        SIZE,
        "rcvbuf",
        "The receive buffer, as `--rcvbuf` has it.",
        sorts=("TCP", "descriptor"),
        elsewhere="each end of a Unix connection has buffers of its own",
    ),
    ListenerOption(
        "sndbuf",
        SIZE,
        "sndbuf",
        "The send buffer, as `--sndbuf` has it.",
        sorts=("TCP", "descriptor"),
        elsewhere="each end of a Unix connection has buffers of its own",
    ),
    ListenerOption(
        "mode",
        PERMISSIONS,
        "unix_mode",
        "The permissions of the socket's file, as `--unix-mode` has them.",
        sorts=("Unix",),
        elsewhere=_NO_FILE_THERE,
    ),
    ListenerOption(
        "user",
        TEXT,
        "",
        "The owner of the socket's file, a name or a number; without it the user that the server is"
        " started as.",
        check=_check_account,
        sorts=("Unix",),
        elsewhere=_NO_FILE_THERE,
    ),
    ListenerOption(
        "group",
        TEXT,
        "",
        "The group of the socket's file, a name or a number; without it the one that files get"
        " there.",
        check=_check_account,
        sorts=("Unix",),
        elsewhere=_NO_FILE_THERE,
    ),
    ListenerOption(
        "tls",
        PATHS,
        "",
        "Connections are TLS: the PEM file of a certificate, with its chain.  Given again for each"
        " further one, each with its `key`; the client's name for the server (SNI) chooses, and"
        " the first is for those whose name none has.",
        check=_check_files,
        sorts=("TCP", "descriptor"),
        elsewhere=_NO_TLS_THERE,
    ),
    _of_tls(
        "key",
        PATHS,
        "The PEM file of a certificate's private key, in the order of `tls`; without any the keys"
        " are in the certificates' files.",
        check=_check_files,
    ),
    _of_tls(
        "start-tls",
        FLAG,
        "Whether connections begin in plain text, and TLS when the handler says `start_tls()`.",
    ),
    _of_tls(
        "key-password-file",
        PATH,
        "The file with the pass phrase of the private keys; its last line break is none of it.",
        check=_check_file,
    ),
    _of_tls(
        "client-ca",
        PATH,
        "The PEM file of the authorities one of which must have signed the client's certificate;"
        " without it clients need none.",
        check=_check_file,
    ),
    _of_tls(
        "min-version",
        TEXT,
        "The oldest version of TLS that is spoken: 1.2, unless it is said.",
        choices=TLS_VERSIONS,
    ),
    _of_tls(
        "alpn",
        TEXTS,
        "A protocol that is offered to clients (ALPN); given again for each further one, the best"
        " first.",
        check=_check_alpn,
    ),
    _of_tls(
        "ciphers",
        TEXT,
        "The ciphers of TLS 1.2, in OpenSSL's words, with colons between them; those of TLS 1.3"
        " are always the library's own.",
    ),
)
_BY_NAME: Final = {declared.name: declared for declared in LISTENER_OPTIONS}


def unix_owner(settings: ListenerSettings) -> tuple[int, int]:
    """Return the uid and the gid that the socket's file is to have, -1 for those not said.

    Raises OptionError.
    """
    from socketkeep._base._accounts import group_id, user_id  # for who names one

    try:
        return (
            user_id(settings.user) if settings.user else -1,
            group_id(settings.group) if settings.group else -1,
        )
    except ValueError as error:
        raise OptionError(str(error)) from None


class Bound(msgspec.Struct, frozen=True):
    """An address to listen on, and what is said of that listener; `given` is by option's name."""

    address: str
    given: dict[str, Any] = {}


def parse_listener(text: str) -> Bound:
    """Return the address and the options that `text` has.

    The address is as it is written, and not looked at.  A comma may be a Unix path's own: what
    follows the last of them is an option there only if its name is one, or is near to one.

    Raises OptionError, whose text names the listener, for an option that is unknown, given twice,
    not for that sort of listener, or whose value will not do.
    """
    address, *parts = text.split(",")
    if text.startswith("unix:"):
        address, parts = _split_path(text)
    texts: dict[str, list[str]] = {}
    for part in parts:
        match = _OPTION.fullmatch(part)
        if match is None:
            raise OptionError(f"{text}: expected an option, name=value, got {part!r}")
        name, value = match[1], match[2]
        if name not in _BY_NAME:
            near = nearest(name, tuple(_BY_NAME))
            known = near or f" ({', '.join(_BY_NAME)} are known)"
            raise OptionError(f"{text}: a listener has no option {name}{known}")
        texts.setdefault(name, []).append(value)
    sort = sort_of(address)
    for name in texts:
        declared = _BY_NAME[name]
        if sort not in declared.sorts:
            raise OptionError(f"{text}: {name} is not for {address}: {declared.elsewhere}")
        if declared.elsewhere == _NO_FILE_THERE and address.startswith("unix:@"):
            raise OptionError(f"{text}: {name} is not for {address}: it has no file")
    given = {name: _BY_NAME[name].read(each, text) for name, each in texts.items()}
    _check_tls(text, given)
    return Bound(address, given)


def tls_settings(given: dict[str, Any]) -> TlsSettings | None:
    """Return what a listener's own options say of TLS; None: nothing."""
    if "tls" not in given:
        return None
    certificates = given["tls"]
    return TlsSettings(
        certificates=tuple(zip(certificates, given.get("key", certificates), strict=True)),
        key_password_file=given.get("key-password-file", ""),
        client_ca=given.get("client-ca", ""),
        min_version=given.get("min-version", "1.2"),
        alpn=tuple(given.get("alpn", ())),
        ciphers=given.get("ciphers", ""),
        asked=given.get("start-tls", False),
    )


def with_whole_paths(text: str, directory: str) -> str:
    """Return a listener's text with the paths in its options taken from `directory`.

    Raises OptionError where that cannot be said: a comma would end the path.
    """
    address, given = text, parse_listener(text).given
    if not any(_BY_NAME[name].kind in (PATH, PATHS) for name in given):
        return text
    address, *parts = text.split(",")
    whole = [address]
    for part in parts:
        name, _, value = part.partition("=")
        if _BY_NAME[name].kind in (PATH, PATHS):
            value = os.path.join(directory, value)
            if "," in value:
                raise OptionError(f"{text}: {name}: a path with a comma cannot be said: {value}")
        whole.append(f"{name}={value}")
    return ",".join(whole)


def _check_tls(text: str, given: dict[str, Any]) -> None:
    if "tls" not in given:
        alone = next((name for name in given if _BY_NAME[name].of_tls), None)
        if alone is not None:
            raise OptionError(f"{text}: {alone} means nothing without tls=CERTIFICATE")
        return
    certificates, keys = given["tls"], given.get("key")
    if keys is not None and len(keys) != len(certificates):
        raise OptionError(
            f"{text}: each tls needs its key, in the same order, and there are"
            f" {len(certificates)} of the one and {len(keys)} of the other"
        )


def _split_path(text: str) -> tuple[str, list[str]]:
    parts: list[str] = []
    while True:
        rest, comma, last = text.rpartition(",")
        match = _OPTION.fullmatch(last)
        if not comma or match is None:
            return text, parts
        if match[1] not in _BY_NAME and not nearest(match[1], tuple(_BY_NAME)):
            return text, parts
        parts.insert(0, last)
        text = rest


def sort_of(address: str) -> Sort:
    """Return what sort of a listener an address of --bind makes."""
    if address.startswith("unix:"):
        return "Unix"
    return "descriptor" if address.startswith("fd://") else "TCP"


def listener_options_markdown() -> str:
    """Return the reference table of a listener's options."""
    rows = "".join(
        f"| `{each.name}` | {_values(each)} | {', '.join(each.sorts)} | {each.help} |\n"
        for each in LISTENER_OPTIONS
    )
    return f"| option | value | listeners | |\n|---|---|---|---|\n{rows}"


def _values(declared: ListenerOption) -> str:
    if declared.choices:
        return ", ".join(f"`{choice}`" for choice in declared.choices)
    return "may be given several times" if declared.kind.is_list else declared.kind.expected
