"""The configuration of one server: every option of `socketkeep serve`, declared here alone."""

# Without `from __future__ import annotations`: as texts they would be compiled by each process.
import os
import re
from typing import Annotated, Any, Final, Literal

import msgspec

from socketkeep._config._listener_options import (
    LISTENER_OPTIONS,
    PROXY_PROTOCOL,
    check_networks,
    parse_listener,
    tls_settings,
)
from socketkeep._config._listener_settings import (
    PROXY_FROM,
    TCP_KEEPALIVE,
    UNIX_MODE,
    ListenerSettings,
    ProxyProtocol,
)
from socketkeep._config._options import (
    DURATION,
    FLAG,
    KEEPALIVE,
    LIMIT,
    LISTENERS,
    NETWORKS,
    NUMBER,
    PATH,
    PERMISSIONS,
    RATE,
    SIZE,
    TEXT,
    UMASK,
    Option,
    options_of,
)

_MOST_WINDOW_BITS: Final = 15  # RFC 7692, section 7.1.2.1

Model = Literal["auto", "fork", "prefork", "thread", "async"]
#: The model that a worker serves by, once "auto" is decided.
WorkerModel = Literal["fork", "prefork", "thread", "async"]
Loop = Literal["auto", "asyncio", "uvloop"]
Keep = Literal["none", "reload", "crash"]
Lifespan = Literal["auto", "on", "off"]
RequestLog = Literal["off", "common", "combined"]
WsResume = Literal["off", "on", "silent"]
OverLimit = Literal["reset", "close"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["human", "json"]

#: Workers of a model when --workers is 0.  A fork worker forks a process for each connection and
#: a thread or async worker serves many, so one is enough; a prefork worker serves one at a time.
DEFAULT_WORKERS: Final = {"fork": 1, "prefork": 8, "thread": 1, "async": 1}

#: More workers are a slip of the finger: each is a process, and four descriptors of the keeper's.
MOST_WORKERS: Final = 1000

#: More edges than processors do no more, and each takes the memory of an interpreter.
MOST_EDGES: Final = 256


#: More processes that wait are a slip of the finger: each has three descriptors in its worker.
MOST_SPARE: Final = 256


def _check_spare(spare: int) -> None:
    if spare > MOST_SPARE:
        raise ValueError(f"must be at most {MOST_SPARE}, got {spare}")


def _check_edges(edges: int) -> None:
    if edges > MOST_EDGES:
        raise ValueError(f"must be at most {MOST_EDGES}, got {edges}")


def _check_workers(workers: int) -> None:
    if workers > MOST_WORKERS:
        raise ValueError(f"must be at most {MOST_WORKERS}, got {workers}")


def _check_target(target: str) -> None:
    module, colon, attribute = target.rpartition(":")
    if attribute.endswith(")") and "(" in target:
        named, _, given = target.partition("(")
        without = "" if given == ")" else " (without arguments)"
        raise ValueError(f"--factory calls it{without}: give {named} --factory, not {target!r}")
    if not (colon and module and attribute):
        from socketkeep._config._proposal import proposal  # for who has left it out

        raise ValueError(
            f"expected package.module:attribute or path/file.py:attribute, got {target!r}"
            f"{proposal(target)}"
        )


def _worker_class(name: str) -> str:
    from socketkeep._config._other_servers import worker_class  # for who knows another server

    return worker_class(name)


def _check_guard(text: str) -> None:
    if text not in ("auto", "on", "off") and not text.startswith("unix:/"):
        raise ValueError(f"expected auto, on, off or unix:/PATH, got {text!r}")


def _check_bind(bind: list[str]) -> None:
    from socketkeep._base._address import InetAddress, UnixAddress, parse_bind

    if not bind:
        raise ValueError("expected at least one address")
    seen: dict[str, str] = {}  # each address as it was written
    hosts: dict[int, dict[str, str]] = {}  # by port: each host, as it was written
    for text in (parse_listener(each).address for each in bind):
        address = parse_bind(text)
        same = text
        if isinstance(address, InetAddress) and address.port:
            host = "::" if address.host in ("", "*") else address.host
            hosts.setdefault(address.port, {})[host] = text
            same = f"{host} {address.port}"
        elif isinstance(address, UnixAddress) and not address.abstract:
            same = f"unix:{os.path.abspath(address.path)}"
        if same in seen:
            also = f", as {seen[same]}" if seen[same] != text else ""
            raise ValueError(f"{text} is given twice{also}")
        seen[same] = text
    for written in hosts.values():
        _check_covered(written)


def _check_covered(hosts: dict[str, str]) -> None:
    """Raise ValueError when one of the addresses of a port takes in another.

    The kernel would refuse the second one as in use, by this very server.  "::" beside "0.0.0.0"
    is what everybody writes for both families: it is then of IPv6 alone (`serves_ipv6_alone`).
    """
    for host, text in hosts.items():
        literal = re.fullmatch(r"[0-9.]+", host) is not None
        cover = "0.0.0.0" if literal else "::" if ":" in host else ""
        if literal and "0.0.0.0" not in hosts:
            cover = "::"
        if cover in hosts and cover != host and host != "0.0.0.0":
            why = " (it serves IPv4 too)" if literal and cover == "::" else ""
            raise ValueError(f"{hosts[cover]}{why} covers {text}: leave one of them out")


def serves_ipv6_alone(text: str, bind: list[str]) -> bool:
    """Tell whether the address, of every interface, leaves IPv4 to another of these."""
    from socketkeep._base._address import InetAddress, parse_bind

    address = parse_bind(text)
    if not isinstance(address, InetAddress) or address.host not in ("", "*", "::"):
        return False
    return bool(address.port) and InetAddress("0.0.0.0", address.port) in map(parse_bind, bind)


def _check_forwarded_allow_ips(networks: list[str]) -> None:
    check_networks([text for text in networks if text not in ("*", "none")])
    if "none" in networks and len(networks) > 1:
        raise ValueError("none is nobody: leave the others out")


def _check_root_path(path: str) -> None:
    if path and (not path.startswith("/") or re.fullmatch(r"[!-~]+", path) is None):
        raise ValueError(f"expected a path such as /api, got {path!r}")


def _check_window_bits(bits: int) -> None:
    if bits > _MOST_WINDOW_BITS:
        raise ValueError(f"must be at most {_MOST_WINDOW_BITS}, got {bits}")


def _check_auto_response(pair: str) -> None:
    if pair and not (pair.partition("=")[0] and pair.partition("=")[2]):
        raise ValueError(f"expected REQUEST=RESPONSE such as ping=pong, got {pair!r}")


def _check_name(name: str) -> None:
    if name and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) is None:
        raise ValueError(
            f"expected at most 64 letters, digits, dots, dashes and underscores, got {name!r}"
        )


def rate_of(text: str) -> tuple[float, int] | None:
    """Return what an option of a rate says: how many a second, and how many at once; None: off."""
    if text == "off":
        return None
    rate, _, burst = text.partition(":")
    return float(rate), int(burst)


def _check_admin(address: str) -> None:
    from socketkeep._base._address import InetAddress, parse_bind

    if address and not isinstance(parse_bind(address), InetAddress):
        raise ValueError(f"expected host:port, as in 127.0.0.1:9000, got {address!r}")


def _check_admin_token(token: str) -> None:
    # What a header and a cookie can carry as it is; and a guess must be hopeless.
    if token and re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,512}", token) is None:
        raise ValueError("expected 16 to 512 letters, digits or characters of ._~+/=-")


def _check_cluster(servers: str) -> None:
    if not servers:
        return
    from urllib.parse import urlsplit  # for who has a cluster

    for url in servers.split(","):
        scheme, slashes, rest = url.partition("://")
        if scheme not in ("nats", "tls") or not slashes or not rest.rpartition("@")[2]:
            # Not as it is: it may have a password.
            raise ValueError(
                "expected nats://HOST[:PORT] or tls://HOST[:PORT], several with commas, got"
                f" {scheme}://… for one of them"
                if slashes
                else "expected nats://HOST[:PORT], several with commas: one has no nats:// in front"
            )
        try:
            _ = urlsplit(url).port
        except ValueError:
            raise ValueError("expected a port of 1 to 65535 in each URL") from None


def _check_cluster_name(name: str) -> None:
    if name and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) is None:
        raise ValueError(f"expected 1 to 64 letters, digits, dashes, underscores, got {name!r}")


def _check_umask(umask: str) -> None:
    if umask and int(umask, 8) & 0o700:
        raise ValueError(f"{umask} would keep the server from its own files: begin with 0")


def _check_control(path: str) -> None:
    if len(path.encode()) > 107:
        raise ValueError(
            f"the path of a Unix socket may have 107 bytes, this one has {len(path.encode())}"
        )


def parse_metrics_label(said: str) -> tuple[str, int]:
    """Return the key of --metrics-label, and how many values have a series.  Raises ValueError."""
    from socketkeep._names._naming import is_fit

    key, mark, most = said.partition("=")
    if said and (not is_fit(key) or (mark and not (most.isdecimal() and 1 <= int(most) <= 1000))):
        raise ValueError(f"expected KEY or KEY=MOST, with 1 to 1000 values at most, got {said!r}")
    return key, int(most) if mark else 20


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Every option of a server, checked.  Durations are seconds, sizes are bytes.

    Plain types only, so that it travels to the template as msgpack.
    """

    target: Annotated[
        str,
        Option(
            TEXT,
            (),
            "The code that serves the connections: package.module:attribute or"
            " path/file.py:attribute, a function of one connection, sync or async, or a Service.",
            check=_check_target,
        ),
    ]
    factory: Annotated[
        bool,
        Option(FLAG, ("--factory",), "TARGET is called, without arguments, to get the handler."),
    ] = False
    asyncio: Annotated[
        bool,
        Option(
            FLAG,
            ("--asyncio",),
            "TARGET is a callback of asyncio.start_server: a function of a reader and a writer.",
        ),
    ] = False
    protocol: Annotated[
        bool,
        Option(
            FLAG,
            ("--protocol",),
            "TARGET is what asyncio's loop.create_server takes: a class of asyncio.Protocol or"
            " BufferedProtocol, or a function that makes one.",
        ),
    ] = False
    socketserver: Annotated[
        bool,
        Option(
            FLAG,
            ("--socketserver",),
            "TARGET is a handler class of the standard library's socketserver or http.server, or a"
            " server of them made with bind_and_activate=False.",
        ),
    ] = False
    asgi: Annotated[
        bool,
        Option(
            FLAG,
            ("--asgi",),
            "TARGET is an ASGI application, served by HTTP/1.1 (needs the extra asgi).  An async"
            " function, or object, of scope, receive and send is taken for one without it.",
        ),
    ] = False
    lifespan: Annotated[
        Lifespan,
        Option(
            TEXT,
            ("--lifespan",),
            "Whether an ASGI application has a lifespan: auto is yes, unless it raises when it is"
            " asked to; with on that is a failed start.",
            choices=("auto", "on", "off"),
            at_reload=True,
        ),
    ] = "auto"
    root_path: Annotated[
        str,
        Option(
            TEXT,
            ("--root-path",),
            "The path under which a proxy has an ASGI application, and which it cuts off, as /api.",
            metavar="PATH",
            check=_check_root_path,
            at_reload=True,
        ),
    ] = ""
    forwarded_allow_ips: Annotated[
        list[str],
        Option(
            NETWORKS,
            ("--forwarded-allow-ips",),
            "The networks of HTTP proxies whose X-Forwarded-For and X-Forwarded-Proto headers are"
            " believed; * for everyone, none for nobody.  Repeatable.  With any, whoever may"
            " connect to a Unix socket is believed, too.",
            metavar="CIDR,…",
            check=_check_forwarded_allow_ips,
            at_reload=True,
        ),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1", "::1"])
    date_header: Annotated[
        bool,
        Option(FLAG, ("--date-header",), "HTTP responses have a Date header.", at_reload=True),
    ] = True
    server_header: Annotated[
        bool,
        Option(FLAG, ("--server-header",), "HTTP responses have a Server header.", at_reload=True),
    ] = True
    request_log: Annotated[
        RequestLog,
        Option(
            TEXT,
            ("--request-log",),
            "Log each request of an ASGI application when it is over, in the common or the combined"
            " format of web servers; 499 stands for a client that went before the answer.",
            choices=("off", "common", "combined"),
            at_reload=True,
        ),
    ] = "off"
    request_log_file: Annotated[
        str,
        Option(
            PATH,
            ("--request-log-file",),
            "Append the log of requests to this file, opened anew when it was moved.  Default:"
            " standard output.",
            at_reload=True,
        ),
    ] = ""
    limit_request_head: Annotated[
        int,
        Option(
            SIZE,
            ("--limit-request-head",),
            "How large the head of an HTTP request may be, its line and its headers together;"
            " larger ones get 431.",
            minimum=256,
            at_reload=True,
        ),
    ] = 65536
    limit_request_fields: Annotated[
        int,
        Option(
            NUMBER,
            ("--limit-request-fields",),
            "How many headers an HTTP request may have; more get 431.",
            minimum=1,
            at_reload=True,
        ),
    ] = 100
    request_head_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--request-head-timeout",),
            "How long the head of an HTTP request may take from its first bytes on; then it gets"
            " 408.  How long a connection may be idle between requests is said by --idle-timeout.",
            minimum=0,
            zero="as long as it takes",
            at_reload=True,
        ),
    ] = 30.0
    request_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--request-timeout",),
            "How long an ASGI application may take until it begins to answer; then it is cancelled,"
            " and the client gets 503.",
            minimum=0,
            zero="as long as it takes",
            at_reload=True,
        ),
    ] = 0.0
    ws_resume: Annotated[
        WsResume,
        Option(
            TEXT,
            ("--ws-resume",),
            "Whether WebSockets of ASGI applications that know nothing of it go on, as --keep says."
            "  With on the next worker calls the application again, and swallows its accept.  In"
            " the old worker it receives websocket.disconnect with 1012; with silent it receives"
            " nothing.  With off they end with their worker, by a Close with 1012.  One that"
            " commits by the extension socketkeep is kept in any case.",
            choices=("off", "on", "silent"),
            at_reload=True,
        ),
    ] = "off"
    ws_redeliver: Annotated[
        bool,
        Option(
            FLAG,
            ("--ws-redeliver",),
            "With --keep crash: a WebSocket whose application commits has the message that its"
            " worker died with again, in the next worker, and an answer that goes out with its"
            " commit comes exactly once.  Received bytes stay in the kernel until then, those of"
            " HTTP requests too, which takes more time for each.",
            at_reload=True,
        ),
    ] = False
    ws_max_size: Annotated[
        int,
        Option(
            SIZE,
            ("--ws-max-size",),
            "How large a message of a WebSocket may be, uncompressed; a larger one ends it with"
            " 1009.",
            minimum=1,
            at_reload=True,
        ),
    ] = 16777216
    ws_ping_interval: Annotated[
        float,
        Option(
            DURATION,
            ("--ws-ping-interval",),
            "How often a WebSocket's peer is asked whether it is there.  Not while it is parked.",
            minimum=0,
            zero="never",
            at_reload=True,
        ),
    ] = 20.0
    ws_ping_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--ws-ping-timeout",),
            "How long it may take to answer; then the WebSocket is ended.",
            minimum=0,
            zero="as long as it takes",
            at_reload=True,
        ),
    ] = 20.0
    ws_per_message_deflate: Annotated[
        bool,
        Option(
            FLAG,
            ("--ws-per-message-deflate",),
            "WebSockets are compressed where the client can do it.",
            at_reload=True,
        ),
    ] = True
    ws_window_bits: Annotated[
        int,
        Option(
            NUMBER,
            ("--ws-window-bits",),
            "How much text, as a power of 2, a compressed message may refer to: 12 is 4 KiB in each"
            " direction, which goes along when the WebSocket moves.",
            minimum=9,
            check=_check_window_bits,
            at_reload=True,
        ),
    ] = 12
    ws_auto_response: Annotated[
        str,
        Option(
            TEXT,
            ("--ws-auto-response",),
            "A text message that is answered without the application, and its answer, as"
            " ping=pong: so it does not wake one that is parked.",
            metavar="REQUEST=RESPONSE",
            check=_check_auto_response,
            at_reload=True,
        ),
    ] = ""
    chdir: Annotated[
        str,
        Option(
            PATH,
            ("--chdir",),
            "Run in this directory, found anew by its name at each reload, so that a link to the"
            " current release is followed.  Relative paths are taken from it.  Default: the working"
            " directory, by the name that $PWD has for it.",
            metavar="DIR",
        ),
    ] = ""
    bind: Annotated[
        list[str],
        Option(
            LISTENERS,
            ("-b", "--bind"),
            "Listen here: host:port, [::1]:port, unix:/path or fd://N; port 0 takes a free one."
            " Repeatable. Options of this listener follow behind commas, as in :7000,proxy=on."
            " Sockets passed by systemd (LISTEN_FDS) are used without it.",
            metavar="ADDRESS[,NAME=VALUE…]",
            check=_check_bind,
        ),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.1:7000"])
    edges: Annotated[
        int,
        Option(
            NUMBER,
            ("--edges",),
            f"Number of edges, {MOST_EDGES} at most: the processes in which the TLS of listeners"
            " ends that have it (tls=).",
            minimum=1,
            check=_check_edges,
        ),
    ] = 1
    edge_drain: Annotated[
        float,
        Option(
            DURATION,
            ("--edge-drain",),
            "How long an edge serves the connections that it has once an upgrade has brought the"
            " next one; then they are reset.",
            minimum=0,
            zero="until they end",
            at_reload=True,
        ),
    ] = 0.0
    proxy_protocol: Annotated[
        ProxyProtocol,
        Option(
            TEXT,
            ("--proxy-protocol",),
            "Whether connections begin with a PROXY header, version 1 or 2, in which a proxy says"
            " who its client is; optional takes those without one as they are, once the client has"
            " spoken.  For every listener that does not say (proxy=).",
            choices=PROXY_PROTOCOL,
        ),
    ] = "off"
    proxy_from: Annotated[
        list[str],
        Option(
            NETWORKS,
            ("--proxy-from",),
            "The networks of proxies whose headers are believed; others are refused.  Repeatable."
            "  For every listener that does not say (proxy-from=).",
            metavar="CIDR,…",
            check=check_networks,
        ),
    ] = msgspec.field(default_factory=lambda: list(PROXY_FROM))
    model: Annotated[
        Model,
        Option(
            TEXT,
            ("-k", "--model"),
            "How a worker serves: fork (a process per connection), prefork (a process serves one"
            " connection after another), thread, async; auto is async for async handlers and"
            " fork for the others.",
            choices=("auto", "fork", "prefork", "thread", "async"),
            elsewhere=_worker_class,
        ),
    ] = "auto"
    workers: Annotated[
        int,
        Option(
            NUMBER,
            ("-w", "--workers"),
            f"Number of workers, {MOST_WORKERS} at most.",
            minimum=0,
            check=_check_workers,
            zero="the model's default (prefork 8, the others 1)",
            at_reload=True,
        ),
    ] = 0
    threads: Annotated[
        int,
        Option(
            NUMBER,
            ("--threads",),
            "Connections that a worker of the thread model serves at a time.  With no --model but"
            " auto it selects that model.",
            minimum=1,
            at_reload=True,
        ),
    ] = 64
    child_requests: Annotated[
        int,
        Option(
            NUMBER,
            ("--child-requests",),
            "Connections that a process of the fork model serves, one after another, before it"
            " ends; with more than 1 what a handler leaves behind in its process is there for the"
            " next connection.",
            minimum=1,
            at_reload=True,
        ),
    ] = 1
    spare: Annotated[
        int,
        Option(
            NUMBER,
            ("--spare",),
            "Processes of the fork model that each worker has wait for a connection, so that none"
            " is forked while a client waits.",
            minimum=0,
            check=_check_spare,
            at_reload=True,
        ),
    ] = 0
    fork_snapshot: Annotated[
        bool,
        Option(
            FLAG,
            ("--fork-snapshot",),
            "Each worker of the fork model maps a copy of its memory over itself, so that a fork"
            " copies no page tables of what nobody touches.  Not for code that has memory of the"
            " C library's heap or the interpreter back as zeros by MADV_DONTNEED; a worker that has"
            " threads, locked memory, another malloc than glibc's, or no compiled core, goes"
            " without.",
            at_reload=True,
        ),
    ] = False
    loop: Annotated[
        Loop,
        Option(
            TEXT,
            ("--loop",),
            "Event loop of the async model; auto is uvloop where it is installed.",
            choices=("auto", "asyncio", "uvloop"),
            at_reload=True,
        ),
    ] = "auto"
    keep: Annotated[
        Keep,
        Option(
            TEXT,
            ("--keep",),
            "How long connections of resumable handlers are kept: through reloads, upgrades and"
            " scaling down (reload), through the death of their worker too (crash), or not at all:"
            " they are drained (none).",
            choices=("none", "reload", "crash"),
        ),
    ] = "reload"
    keep_after: Annotated[
        float,
        Option(
            DURATION,
            ("--keep-after",),
            "How old a connection is when the keeper is given a handle of it (with --keep crash),"
            " so that short ones never cost that.",
            minimum=0,
            at_reload=True,
        ),
    ] = 0.05
    park_after: Annotated[
        str,
        Option(
            LIMIT,
            ("--park-after",),
            "How long a resumable handler waits for input before its connection is parked: watched"
            " by the keeper until bytes arrive.  auto: 0.2 s in prefork and thread, off in fork and"
            " async.",
            at_reload=True,
        ),
    ] = "auto"
    worker_timeout: Annotated[
        str,
        Option(
            LIMIT,
            ("--worker-timeout",),
            "How long a worker's loop may make no progress before the worker is killed.  auto: 30 s"
            " in async, off in the models whose handlers may rightly block.",
            at_reload=True,
        ),
    ] = "auto"
    poison_limit: Annotated[
        int,
        Option(
            NUMBER,
            ("--poison-limit",),
            "How many workers may die within 60 s in the middle of a message of one connection"
            " before it is taken for the cause and reset.",
            minimum=1,
            at_reload=True,
        ),
    ] = 3
    graceful_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--graceful-timeout",),
            "How long a stop or a drain may take, and how long connections that cannot be kept may"
            " go on after a reload.  Handlers have all of it but its last quarter, one second at"
            " most, in which what is left is closed; what still runs at its end is killed.",
            minimum=0,
            zero="at once",
            at_reload=True,
        ),
    ] = 30.0
    start_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--start-timeout",),
            "How long workers may take to become ready; a reload that takes longer is rolled back.",
            minimum=0,
            zero="no limit",
            at_reload=True,
        ),
    ] = 30.0
    idle_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--idle-timeout",),
            "Close a connection over which nothing has passed for so long.",
            minimum=0,
            zero="never",
            at_reload=True,
        ),
    ] = 0.0
    first_bytes_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--first-bytes-timeout",),
            "Close a connection from which nothing has come so long after it was accepted, be it"
            " parked or with its handler.  For every listener that does not say"
            " (first-bytes-timeout=).",
            minimum=0,
            zero="never",
            at_reload=True,
        ),
    ] = 0.0
    login_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--login-timeout",),
            "Close a connection so long after it was accepted, unless its handler has lifted that"
            " by conn.deadline = None: the time that a client has to log in.  For every listener"
            " that does not say (login-timeout=).",
            minimum=0,
            zero="never",
            at_reload=True,
        ),
    ] = 0.0
    orphan_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--orphan-timeout",),
            "How long a connection waits for a worker that takes it before it is closed.",
            minimum=0,
            zero="at once",
            at_reload=True,
        ),
    ] = 30.0
    max_connections: Annotated[
        int,
        Option(
            NUMBER,
            ("--max-connections",),
            "Serve at most so many connections at a time; others wait in the kernel's queue"
            " (see --backlog).",
            minimum=0,
            zero="no limit",
            at_reload=True,
        ),
    ] = 0
    max_per_address: Annotated[
        int,
        Option(
            NUMBER,
            ("--max-per-address",),
            "Serve at most so many connections of one address at a time, in all workers together;"
            " IPv6 addresses count by their /64, behind a proxy the client's address counts.  More"
            " are closed at once, see --over-limit.  For every listener that does not say"
            " (max-per-address=); the connections of those that have a limit are counted together.",
            minimum=0,
            zero="no limit",
            at_reload=True,
        ),
    ] = 0
    rebalance: Annotated[
        str,
        Option(
            RATE,
            ("--rebalance",),
            "How many idle connections a second may move to workers that have fewer, where the load"
            " is uneven by a quarter; `off`: none do, until `socketkeep rebalance`.  In `async` and"
            " `thread`, with a resumable handler.",
            at_reload=True,
        ),
    ] = "100:100"
    accept_rate: Annotated[
        str,
        Option(
            RATE,
            ("--accept-rate",),
            "Accept so many connections a second, in all workers together; after a pause BURST may"
            " come at once, by default those of one second.  Others wait in the"
            " kernel's queue (see --backlog).  For all listeners together that do not say"
            " (accept-rate=).",
            metavar="RATE[:BURST]",
        ),
    ] = "off"
    accept_rate_per_address: Annotated[
        str,
        Option(
            RATE,
            ("--accept-rate-per-address",),
            "Serve so many new connections a second of one address, counted as --max-per-address"
            " counts; after a pause BURST may come at once, by default those of one second.  Others"
            " are closed at once, see --over-limit.  For every listener that does not"
            " say (accept-rate-per-address=).",
            metavar="RATE[:BURST]",
            at_reload=True,
        ),
    ] = "off"
    receive_rate: Annotated[
        int,
        Option(
            SIZE,
            ("--receive-rate",),
            "Receive so many bytes a second of each connection; after a pause as many as in one"
            " second may come at once.  Faster bytes wait: the receive returns later, and once the"
            " system's buffers are full the client cannot send.  For every listener that"
            " does not say (receive-rate=).",
            minimum=0,
            zero="no limit",
            at_reload=True,
        ),
    ] = 0
    allow: Annotated[
        list[str],
        Option(
            NETWORKS,
            ("--allow",),
            "Serve connections from these networks alone, but for those of --deny.  Repeatable."
            "  For every listener that does not say (allow=).  Default: from everywhere.",
            metavar="CIDR,…",
            check=check_networks,
            at_reload=True,
        ),
    ] = []
    deny: Annotated[
        list[str],
        Option(
            NETWORKS,
            ("--deny",),
            "Serve no connection from these networks, whatever --allow says.  Repeatable.  For"
            " every listener that does not say (deny=).",
            metavar="CIDR,…",
            check=check_networks,
            at_reload=True,
        ),
    ] = []
    allow_file: Annotated[
        str,
        Option(
            PATH,
            ("--allow-file",),
            "More networks to serve connections from, at every listener: one a line, the rest"
            " behind a # is no matter.  Read anew by each reload, which fails, with everything as"
            " it was, if the file has a mistake.",
            at_reload=True,
        ),
    ] = ""
    deny_file: Annotated[
        str,
        Option(
            PATH,
            ("--deny-file",),
            "More networks to serve no connection from, as --allow-file has them.",
            at_reload=True,
        ),
    ] = ""
    over_limit: Annotated[
        OverLimit,
        Option(
            TEXT,
            ("--over-limit",),
            "How a connection is ended at once that is over a limit of its address, or denied:"
            " reset (RST, after which nothing of it is left in the system) or close (FIN).",
            choices=("reset", "close"),
            at_reload=True,
        ),
    ] = "reset"
    tcp_keepalive: Annotated[
        str,
        Option(
            KEEPALIVE,
            ("--tcp-keepalive",),
            "When the kernel asks a silent peer over TCP whether it is there: after how long, how"
            " often again, and after how many questions without an answer the connection is over,"
            " with its handler or parked.  With off it is as the code sets it.  For every listener"
            " that does not say (tcp-keepalive=).",
            metavar="IDLE:INTERVAL:COUNT",
            at_reload=True,
        ),
    ] = TCP_KEEPALIVE
    tcp_user_timeout: Annotated[
        float,
        Option(
            DURATION,
            ("--tcp-user-timeout",),
            "How long what was sent over TCP may be unacknowledged, or find no room at the peer,"
            " before the connection is over.  For every listener that does not say"
            " (tcp-user-timeout=).",
            minimum=0,
            zero="as the system has it, about 15 minutes",
            at_reload=True,
        ),
    ] = 0.0
    tcp_nodelay: Annotated[
        bool,
        Option(
            FLAG,
            ("--tcp-nodelay",),
            "Small sends over TCP go out at once; without it the kernel gathers them until what"
            " went before is acknowledged, if the code does not say otherwise.  For every listener"
            " that does not say (tcp-nodelay=).",
        ),
    ] = True
    tcp_fastopen: Annotated[
        int,
        Option(
            NUMBER,
            ("--tcp-fastopen",),
            "TCP Fast Open (RFC 7413): a client that was here before may send along with its first"
            " packet, so that its request comes a round trip earlier; so many may be in the middle"
            " of that at a time.  A packet that comes twice may be served twice.  It takes"
            " net.ipv4.tcp_fastopen=3.  For every listener that does not say (tcp-fastopen=).",
            minimum=0,
            zero="off",
            at_reload=True,
        ),
    ] = 0
    rcvbuf: Annotated[
        int,
        Option(
            SIZE,
            ("--rcvbuf",),
            "The kernel's receive buffer of each connection (SO_RCVBUF; net.core.rmem_max bounds"
            " it).  For every listener that does not say (rcvbuf=).",
            minimum=0,
            zero="it grows as needed",
        ),
    ] = 0
    sndbuf: Annotated[
        int,
        Option(
            SIZE,
            ("--sndbuf",),
            "The kernel's send buffer of each connection (SO_SNDBUF; net.core.wmem_max bounds it)."
            "  For every listener that does not say (sndbuf=).",
            minimum=0,
            zero="it grows as needed",
        ),
    ] = 0
    backlog: Annotated[
        int,
        Option(
            NUMBER,
            ("--backlog",),
            "Connections that the kernel queues for a listener; net.core.somaxconn bounds it.",
            minimum=1,
            at_reload=True,
        ),
    ] = 2048
    unix_mode: Annotated[
        str,
        Option(
            PERMISSIONS,
            ("--unix-mode",),
            "Permissions of the Unix sockets that are listened on, in octal.  The default lets"
            " every user connect, so that a proxy under another user can; the directory's"
            " permissions still hold.  For every listener that does not say (mode=).",
            metavar="OCTAL",
        ),
    ] = UNIX_MODE
    user: Annotated[
        str,
        Option(
            TEXT,
            ("--user",),
            "Serve as this user, a name or a number, with its supplementary groups.  Started as"
            " root, the server binds its addresses first; all that runs your code or reads what"
            " clients send is this user's.",
        ),
    ] = ""
    group: Annotated[
        str,
        Option(
            TEXT,
            ("--group",),
            "The group of --user, a name or a number, in place of the user's own.",
        ),
    ] = ""
    rebind: Annotated[
        bool,
        Option(
            FLAG,
            ("--rebind",),
            "With --user the keeper stays root, with few rights, so that it can make the files of"
            " sockets anew and read keys and lists that root alone may read; with --no-rebind it"
            " becomes that user, too.",
        ),
    ] = True
    umask: Annotated[
        str,
        Option(
            UMASK,
            ("--umask",),
            "The umask of what your code makes.  Default: as the server was started.",
            metavar="OCTAL",
            check=_check_umask,
        ),
    ] = ""
    worker_lifetime: Annotated[
        float,
        Option(
            DURATION,
            ("--worker-lifetime",),
            "Replace a worker that has lived so long; its connections move or are drained.",
            minimum=0,
            zero="never",
            at_reload=True,
        ),
    ] = 0.0
    worker_lifetime_jitter: Annotated[
        float,
        Option(
            DURATION,
            ("--worker-lifetime-jitter",),
            "Add a random part of this to each worker's lifetime, so that they are not all"
            " replaced at once.",
            minimum=0,
            zero="none",
            at_reload=True,
        ),
    ] = 0.0
    worker_max_rss: Annotated[
        int,
        Option(
            SIZE,
            ("--worker-max-rss",),
            "Replace a worker whose resident memory has grown past this.",
            minimum=0,
            zero="never",
            at_reload=True,
        ),
    ] = 0
    replay_limit: Annotated[
        int,
        Option(
            SIZE,
            ("--replay-limit",),
            "How much of what a connection has received since its last commit is retained, so"
            " that it can be moved in the middle of a message.",
            minimum=0,
            at_reload=True,
        ),
    ] = 65536
    name: Annotated[
        str,
        Option(
            TEXT,
            ("--name",),
            "The server's name, by which the other commands find it.  Default: made from TARGET.",
            check=_check_name,
        ),
    ] = ""
    control: Annotated[
        str,
        Option(
            PATH,
            ("--control",),
            "Path of the control socket.  Default: NAME.sock in $SOCKETKEEP_RUNTIME_DIR,"
            " $XDG_RUNTIME_DIR/socketkeep, /run/socketkeep (root) or /tmp/socketkeep-UID.",
            check=_check_control,
        ),
    ] = ""
    admin: Annotated[
        str,
        Option(
            TEXT,
            ("--admin",),
            "Show the server over HTTP at this host:port: a live page, /metrics for Prometheus,"
            " /healthz and /readyz; port 0 takes a free one (needs the extra admin).  Other than"
            " loopback addresses need a token.",
            metavar="ADDRESS",
            check=_check_admin,
        ),
    ] = ""
    agent_check: Annotated[
        str,
        Option(
            TEXT,
            ("--agent-check",),
            "Answer HAProxy's agent checks at this host:port: `up ready 75%`, by the seats that are"
            " free, and `drain` once the server is to end.  The answer is no secret, and anybody"
            " who reaches the address gets it.",
            metavar="ADDRESS",
            check=_check_admin,
        ),
    ] = ""
    admin_token: Annotated[
        str,
        Option(
            TEXT,
            ("--admin-token",),
            "Without this token there is no more than /healthz and /readyz.  Others on this"
            " machine see the command line: better set the variable, or give --admin-token-file.",
            metavar="TOKEN",
            check=_check_admin_token,
            secret=True,
        ),
    ] = ""
    admin_token_file: Annotated[
        str,
        Option(
            PATH,
            ("--admin-token-file",),
            "Read the token of --admin from this file, such as a systemd credential.",
        ),
    ] = ""
    metrics_label: Annotated[
        str,
        Option(
            TEXT,
            ("--metrics-label",),
            "Count connections by the values of this label of theirs in /metrics: KEY, or KEY=MOST"
            " for at most so many values (20); those of others are counted together.",
            metavar="KEY[=MOST]",
            check=parse_metrics_label,
            at_reload=True,
        ),
    ] = ""
    push_token: Annotated[
        str,
        Option(
            TEXT,
            ("--push-token",),
            "With this token one may push over the HTTP of --admin: POST /push/NAME and"
            " /publish/GROUP.  Better set the variable, or give --push-token-file.",
            metavar="TOKEN",
            check=_check_admin_token,
            secret=True,
        ),
    ] = ""
    push_token_file: Annotated[
        str,
        Option(
            PATH,
            ("--push-token-file",),
            "Read the token of pushes over HTTP from this file, such as a systemd credential.",
        ),
    ] = ""
    cluster: Annotated[
        str,
        Option(
            TEXT,
            ("--cluster",),
            "Join a cluster of servers, whose names and groups can be pushed to from each of them,"
            " over these NATS servers with JetStream (needs the extra cluster).  Others on this"
            " machine see the command line: give a password in the variable or the file.",
            metavar="nats://HOST:PORT[,…]",
            check=_check_cluster,
            secret=True,
        ),
    ] = ""
    cluster_name: Annotated[
        str,
        Option(
            TEXT,
            ("--cluster-name",),
            "The cluster's name: all that serve it serve one target.  Default: made from TARGET.",
            check=_check_cluster_name,
        ),
    ] = ""
    cluster_lease: Annotated[
        float,
        Option(
            DURATION,
            ("--cluster-lease",),
            "A node of which the brokers have heard nothing for so long has left: its names are"
            " gone.  The first node of a cluster decides.",
            minimum=2,
        ),
    ] = 10.0
    cluster_credentials: Annotated[
        str,
        Option(
            PATH,
            ("--cluster-credentials",),
            "Show the NATS servers the user of this file (.creds, or a seed of an NKey).",
        ),
    ] = ""
    cluster_ca: Annotated[
        str,
        Option(
            PATH,
            ("--cluster-ca",),
            "Trust the certificates of this file, and no others, for the NATS servers.",
        ),
    ] = ""
    cluster_certificate: Annotated[
        str,
        Option(
            PATH,
            ("--cluster-certificate",),
            "Show this certificate, with its chain, to the NATS servers.",
        ),
    ] = ""
    cluster_key: Annotated[
        str,
        Option(
            PATH,
            ("--cluster-key",),
            "The key of --cluster-certificate, where that file has none.",
        ),
    ] = ""
    adopt_from: Annotated[
        str,
        Option(
            PATH,
            ("--adopt-from",),
            "Take over the workers that another server's keeper left when it died: the path of its"
            " control socket.  Those of a keeper of the same name are found without it.",
        ),
    ] = ""
    guard: Annotated[
        str,
        Option(
            TEXT,
            ("--guard",),
            "Whether a guard holds what must outlive the keeper, and starts another one when it has"
            " died: on, off, or auto: where no service manager does (NOTIFY_SOCKET).  With"
            " unix:/PATH the guard that listens there (socketkeep guard), in another container,"
            " holds all that too.  At TERM the server then leaves listeners and connections to the"
            " next one.",
            metavar="auto|on|off|unix:/PATH",
            check=_check_guard,
        ),
    ] = "auto"
    guard_store: Annotated[
        int,
        Option(
            NUMBER,
            ("--guard-store",),
            "How many descriptors the guard may hold.",
            minimum=0,
            zero="as many as it may have open (ulimit -Hn)",
        ),
    ] = 0
    reload: Annotated[
        bool,
        Option(
            FLAG,
            ("--reload",),
            "Reload when the handler's source files change (needs the extra watchfiles).",
        ),
    ] = False
    log_level: Annotated[
        LogLevel,
        Option(
            TEXT,
            ("--log-level",),
            "Log events of this level and above.",
            choices=("debug", "info", "warning", "error"),
            at_reload=True,
        ),
    ] = "info"
    log_format: Annotated[
        LogFormat,
        Option(
            TEXT,
            ("--log-format",),
            "One line an event, for people or as JSON.",
            choices=("human", "json"),
            at_reload=True,
        ),
    ] = "human"
    log_file: Annotated[
        str,
        Option(
            PATH,
            ("--log-file",),
            "Append the log to this file, reopened on SIGUSR1.  Default: standard error.",
        ),
    ] = ""
    access_log: Annotated[
        bool,
        Option(
            FLAG,
            ("--access-log",),
            "Log each connection at its end: id, peer, duration, bytes, why it ended.",
            at_reload=True,
        ),
    ] = False
    connect_log: Annotated[
        bool,
        Option(
            FLAG,
            ("--connect-log",),
            "Log each connection when its handler is first called: id, peer, listener.",
            at_reload=True,
        ),
    ] = False


OPTIONS: Final[tuple[Option, ...]] = options_of(ServeConfig)


#: The options by topic, as the help and the page of options have them.
TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "Handler": ("target", "factory", "asyncio", "protocol", "socketserver", "chdir", "reload"),
    "Listeners": (
        *("bind", "backlog", "unix_mode", "proxy_protocol", "proxy_from"),
        *("edges", "edge_drain"),
    ),
    "Workers": (
        *("model", "workers", "threads", "child_requests", "spare", "fork_snapshot", "loop"),
        *("start_timeout", "graceful_timeout", "worker_timeout"),
        *("worker_lifetime", "worker_lifetime_jitter", "worker_max_rss"),
    ),
    "Keeping connections": (
        *("keep", "keep_after", "park_after", "replay_limit", "poison_limit", "orphan_timeout"),
        *("rebalance", "guard", "guard_store", "adopt_from"),
    ),
    "Limits and deadlines": (
        *("max_connections", "max_per_address", "accept_rate", "accept_rate_per_address"),
        *("receive_rate", "over_limit", "allow", "deny", "allow_file", "deny_file"),
        *("idle_timeout", "first_bytes_timeout", "login_timeout"),
    ),
    "TCP": (
        *("tcp_keepalive", "tcp_user_timeout", "tcp_nodelay", "tcp_fastopen", "rcvbuf", "sndbuf"),
    ),
    "HTTP": (
        *("asgi", "lifespan", "root_path", "forwarded_allow_ips", "date_header", "server_header"),
        *("request_log", "request_log_file", "limit_request_head", "limit_request_fields"),
        *("request_head_timeout", "request_timeout"),
    ),
    "WebSockets": (
        *("ws_resume", "ws_redeliver", "ws_max_size", "ws_ping_interval", "ws_ping_timeout"),
        *("ws_per_message_deflate", "ws_window_bits", "ws_auto_response"),
    ),
    "Rights": ("user", "group", "rebind", "umask"),
    "Control and metrics": (
        *("name", "control", "admin", "admin_token", "admin_token_file", "metrics_label"),
        *("push_token", "push_token_file", "agent_check"),
    ),
    "Cluster": (
        *("cluster", "cluster_name", "cluster_lease", "cluster_credentials", "cluster_ca"),
        *("cluster_certificate", "cluster_key"),
    ),
    "Log": ("log_level", "log_format", "log_file", "access_log", "connect_log"),
}


def by_topic() -> dict[str, list[Option]]:
    """Return the options by the title of their topic; those that have none come last."""
    topics = {title: [option(key) for key in keys] for title, keys in TOPICS.items()}
    told = {declared.key for found in topics.values() for declared in found}
    rest = [declared for declared in OPTIONS if declared.key not in told]
    return {**topics, "Others": rest} if rest else topics


def option(key: str) -> Option:
    """Return the option of that key; raises KeyError when there is none."""
    for declared in OPTIONS:
        if declared.key == key:
            return declared
    raise KeyError(key)


def bound_addresses(config: ServeConfig) -> list[str]:
    """Return what is listened on, as --bind has it, without the listeners' options."""
    return [parse_listener(text).address for text in config.bind]


def listener_settings(config: ServeConfig, listeners: int) -> list[ListenerSettings]:
    """Return the settings of so many listeners: those passed come first, then those of --bind."""
    bound = [parse_listener(text).given for text in config.bind]
    given = [*({} for _ in range(listeners - len(bound))), *bound]
    return [_settings(config, each) for each in given]


def _settings(config: ServeConfig, given: dict[str, Any]) -> ListenerSettings:
    values = {
        declared.name.replace("-", "_"): given.get(declared.name, getattr(config, declared.default))
        for declared in LISTENER_OPTIONS
        if declared.default
    }
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    owner = {key: given.get(key, "") for key in ("user", "group")}
    return ListenerSettings(
        **{**values, **lists, **owner},
        tls=tls_settings(given),
        accepts_alone="accept-rate" in given,
    )
